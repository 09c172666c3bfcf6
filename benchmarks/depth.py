"""Whether choose_depth finds the true number of layers of Gaussian latent trees.

    python benchmarks/depth.py                      # depths 1, 2 and 3, ten seeds each
    python benchmarks/depth.py --out depth.jsonl    # also a line for each run; resumes
    python benchmarks/depth.py --quick              # one seed each

54 variables; up to four layers are tried, of 18, 6, 2 and 1 latents, each of which explains a group
of variables of its own.  20,000 data, of which a quarter is held out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import pyro_corex as pc
from pyro_corex.datasets import layered
from pyro_corex.programs import GroupedDecoder, LearnedNormalLikelihood, mlp, mlp_encoder

SIZES = (54, 18, 6, 2, 1)


def make_layer(level: int) -> pc.Layer:
    """A linear encoder, and a decoder of one group for each latent."""
    below, here = SIZES[level - 1], SIZES[level]
    encoder = mlp_encoder([below, here]) if level == 1 else mlp([below, 2 * here])
    return pc.Layer(encoder, GroupedDecoder(here, below, scales=level > 1), here)


def run(depth: int, seed: int) -> dict[str, Any]:
    """One run; the data and the networks follow the seed."""
    data = layered(20_000, depth, seed=seed)
    torch.manual_seed(seed)
    start = time.perf_counter()
    found = pc.choose_depth(
        make_layer,
        data.x,
        max_depth=4,
        likelihood=LearnedNormalLikelihood(54),
        epochs=10,
        lr=1e-2,
        batch_size=256,
        seed=seed,
    )
    return {
        "true": depth,
        "seed": seed,
        "found": found.depth,
        "truth": data.total_correlation,
        "bound": found.trials[found.depth - 1].bound.estimate if found.depth else 0.0,
        "layers": [trial.contribution.estimate for trial in found.trials],
        "stderrs": [trial.contribution.stderr for trial in found.trials],
        "margins": [trial.margin for trial in found.trials],
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="append a JSON line for each run, and resume")
    parser.add_argument("--quick", action="store_true", help="one seed each")
    args = parser.parse_args()
    known: dict[tuple[int, int], dict[str, Any]] = {}
    if args.out and args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
        known = {(row["true"], row["seed"]): row for row in rows}
    print(f"{'true':>4} {'seed':>4} {'found':>5} {'TC(x)':>7} {'bound':>7} {'s':>5}  contributions")
    right: dict[int, list[bool]] = {}
    for seed in range(1 if args.quick else 10):
        for depth in (1, 2, 3):
            row = known.get((depth, seed)) or run(depth, seed)
            if args.out and (depth, seed) not in known:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            right.setdefault(depth, []).append(row["found"] == depth)
            shares = ", ".join(
                f"{value:.3f} ± {error:.3f}"
                for value, error in zip(row["layers"], row["stderrs"], strict=True)
            )
            print(
                f"{depth:>4} {seed:>4} {row['found']:>5} {row['truth']:>7.2f} {row['bound']:>7.2f} "
                f"{row['seconds']:>5.1f}  {shares}",
                flush=True,
            )
    for depth, results in right.items():
        print(f"depth {depth}: right in {sum(results)} of {len(results)} seeds")


if __name__ == "__main__":
    main()

"""Starts of the top of the MNIST stack without augmentation, and how they agree with the digits.

    python benchmarks/starts.py --data-root DIR --stages outputs/stacked_mnist --out starts.jsonl

Needs the trained first layers that benchmarks/stacked_mnist.py leaves in --stages.  For each seed
and way it appends a line to --out; what is there is skipped.  Labels are for scoring only.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from stacked_mnist import build, score

import pyro_corex as pc
from pyro_corex.datasets import mnist

REDRAWN = "20 components, merged by what redrawn pixels share"
# name -> the number of components, of starts, and what copies are made by
WAYS = {
    "10 components, best of 1 by likelihood": (10, 1, None),
    "10 components, best of 8 by likelihood": (10, 8, None),
    REDRAWN: (20, 4, torch.bernoulli),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of MNIST")
    parser.add_argument("--stages", type=Path, default=Path("outputs/stacked_mnist"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--out", type=Path, default=Path("starts.jsonl"))
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    data, test = mnist(args.data_root), mnist(args.data_root, train=False)
    for seed in args.seeds:
        for way, (components, starts, transform) in WAYS.items():
            if any((r["seed"], r["way"]) == (seed, way) for r in rows):
                continue
            stack = build("mnist")
            saved = torch.load(args.stages / f"mnist_first_{seed}.pt", weights_only=True)
            stack.load_state_dict(saved["state"])
            pc.start_top(
                stack, data.x if way == REDRAWN else torch.bernoulli(data.x), transform=transform,
                n_components=components, n_starts=starts, seed=seed,
            )  # fmt: skip
            rows.append({"seed": seed, "way": way, **score(stack, test)})
            with args.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| start | seeds | accuracy % | lowest |", "| --- | --- | --- | --- |"]
    for way in WAYS:
        found = [100 * float(str(r["accuracy"])) for r in rows if r["way"] == way]
        if len(found) > 1:
            spread = f"{statistics.fmean(found):.2f} ± {statistics.stdev(found):.2f}"
            lines.append(f"| {way} | {len(found)} | {spread} | {min(found):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

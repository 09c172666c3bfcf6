"""Accuracy and speed beside the alternatives: the small table of the README.

    python benchmarks/beside_others.py            # prints it, from the runs that are kept
    python benchmarks/beside_others.py --speed    # measures its last row anew, in a minute

The other rows are those of benchmarks/digits_seeds.py, stacked_mnist.py and tables.py, each a mean
over seeds and its standard deviation; docs/results has the runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "docs" / "results"
OURS, BY_HAND, PYROS = "fit", "PyTorch by hand", "SVI and TraceEnum_ELBO"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def digits() -> list[str]:
    kept = rows("stacked_digits")
    ours, k_means = ([100 * row[key] for row in kept] for key in ("accuracy", "k_means"))
    return [
        f"bundled digits without labels, accuracy, {len(kept)} seeds",
        f"{spread(ours)} %",
        f"{spread(k_means)} %, k-means",
    ]


def mnist() -> list[str]:
    ours = [100 * row["accuracy"] for row in rows("stacked_mnist") if row["variant"] == "all"]
    return [
        f"MNIST without labels, accuracy, {len(ours)} seeds",
        f"{spread(ours)} %, with augmentation",
        "85 %, the paper, which mentions none",
    ]


def linear() -> list[str]:
    wanted = {"d": 100, "m": 10, "groups": False}
    kept = [
        row["found"]
        for row in rows("tables")
        if row["section"] == "linear" and wanted.items() <= row["options"].items()
    ]
    ours, theirs = ([row[key] for row in kept] for key in ("tc_ratio", "linearcorex_tc_ratio"))
    return [
        f"TC of 100 normal columns on 10 factors, over the true one, {len(kept)} tables",
        spread(ours, 2),
        f"{spread(theirs, 2)}, LinearCorex",
    ]


def impute() -> list[str]:
    kept = [row["found"] for row in rows("tables") if row["section"] == "impute"]
    ours, iterative, knn = (
        statistics.fmean(row[key] for row in kept) for key in ("corex", "iterative", "knn")
    )
    return [
        "a fifth of a table imputed, error in standard deviations, mean of 5 tables",
        f"{ours:.2f}",
        f"{iterative:.2f}, IterativeImputer; {knn:.2f}, KNNImputer",
    ]


def speed() -> list[str]:
    told = rows("speed")[-1]
    hand, pyros = (
        statistics.median(a / b for a, b in zip(told[key], told[OURS], strict=True))
        for key in (BY_HAND, PYROS)
    )
    return [
        f"an epoch of the paper's MNIST network on {told['threads']} core, time over that of `fit`",
        "1",
        f"{hand:.2f}, {BY_HAND}; {pyros:.2f}, {PYROS}",
    ]


def table() -> str:
    lines = [["", "this library", "the alternative"], ["---"] * 3]
    lines += [digits(), mnist(), linear(), impute(), speed()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of the processor for an epoch, of contestants that take turns."""
    import training as t

    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, loss, shape, objective, batches = t.NETWORKS["stack"]
    first, x = make(), torch.bernoulli(torch.full((t.BATCH * batches, *shape), 0.5))
    contestants = {
        OURS: t.cpu_of_fit(copy.deepcopy(first), x),
        BY_HAND: t.by_hand(copy.deepcopy(first), loss, x, t.loaded, t.adam),
        PYROS: t.by_svi(copy.deepcopy(first), objective(), x, True),
    }
    about = {"threads": 1, "steps": batches, "torch": torch.__version__}
    return about | t.take_turns(contestants, rounds)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speed", action="store_true", help="measure the last row on this machine")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args(argv)
    if args.speed:
        with (RESULTS / "speed.jsonl").open("w") as file:
            file.write(json.dumps(measure(args.rounds)) + "\n")
    print(table())


if __name__ == "__main__":
    main()

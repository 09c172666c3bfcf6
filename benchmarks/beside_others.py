"""Accuracy and speed beside the alternatives: the small table of the README.

    python benchmarks/beside_others.py

The rows are those of benchmarks/digits_seeds.py, stacked_mnist.py and tables.py, each a mean over
seeds and its standard deviation, and of benchmarks/training.py; docs/results has the runs.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"


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
    ours = [100 * row["accuracy"] for row in rows("stacked_mnist") if row["variant"] == "bent"]
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
        f"TC found in 100 normal columns on 10 factors, divided by the true TC, {len(kept)} tables",
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
    told = [row for row in rows("epochs") if row["title"].startswith("stack")]
    seconds = {row["name"]: row["seconds"] for row in told}
    hand, pyros = (
        statistics.median(a / b for a, b in zip(seconds[other], seconds["fit"], strict=True))
        for other in ("PyTorch by hand", "TraceEnum_ELBO, SVI")
    )
    return [
        f"an epoch of the paper's MNIST network on {told[0]['threads']} core, time divided by that "
        "of `fit`",
        "1",
        f"{hand:.2f}, PyTorch by hand; {pyros:.2f}, SVI and TraceEnum_ELBO",
    ]


def table() -> str:
    lines = [["", "this library", "the alternative"], ["---"] * 3]
    lines += [digits(), mnist(), linear(), impute(), speed()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())

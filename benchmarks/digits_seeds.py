"""The bundled digits over many seeds: examples/stacked_digits.py, a line of JSON for each.

    python benchmarks/digits_seeds.py --seeds 20-29 --out docs/results/stacked_digits.jsonl
    python benchmarks/digits_seeds.py --table --out docs/results/stacked_digits.jsonl

A seed that is there is skipped.  Labels are for scoring only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyro_corex as pc
from pyro_corex.evaluation import cluster_accuracy

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import stacked_digits as example


def run(seed: int, **options: Any) -> dict[str, Any]:
    task, folder = example.bundled(), options.get("folder")
    went_on = folder is not None and folder.exists()
    begin, cpu = time.perf_counter(), time.process_time()
    stack = example.train(task, seed, "cpu", progress=False, **options)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    bound = pc.tc_bound(stack, task.held_out)
    found, labels, n = example.classes(stack, task), task.scored.labels, len(task.train)
    return {
        "seed": seed,
        "accuracy": cluster_accuracy(labels, found),
        "held_out": cluster_accuracy(labels[n:], found[n:]),
        "k_means": cluster_accuracy(labels, example.k_means(task, seed)),
        "tc_bound": [bound.estimate, bound.stderr],
        "layers": [[layer.estimate, layer.stderr] for layer in bound.layers],
        "seconds": None if went_on else seconds,
        "cpu": None if went_on else cpu,  # of all its threads
    }


def table(rows: list[dict[str, Any]]) -> str:
    def cell(values: list[float], digits: int = 1, scale: float = 1.0) -> list[str]:
        values = [scale * value for value in values]
        sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return [f"{statistics.fmean(values):.{digits}f}{sd}", f"{min(values):.{digits}f}"]

    accuracy, k_means = ([row[key] for row in rows] for key in ("accuracy", "k_means"))
    held_out, seconds = ([row[key] for row in rows] for key in ("held_out", "cpu"))
    seconds = [value for value in seconds if value is not None]
    bound = [row["tc_bound"][0] for row in rows]
    n = str(len(rows))
    lines = [
        ["", "seeds", "accuracy %", "lowest", "of the held-out %", "TC(x) ≥, nats", "CPU seconds"],
        ["---"] * 7,
        [
            "the stack",
            n,
            *cell(accuracy, scale=100),
            cell(held_out, scale=100)[0],
            cell(bound)[0],
            cell(seconds, 0)[0] if seconds else "",
        ],
        ["k-means", n, *cell(k_means, scale=100), "", "", ""],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="20-29", help="e.g. 3 or 20-29")
    parser.add_argument("--out", type=Path, default=Path("digits_seeds.jsonl"))
    parser.add_argument("--stages", type=Path, help="keep stages here, and go on from them")
    parser.add_argument("--table", action="store_true", help="print the table of --out and stop")
    args = parser.parse_args(argv)
    if args.table and not args.out.exists():
        parser.error(f"--table prints what --out holds, but there is no file {args.out}")
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    rows = [json.loads(line) for line in lines]
    low, _, high = args.seeds.partition("-")
    wanted = [] if args.table else range(int(low), int(high or low) + 1)
    for seed in wanted:
        if seed not in {row["seed"] for row in rows}:
            folder = args.stages and args.stages / str(seed)
            rows.append(run(seed, folder=folder))
            with args.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(sorted(rows, key=lambda row: row["seed"])))


if __name__ == "__main__":
    main()

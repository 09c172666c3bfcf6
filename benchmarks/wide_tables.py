"""What columns and rows cost `CorEx` for tables: one JSON line for each run.

``python benchmarks/wide_tables.py continuous varying binary rows survey`` adds the runs that the
file does not have yet, each in a process of its own; ``--most 2000`` leaves out tables with more
columns; ``--table`` prints what the file has.  LinearCorex 0.53 (PyPI) is compared with where it is
installed.  Seconds are those of the processor, on one thread.  Peak memory is what the process has
at most, less what it holds before ``fit``, when all is loaded and a small table has been fitted;
the table itself counts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln

from pyro_corex import CorEx
from pyro_corex.datasets import linear_gaussian

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.estimator.tables import same_groups, survey  # noqa: E402

LATENTS, FLIP = 20, 0.1
PLAN: dict[str, list[dict[str, int]]] = {
    "continuous": [{"n": 200, "d": d} for d in (500, 1000, 2000, 4000, 10_000, 20_000)],
    "varying": [{"n": 200, "d": d} for d in (500, 1000, 2000, 5000, 10_000, 20_000)],
    "binary": [{"n": 200, "d": d} for d in (500, 1000, 2000, 5000)],
    "rows": [{"n": n, "d": 200} for n in (25_000, 50_000, 100_000)],
    "survey": [{"n": 2000, "d": 50}],
}


def copies(n: int, d: int, seed: int) -> tuple[Any, float]:
    """Columns that copy one of the hidden coins, but for a tenth of the entries; and their TC."""
    rng = np.random.default_rng(seed)
    size = d // LATENTS
    z = rng.integers(2, size=(n, LATENTS))
    x = z.repeat(size, 1) ^ (rng.random((n, size * LATENTS)) < FLIP)
    k = np.arange(size + 1)  # so many ones in a group
    kept, flipped = math.log1p(-FLIP), math.log(FLIP)
    ln_p = np.logaddexp(k * flipped + (size - k) * kept, k * kept + (size - k) * flipped)
    ln_p -= math.log(2)
    ways = gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
    entropy = -(np.exp(ways + ln_p) * ln_p).sum()
    return x.astype(float), float(LATENTS * (size * math.log(2) - entropy))


def varying(n: int, d: int, seed: int) -> tuple[Any, float]:
    """Columns that load on one latent each, by 0.3 to 0.9 or minus that; and their TC."""
    rng = np.random.default_rng(seed)
    group = np.arange(d) % LATENTS
    w = rng.uniform(0.3, 0.9, d) * rng.choice([-1.0, 1.0], d)
    noise = 1 - w**2
    z = rng.standard_normal((n, LATENTS))
    x = z[:, group] * w + np.sqrt(noise) * rng.standard_normal((n, d))
    told = np.log1p(np.bincount(group, w**2 / noise)).sum()  # ln of det cov, less the noise's
    return x, float(-0.5 * (np.log(noise).sum() + told))


def table_of(section: str, n: int, d: int, seed: int) -> tuple[Any, float | None, Any]:
    """A table, its TC and the group of each column."""
    if section == "survey":
        answers, trait = survey(n, 5, d // 5, seed, 0.0)
        return answers, None, trait
    if section == "binary":
        x, tc = copies(n, d, seed)
        return x, tc, np.arange(LATENTS).repeat(d // LATENTS)
    if section == "varying":
        return *varying(n, d, seed), np.arange(d) % LATENTS
    data = linear_gaussian(n, d, LATENTS, groups=True, seed=seed)
    return data.x.double().numpy(), data.total_correlation, np.arange(d) % LATENTS


def most_memory() -> int:
    """The most bytes that this process has held since it was last asked to forget."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM")))


def one(section: str, n: int, d: int, seed: int) -> dict[str, Any]:
    """The fit of a table, timed on the processor's clock."""
    options: dict[str, Any] = {"random_state": 0}
    if section == "binary":
        options["latent"] = "categorical"
    m = 5 if section == "survey" else LATENTS
    CorEx(3, **options).fit(table_of(section, 50, 60, seed)[0])  # so that all modules are loaded
    x, tc, groups = table_of(section, n, d, seed)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = most_memory(), time.process_time()
    corex = CorEx(m, **options).fit(x)
    found = {
        "seconds": time.process_time() - start,
        "peak_over_data": 1 + (most_memory() - before) / x.nbytes,
        "groups_right": same_groups(corex.clusters_, groups),
    }
    if tc is not None:
        found |= {"tc_ratio": corex.tc_ / tc, "stderr_ratio": corex.tc_stderr_ / tc}
    if section not in ("continuous", "varying", "rows"):
        return found
    try:
        from linearcorex import Corex
    except ImportError:
        return found
    start = time.process_time()
    other = Corex(n_hidden=m, seed=0).fit(x)
    seconds = time.process_time() - start
    return found | {"linearcorex_seconds": seconds, "linearcorex_tc_ratio": float(other.tc) / tc}


HEADS = {
    "seconds": "seconds",
    "doubling": "for twice as many",
    "linearcorex_seconds": "LinearCorex's",
    "tc_ratio": "`tc_` / TC",
    "stderr_ratio": "its error",
    "linearcorex_tc_ratio": "LinearCorex's",
    "groups_right": "groups exact",
    "peak_over_data": "peak memory / data",
}


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, a line for each size: means over runs."""
    lines = [["kind", "rows", "columns", "runs", *HEADS.values()], ["---"] * (len(HEADS) + 4)]
    for section, sizes in PLAN.items():
        last: tuple[int, float] | None = None
        for size in sizes:
            own = [
                r["found"]
                for r in records
                if r["section"] == section and size.items() <= r["options"].items()
            ]
            if not own:
                continue
            mean: dict[str, Any] = {
                key: np.mean([found[key] for found in own]) for key in own[0] if key in HEADS
            }
            mean["groups_right"] = f"{sum(f['groups_right'] for f in own)} of {len(own)}"
            cells = size["n"] * size["d"]
            if last is not None:
                power = math.log(mean["seconds"] / last[1]) / math.log(cells / last[0])
                mean["doubling"] = 2**power
            last = cells, mean["seconds"]
            shown = [cell(mean.get(key)) for key in HEADS]
            lines.append([section, str(size["n"]), str(size["d"]), str(len(own)), *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(PLAN))
    parser.add_argument("--output", type=Path, default=Path("outputs/wide_tables.jsonl"))
    parser.add_argument("--most", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table and not args.output.exists():
        parser.error(f"--table prints what --output holds, but there is no file {args.output}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.one:
        print(json.dumps(one(**args.one)))
        return
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.touch()
    records = [json.loads(line) for line in args.output.read_text().splitlines()]
    plan = [(s, {**each, "seed": k}) for s in args.sections for k in range(args.seeds)
            for each in PLAN[s] if each["d"] <= args.most]  # fmt: skip
    for section, options in plan:
        if any(r["section"] == section and r["options"] == options for r in records):
            continue
        told = json.dumps({"section": section, **options})
        command = [sys.executable, __file__, "--one", told]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
        records.append({"section": section, "options": options, "found": found})
        with args.output.open("a") as file:
            file.write(json.dumps(records[-1]) + "\n")
    if args.table:
        print(table(records))


if __name__ == "__main__":
    main()

"""What `CorEx` for tables does on tables whose truth is known: one JSON line for each run.

``python benchmarks/tables.py linear discrete survey impute rows`` adds the runs that the file does
not have yet; ``--table`` prints what it has.  LinearCorex 0.53 (PyPI) is compared with where it is
installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_corex import CorEx
from pyro_corex.datasets import linear_gaussian

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.estimator.tables import (  # noqa: E402
    erased_copies,
    erased_tc,
    same_groups,
    survey,
)


def clock() -> float:
    """Seconds of this process on all cores, which other processes do not lengthen."""
    return time.process_time()


def linear(d: int, m: int, groups: bool, seed: int) -> dict[str, Any]:
    data = linear_gaussian(max(2000, 20 * d), d, m, groups=groups, seed=seed)
    x = data.x.double().numpy()
    start = clock()
    corex = CorEx(m, random_state=0).fit(x)
    record = {
        "tc_ratio": corex.tc_ / data.total_correlation,
        "groups_right": same_groups(corex.clusters_, np.arange(d) % m) if groups else None,
        "seconds": clock() - start,
    }
    try:
        from linearcorex import Corex
    except ImportError:
        return record
    start = clock()
    other = Corex(n_hidden=m, seed=0).fit(x)
    return record | {
        "linearcorex_tc_ratio": float(other.tc) / data.total_correlation,
        "linearcorex_seconds": clock() - start,
    }


def discrete(
    size: int, states: int, n: int, missing: float, erasure: float, seed: int
) -> dict[str, Any]:
    x, hidden = erased_copies(n, 4, size, states, erasure, seed)
    known = (x < states).reshape(n, 4, size)
    holes = np.random.default_rng(seed + 1).random(x.shape) < missing
    x[holes] = np.nan
    known &= ~holes.reshape(n, 4, size)
    start = clock()
    corex = CorEx(4, latent="categorical", n_states=states, random_state=0).fit(x)
    seconds = clock() - start
    right = same_groups(corex.clusters_, np.arange(4).repeat(size))
    one_to_one = right
    if right:
        for cause in range(4):
            rows = known[:, cause].any(1)
            labels = corex.labels_[rows, corex.clusters_[cause * size]]
            one_to_one &= same_groups(labels, hidden[rows, cause])
    truth = erased_tc(size, states, erasure)
    off = np.abs(corex.tcs_ - truth)
    return {
        "groups_right": right,
        "states_right": bool(one_to_one),
        "worst_tcs_error": float(off.max() / truth),
        "worst_best_error": float(np.abs(likeliest_tcs(x, size, states) / truth - 1).max()),
        "covered": float((off < 1.96 * corex.tcs_stderr_).mean()),
        "seconds": seconds,
    }


def likeliest_tcs(x: Any, size: int, states: int) -> Any:
    """The maximum-likelihood TC of erased copies for who knows that they are, and their groups.

    Unknown are the probabilities of the states, and for each column that of an erasure.  The former
    are told by rows that show the state, the latter by the erased share of what is observed.
    """
    found = []
    for own in np.split(x, x.shape[1] // size, axis=1):
        erased = np.nanmean(np.where(np.isnan(own), np.nan, own == states), axis=0)
        shown = np.where(own < states, own, -1).max(1)
        p = np.bincount(shown[shown >= 0].astype(int)) / (shown >= 0).sum()
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        found.append(entropy * ((1 - erased).sum() - (1 - erased.prod())))
    return np.array(found)


def questions(acquiescence: float, seed: int) -> dict[str, Any]:
    from scipy.optimize import linear_sum_assignment

    answers, trait = survey(2000, 5, 10, seed, acquiescence)
    start = clock()
    corex = CorEx(5, random_state=0).fit(answers)
    seconds = clock() - start
    table = np.zeros((5, 5))
    np.add.at(table, (trait, corex.clusters_), 1)
    return {
        "right_of_50": int(table[linear_sum_assignment(-table)].sum()),
        "style_tc": corex.style_tc_,
        "seconds": seconds,
    }


def impute(name: str, seed: int) -> dict[str, Any]:
    """Root mean square error of filled entries, in standard deviations of their columns."""
    from sklearn import datasets
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    x = np.asarray(getattr(datasets, f"load_{name}")().data, dtype=float)
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0)
    holes = np.random.default_rng(seed).random(x.shape) < 0.2
    holes[:, (~holes).sum(0) < 3] = False
    gone = np.where(holes, np.nan, x)

    def error(filled: Any) -> float:
        return float(np.sqrt(np.mean((np.asarray(filled) - x)[holes] ** 2)))

    start = clock()
    corex = CorEx("auto", random_state=0).fit(gone)
    record = {"n_hidden": corex.n_hidden_, "corex": error(corex.impute(gone, how="mean"))}
    record["seconds"] = clock() - start
    record["iterative"] = error(IterativeImputer(random_state=0).fit_transform(gone))
    record["knn"] = error(KNNImputer().fit_transform(gone))
    return record


def rows(n: int, seed: int) -> dict[str, Any]:
    """One pass over many rows, and the most memory that it took beyond the data's."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 5), dtype=np.float32)
    x = np.empty((n, 50), dtype=np.float32)
    for i in range(50):
        x[:, i] = np.digitize(z[:, i % 5] + rng.standard_normal(n, dtype=np.float32), [-1, 0, 1])
    CorEx(5, max_iter=1, random_state=0).fit(x[:1000])  # so that all modules are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start, wall = clock(), time.perf_counter()
    corex = CorEx(5, max_iter=1, random_state=0).fit(x)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": clock() - start,
        "wall_seconds": time.perf_counter() - wall,
        "peak_over_data": 1 + (after - before) / x.nbytes,
        "groups_right": same_groups(corex.clusters_, np.arange(50) % 5),
    }


def grid(**options: Any) -> list[dict[str, Any]]:
    """All combinations of options, the last of which varies fastest."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


def plan(section: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    sizes = [{"d": d, "m": m} for d, m in ((50, 5), (100, 10), (200, 10), (500, 20))]
    names = ("iris", "wine", "diabetes", "breast_cancer", "linnerud")
    plans: dict[str, tuple[Any, list[dict[str, Any]]]] = {
        "linear": (
            linear,
            [
                {**each["size"], "groups": each["groups"], "seed": each["seed"]}
                for each in grid(seed=range(3), size=sizes, groups=(True, False))
            ],
        ),
        "discrete": (
            discrete,
            grid(
                seed=range(3), size=(2, 5, 20), states=(2, 3, 4), n=(100, 1000, 10_000),
                missing=(0.0, 0.3), erasure=(0.1, 0.5),
            ),
        ),
        "survey": (questions, grid(seed=range(10), acquiescence=(0.0, 0.15, 0.3, 0.5))),
        "impute": (impute, grid(seed=range(3), name=names)),
        "rows": (rows, grid(n=(100_000, 1_000_000), seed=(0,))),
    }  # fmt: skip
    run, options = plans[section]
    return ((run, each) for each in options)


SECTIONS = ("linear", "discrete", "survey", "impute", "rows")


# section -> what its runs are grouped by, and its columns: field -> label
COLUMNS: dict[str, tuple[list[str], dict[str, str]]] = {
    "linear": (
        ["d", "m", "groups"],
        {
            "tc_ratio": "`tc_` / TC",
            "linearcorex_tc_ratio": "LinearCorex's",
            "time_ratio": "time / LinearCorex's",
            "groups_right": "groups exact",
        },
    ),
    "discrete": (
        ["size", "n", "missing", "erasure"],
        {
            "groups_right": "groups exact",
            "states_right": "states one to one",
            "close": "`tcs_` within 10 %",
            "best_close": "oracle",
            "worst_tcs_error": "error of `tcs_`",
            "worst_best_error": "oracle",
            "covered": "truth within ± 1.96 se",
        },
    ),
    "survey": (
        ["acquiescence"],
        {"right_of_50": "questions right, of 50", "seconds": "seconds"},
    ),
    "impute": (
        ["name"],
        {"corex": "CorEx", "iterative": "IterativeImputer", "knn": "KNNImputer"},
    ),
    "rows": (
        ["n"],
        {"seconds": "seconds", "wall_seconds": "wall", "peak_over_data": "peak memory / data"},
    ),
}


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: means ± standard deviations over runs; of what is true or false, the number."""
    tables = []
    for section, (keys, columns) in COLUMNS.items():
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for record in (r for r in records if r["section"] == section):
            found = dict(record["found"])
            if "linearcorex_seconds" in found:
                found["time_ratio"] = found["seconds"] / found["linearcorex_seconds"]
            if "worst_tcs_error" in found:
                found["close"] = found["worst_tcs_error"] <= 0.1
                found["best_close"] = found["worst_best_error"] <= 0.1
            groups.setdefault(tuple(record["options"][k] for k in keys), []).append(found)
        lines = [" | ".join([*keys, "runs", *columns.values()])]
        lines.append(" | ".join(["---"] * (len(keys) + 1 + len(columns))))
        for key in sorted(groups):
            cells = [cell([f.get(name) for f in groups[key]]) for name in columns]
            lines.append(" | ".join([*map(str, key), str(len(groups[key])), *cells]))
        tables.append("\n".join(f"| {line} |" for line in lines))
    return "\n\n".join(tables)


def cell(values: list[Any]) -> str:
    found = [v for v in values if v is not None]
    if not found:
        return ""
    if all(isinstance(v, bool) for v in found):
        return f"{sum(found)} of {len(found)}"
    spread = f" ± {np.std(found, ddof=1):.2g}" if len(found) > 1 else ""
    return f"{np.mean(found):.3g}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--output", type=Path, default=Path("outputs/tables.jsonl"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table and not args.output.exists():
        parser.error(f"--table prints what --output holds, but there is no file {args.output}")
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.touch()
    records = [json.loads(line) for line in args.output.read_text().splitlines()]
    done = {json.dumps([r["section"], r["options"]], sort_keys=True) for r in records}
    for section in args.sections:
        for run, options in plan(section):
            if json.dumps([section, options], sort_keys=True) in done:
                continue
            record = {"section": section, "options": options, "found": run(**options)}
            records.append(record)
            with args.output.open("a") as file:
                file.write(json.dumps(record) + "\n")
    if args.table:
        print(table(records))


if __name__ == "__main__":
    main()

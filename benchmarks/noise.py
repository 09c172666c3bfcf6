"""Tables without any dependence: is something found in them?  One JSON line for each table.

    python benchmarks/noise.py --out noise.jsonl            # about half an hour on one core
    python benchmarks/noise.py --out noise.jsonl --table    # what is there so far

Each situation has 20 tables of its own.  Each is fitted with a number of latents that is given, and
with "auto"; where training has no closed form, with 25 epochs.  What is there already is not run
again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pyro_corex import CorEx

SEEDS = 20
ERRORS = 2.0


class Situation(NamedTuple):
    """A kind of noise, its shape, and how it is fitted."""

    kind: str
    n: int
    d: int
    n_hidden: int
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def name(self) -> str:
        latent = self.options.get("latent", "gaussian")
        states = f" of {self.options['n_states']} states" if "n_states" in self.options else ""
        return f"{self.n} x {self.d} {self.kind}, {self.n_hidden} {latent}{states}"


Random = np.random.Generator
KINDS: dict[str, Callable[[Random, int, int], Any]] = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "binary": lambda rng, n, d: rng.random((n, d)) < rng.uniform(0.2, 0.8, d),
    "ordinal": lambda rng, n, d: np.digitize(
        rng.standard_normal((n, d)) + rng.normal(0, 0.5, d), [-1, 0, 1]
    ),
    "counts": lambda rng, n, d: rng.negative_binomial(3, 3 / (3 + rng.uniform(5, 25, d)), (n, d)),
    "words": lambda rng, n, d: rng.integers(5, size=(n, d)),
    "heavy-tailed": lambda rng, n, d: rng.standard_t(2, (n, d)),
    "skewed": lambda rng, n, d: np.exp(rng.standard_normal((n, d)) + rng.normal(5, 1, d)),
    "mixed": lambda rng, n, d: np.column_stack(
        [KINDS[kind](rng, n, d // 4) for kind in ("normal", "binary", "ordinal", "skewed")]
    ),
    "30 % missing": lambda rng, n, d: np.where(
        rng.random((n, d)) < 0.3, np.nan, rng.standard_normal((n, d))
    ),
    "ordinal, 20 % missing": lambda rng, n, d: np.where(
        rng.random((n, d)) < 0.2, np.nan, KINDS["ordinal"](rng, n, d)
    ),
}
STEPS = {"max_iter": 25}
CATEGORICAL = {"latent": "categorical"}
SITUATIONS = [
    Situation("normal", 60, 200, 5),
    Situation("normal", 100, 20, 5),
    Situation("normal", 300, 20, 5),
    Situation("normal", 3, 5, 2),
    Situation("normal", 12, 4, 1),
    Situation("normal", 2000, 6, 2),
    Situation("30 % missing", 100, 20, 3),
    Situation("heavy-tailed", 200, 15, 3),
    Situation("skewed", 80, 100, 5),
    Situation("binary", 200, 20, 3, STEPS),
    Situation("ordinal", 150, 12, 2, STEPS),
    Situation("ordinal, 20 % missing", 150, 10, 2, STEPS),
    Situation("counts", 150, 10, 2, STEPS),
    Situation("words", 200, 6, 2, {"kinds": "categorical", **STEPS}),
    Situation("mixed", 150, 12, 2, STEPS),
    Situation("binary", 100, 20, 4, CATEGORICAL),
    Situation("binary", 60, 100, 3, CATEGORICAL),
    Situation("words", 200, 10, 3, {"kinds": "categorical", "n_states": 3, **CATEGORICAL}),
    Situation("normal", 100, 12, 3, CATEGORICAL),
]


def look(situation: Situation, seed: int) -> dict[str, Any]:
    """What is found in one table."""
    rng = np.random.default_rng([seed, situation.n, situation.d])
    x = np.asarray(KINDS[situation.kind](rng, situation.n, situation.d), dtype=float)
    record: dict[str, Any] = {"situation": situation.name, "seed": seed}
    for name, m in (("given", situation.n_hidden), ("auto", "auto")):
        start = time.process_time()
        corex = CorEx(m, random_state=seed, **situation.options).fit(x)
        record[name] = {
            "tc": corex.tc_,
            "stderr": min(corex.tc_stderr_, 1e9),
            "in_clusters": int((corex.clusters_ >= 0).sum()),
            "n_hidden": corex.n_hidden_,
            "seconds": time.process_time() - start,
        }
    return record


def is_found(shown: dict[str, Any]) -> bool:
    """Whether more than nothing is claimed."""
    return bool(shown["tc"] > ERRORS * shown["stderr"])


def found_by_auto(shown: dict[str, Any]) -> bool:
    """Whether "auto" says that there is anything: several latents, a column of one, or a bound."""
    return shown["n_hidden"] > 1 or shown["in_clusters"] > 0 or is_found(shown)


def run(out: Path, seeds: int, only: str) -> list[dict[str, Any]]:
    """Adds the rows that the file does not have yet; and gives all."""
    warnings.simplefilter("ignore")
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    there = {(row["situation"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for situation in SITUATIONS:
            if only in situation.name and (situation.name, seed) not in there:
                rows.append(look(situation, seed))
                with out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each situation."""
    lines = [
        "| noise | tables | mean of `tc_` | more than 2 errors above 0 | columns in clusters "
        '| "auto" finds something |',
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for situation in SITUATIONS:
        own = [row for row in rows if row["situation"] == situation.name]
        if not own:
            continue
        given, auto = ([row[name] for row in own] for name in ("given", "auto"))
        lines.append(
            f"| {situation.name} | {len(own)} | {np.mean([g['tc'] for g in given]):.3f} "
            f"| {sum(map(is_found, given))} "
            f"| {np.mean([g['in_clusters'] for g in given]) / situation.d:.1%} "
            f"| {sum(map(found_by_auto, auto))} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", default="", help="a part of the situation's name")
    parser.add_argument("--table", action="store_true", help="print what is there")
    a = parser.parse_args()
    if a.table:
        print(table([json.loads(line) for line in a.out.read_text().splitlines()]))
    else:
        run(a.out, a.seeds, a.only)


if __name__ == "__main__":
    main()

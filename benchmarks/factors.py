"""Loadings, factor correlations and scores on traits that correlate: one JSON line for each run.

``python benchmarks/factors.py --out outputs/factors.jsonl`` adds the runs that the file does not
have yet; ``--table`` prints what it has.  factor_analyzer 0.5 (PyPI; maximum likelihood, oblimin)
is compared with where it is installed.

Four traits have six questions each, two of them reversed, with loadings from 0.55 to 0.8.  Each
answer is continuous, or one of five levels, cut where people rarely agree with the extremes.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from pyro_corex import CorEx

TRAITS, EACH, SEEDS = 4, 6, 5
CUTS = [-1.5, -0.5, 0.5, 1.5]
COLUMNS = {
    "phi": "error of factor correlations",
    "phi_bias": "their bias",
    "loadings": "error of loadings",
    "scores": "scores / best linear",
}


def answers(
    n: int, phi: float, levels: bool, seed: int, new: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Answers, traits, loadings and correlations of the traits.

    :param new: another number draws other people, who answer the same questions.
    """
    corr = np.full((TRAITS, TRAITS), phi) + (1 - phi) * np.eye(TRAITS)
    rng = np.random.default_rng(seed)
    loadings = np.zeros((TRAITS * EACH, TRAITS))
    for j in range(TRAITS):
        reversed_ = np.where(np.arange(EACH) < 2, -1, 1)
        loadings[j * EACH : (j + 1) * EACH, j] = rng.uniform(0.55, 0.8, EACH) * reversed_
    rng = np.random.default_rng((seed, new))
    traits = rng.standard_normal((n, TRAITS)) @ np.linalg.cholesky(corr).T
    noise = np.sqrt(1 - ((loadings @ corr) * loadings).sum(1))
    x = traits @ loadings.T + noise * rng.standard_normal((n, TRAITS * EACH))
    return (np.digitize(x, CUTS) + 1.0 if levels else x), traits, loadings, corr


def best_linear(phi: float, levels: bool, seed: int) -> np.ndarray:
    """Correlations of traits with their best linear predictors, found from 50,000 other people."""
    x, traits, _, _ = answers(50_000, phi, levels, seed, new=1)
    centred = x - x.mean(0)
    fitted = centred @ np.linalg.lstsq(centred, traits, rcond=None)[0]
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(fitted.T, traits.T, strict=True)])


def compare(
    loadings: np.ndarray, corr: np.ndarray, scores: np.ndarray, truth: tuple[Any, ...], best: Any
) -> dict[str, float]:
    """Mean absolute errors, factors in the order and with the signs of the traits."""
    _, traits, true_loadings, true_corr = truth
    product = true_loadings.T @ loadings
    order = linear_sum_assignment(-np.abs(product))[1]
    sign = np.sign(product[np.arange(TRAITS), order])
    corr = corr[np.ix_(order, order)] * np.outer(sign, sign)
    above = np.triu_indices(TRAITS, 1)
    reached = np.corrcoef(traits.T, scores[:, order].T * sign[:, None])[:TRAITS, TRAITS:]
    return {
        "phi": float(np.abs(corr - true_corr)[above].mean()),
        "phi_bias": float((corr - true_corr)[above].mean()),
        "loadings": float(np.abs(loadings[:, order] * sign - true_loadings).mean()),
        "scores": float((reached.diagonal() / best).mean()),
    }


def run(n: int, phi: float, levels: bool, seed: int) -> dict[str, Any]:
    """The figures of both on the same answers."""
    truth, best = answers(n, phi, levels, seed), best_linear(phi, levels, seed)
    corex = CorEx(TRAITS, random_state=0).fit(truth[0])
    scores = corex.transform(truth[0])
    found = {"corex": compare(corex.loadings_, corex.factor_correlations_, scores, truth, best)}
    try:
        from factor_analyzer import FactorAnalyzer
    except ImportError:
        return found
    other = FactorAnalyzer(TRAITS, rotation="oblimin", method="ml").fit(truth[0])
    scores = other.transform(truth[0])
    return found | {"factor_analyzer": compare(other.loadings_, other.phi_, scores, truth, best)}


def plan() -> Iterator[dict[str, Any]]:
    for seed in range(SEEDS):
        for levels in (False, True):
            for phi in (0.0, 0.3, 0.5):
                for n in (300, 2000):
                    yield {"n": n, "phi": phi, "levels": levels, "seed": seed}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means ± standard deviations over seeds."""
    head = ["answers", "correlation", "rows", "seeds", "", *COLUMNS.values()]
    lines = [head, ["---"] * len(head)]
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        options = row["options"]
        key = options["levels"], options["phi"], options["n"]
        groups.setdefault(key, []).append(row["found"])
    for levels, phi, n in sorted(groups):
        several = groups[levels, phi, n]
        design = ["five levels" if levels else "continuous", str(phi), str(n), str(len(several))]
        for name in ("corex", "factor_analyzer"):
            own = [found[name] for found in several if name in found]
            cells = [cell([found[column] for found in own]) for column in COLUMNS]
            title = "`CorEx`" if name == "corex" else name
            lines.append([*design, title, *cells])
            design = [""] * len(design)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/factors.jsonl"))
    parser.add_argument("--table", action="store_true", help="run nothing, print what there is")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.touch()
    rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = [row["options"] for row in rows]
    for options in () if args.table else plan():
        if options not in done:
            rows.append({"options": options, "found": run(**options)})
            with args.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

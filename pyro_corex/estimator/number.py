"""How many latents: where the eigenvalues of noise end, and the bound on rows held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pyro_corex.estimator.blocks import blocks
from pyro_corex.estimator.categorical import fit_categorical
from pyro_corex.estimator.columns import Array, Coding
from pyro_corex.estimator.factors import FLOOR, factor_analysis, nearest_correlation
from pyro_corex.estimator.initial import all_scores, columns_of_scores
from pyro_corex.estimator.layer import Layer
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.results import MAX_ROWS, shared_terms
from pyro_corex.estimator.rotation import varimax
from pyro_corex.estimator.shrinkage import shrunken_loadings

_FEW = 10  # rows below which nothing is said
_FOLDS = 5
_PAST = 2  # numbers that are tried beyond the best
_REPEATS = 20  # permutations of a table
_CELLS = 1 << 24  # entries that all permutations may have
_SOUGHT = 2.0  # errors that chance may lead by where groups, or anything at all, are sought; else 1
_TINY = 1e-3  # of the bound, or of a nat: what is not worth a latent
_SMALL = 0.1  # a loading that is next to none
_95 = 1.645  # standard deviations above the mean that 1 in 20 exceeds

Fit = Callable[[Coding, Array, Options], Layer]


@dataclass
class Scree:
    """Eigenvalues of the columns' correlations, largest first, and those of noise (Horn 1965)."""

    eigenvalues: Array
    """Those of this table, ``(k,)``.  Columns are taken as normal scores; a nominal column has one
    score for each of its states."""
    reference: Array
    """Those of noise, ``(k,)``: what 1 in 20 tables exceeds once each column is permuted by
    itself, which leaves no dependence."""

    @property
    def n_above(self) -> int:
        """How many eigenvalues, from the first, are above the reference."""
        above = self.eigenvalues > self.reference
        return int(above.argmin()) if not above.all() else len(above)


@dataclass
class Scores:
    """Normal scores of rows, NaN where missing, and the column that each is of."""

    values: Array
    """``(N, k)``."""
    of: Array
    """``(k,)``."""

    @property
    def wide(self) -> bool:
        """Whether scores exceed rows, of which a fold is held out."""
        return len(self.of) > len(self.values) * (1 - 1 / _FOLDS)


def normal_scores(coding: Coding, x: Array) -> Scores:
    """The scores of a table ``(N, d)``."""
    return Scores(all_scores(coding, x), columns_of_scores(coding))


def scree(scores: Scores, rng: np.random.Generator) -> Scree:
    """Parallel analysis of normal scores: of each column, the marginal is kept.

    The reference is the mean over tables of permuted columns, and 1.645 standard deviations.
    """
    values, of = scores.values, scores.of
    repeats = int(np.clip(_CELLS // values.size, 5, _REPEATS))
    first = np.flatnonzero(np.diff(of, prepend=-1))
    blocks = np.split(np.arange(len(of)), first[1:])
    several = [block for block in blocks if len(block) > 1]
    found, own = [], np.empty_like(values)
    for _ in range(repeats):
        rng.permuted(values, axis=0, out=own)
        for block in several:
            own[:, block] = values[rng.permutation(len(values))][:, block]
        found.append(_eigenvalues(own))
    reference = np.mean(found, 0) + _95 * np.std(found, 0, ddof=1)
    own[:] = values
    return Scree(_eigenvalues(own), reference)


def _eigenvalues(values: Array) -> Array:
    """Of the correlations of scores, which are overwritten: as many as there are scores, or rows
    less one.
    """
    n, k = values.shape
    for own in blocks(k, n):
        values[:, own] = _standardised(values[:, own], values[:, own])
    if k < n:
        return np.linalg.eigvalsh(_correlations(values))[::-1]
    z = np.nan_to_num(values, copy=False)
    return np.linalg.eigvalsh(z @ z.T / n)[:0:-1]


def _standardised(values: Array, by: Array) -> Array:
    """By the means and standard deviations of some rows; 0 where these are all alike."""
    seen = ~np.isnan(by)
    n = np.maximum(seen.sum(0), 1)
    loc = np.where(seen, by, 0.0).sum(0) / n
    variance = (np.where(seen, by - loc, 0.0) ** 2).sum(0) / n
    return np.asarray((values - loc) / np.where(variance > 1e-12, np.sqrt(variance), np.inf))


def _correlations(z: Array) -> Array:
    """Of standardised scores, from all pairs of observed entries."""
    products, counts = np.zeros((2, z.shape[1], z.shape[1]))
    for own in blocks(*z.shape):
        seen = ~np.isnan(z[own])
        filled, seen = np.where(seen, z[own], 0.0), seen.astype(float)
        products += filled.T @ filled
        counts += seen.T @ seen
    return np.asarray(products / np.maximum(counts, 1.0))


# ---------------------------------------------------------------------- choosing


def choose_number(
    x: Array, coding: Coding, scores: Scores, found: Scree, fit: Fit, options: Options
) -> tuple[int, list[dict[str, float]]]:
    """The fewest latents that are as good as the best for rows held out; 0 where none are.

    As good is within a standard error of the difference, or within a thousandth.  Where groups are
    sought, and for none at all, it is within two errors.  Factor models of normal scores are tried
    around the number that parallel analysis finds, in 5 folds.  Where they are not the model that
    is fitted, fewer are tried with that, and for categorical latents all are.

    :param scores: of all or some of the rows.
    :returns: the number, and what was tried: "n_hidden", "score" in nats, "stderr".
    """
    most = max(1, len(coding.used) // 2)
    if len(x) < _FEW:
        return 0, []
    normal = all(c.kind == "continuous" for c in coding.used) and not options.hidden
    by_fit = _ByFit(x, coding, fit, options)
    if fit is fit_categorical:
        states = int(np.max(options.n_states)) - 1
        levels = max(max(c.n_levels, 2) for c in coding.used) - 1
        search = _Search(by_fit, most, _SOUGHT)
        search.climb(-(-found.n_above // min(states, levels)))
        return search.fewest(), search.trials
    search = _Search(_ByFactors(scores, options.seed), most)
    search.climb(found.n_above)
    number, trials = search.fewest(), search.trials
    if number and not normal:
        search = _Search(by_fit, number)
        search.descend()
        number, trials = search.fewest(), search.trials
    return number, trials


class _Search:
    """Numbers of latents that are tried, and what each row held out has of the bound."""

    def __init__(self, bounds: Callable[[int], Array], most: int, errors: float = 1.0) -> None:
        self._of, self._most, self._errors = bounds, most, errors
        self.bounds: dict[int, Array] = {}

    def bound(self, m: int) -> Array:
        """Of each row, ``(n,)``."""
        if m not in self.bounds:
            self.bounds[m] = self._of(m)
        return self.bounds[m]

    @property
    def best(self) -> int:
        """The number with the highest mean."""
        return max(self.bounds, key=lambda m: float(self.bounds[m].mean()))

    def fewest(self) -> int:
        """The fewest that are near the best; 0 is independence."""
        best = self.bounds[self.best]
        tried = {0: np.zeros_like(best), **dict(sorted(self.bounds.items()))}
        errors = {0: _SOUGHT}
        return next(
            m for m, own in tried.items() if self._is_near(best - own, errors.get(m, self._errors))
        )

    def _is_near(self, lead: Array, errors: float) -> bool:
        least = _TINY * max(1.0, float(self.bounds[self.best].mean()))
        return bool(lead.mean() <= max(errors * _stderr(lead), least))

    def climb(self, start: int) -> None:
        """From a number upwards until the best is passed, and down while fewer are as good."""
        start = int(np.clip(start, 1, self._most))
        self.bound(start)
        m = start + 1
        while m <= min(self._most, self.best + _PAST):
            self.bound(m)
            m += 1
        m = start - 1
        while m >= max(1, min(self.best, self.fewest()) - 1):
            self.bound(m)
            m -= 1

    def descend(self) -> None:
        """From the most down, while fewer are as good."""
        m = self._most
        while m >= 1 and (
            m == self._most
            or self._is_near(self.bound(self.best) - self.bound(m + 1), self._errors)
        ):
            self.bound(m)
            m -= 1

    @property
    def trials(self) -> list[dict[str, float]]:
        """What was tried, in nats for each row."""
        return [
            {"n_hidden": m, "score": float(own.mean()), "stderr": _stderr(own)}
            for m, own in sorted(self.bounds.items())
        ]


def _stderr(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


class _ByFactors:
    """Factor models of the scores of some rows, and the bound of the others, in folds."""

    def __init__(self, scores: Scores, seed: int) -> None:
        values, self._wide = scores.values, scores.wide
        order = np.random.default_rng(seed).permutation(len(values))
        self._folds: list[tuple[Array, Array]] = []
        for test in np.array_split(order, _FOLDS):
            train = values[np.setdiff1d(order, test)]
            z = _standardised(train, train)
            if self._wide:
                corr = np.nan_to_num(z).T / np.sqrt(len(z))
            else:
                corr = nearest_correlation(_correlations(z))
            self._folds.append((corr, _standardised(values[test], train)))

    def __call__(self, m: int) -> Array:
        """The log-likelihood ratio to independence of each row, ``(n,)``."""
        if m == 0:
            return np.zeros(sum(len(test) for *_, test in self._folds))
        held, used = zip(*(self._held(m, *fold) for fold in self._folds), strict=True)
        left = int(np.median(used))
        return np.concatenate(held) if left == m else self(left)

    def _held(self, m: int, corr: Array, test: Array) -> tuple[Array, int]:
        """Of one fold; and how many latents are left where those that are chance are shrunk."""
        loadings, psi, _ = factor_analysis(corr, m)
        used = m
        if self._wide:
            turned = loadings @ varimax(loadings)
            loadings, psi, _, _ = shrunken_loadings(corr, turned, psi, np.full(len(psi), FLOOR))
            used = int(((np.abs(loadings) > _SMALL).sum(0) > 1).sum())
        return _likelihood_ratios(test, loadings, np.maximum(psi, FLOOR)), used


def _likelihood_ratios(z: Array, loadings: Array, psi: Array) -> Array:
    """Of standardised rows under a factor model and under independence, in nats: ``(n,)``."""
    m = loadings.shape[1]
    seen = ~np.isnan(z)
    filled = np.where(seen, z, 0.0)
    scaled = loadings / psi[:, None]
    outer = (loadings[:, :, None] * scaled[:, None, :]).reshape(len(psi), m * m)
    weights = seen[:1] if seen.all() else seen
    inner = np.eye(m) + (weights.astype(float) @ outer).reshape(-1, m, m)
    right = (filled @ scaled)[..., None]
    solved = np.linalg.solve(np.broadcast_to(inner, (len(z), m, m)), right)
    quadratic = filled**2 @ (1 / psi - 1) - (right * solved)[..., 0].sum(1)
    return -0.5 * np.asarray(quadratic + np.linalg.slogdet(inner)[1] + seen @ np.log(psi))


class _ByFit:
    """The layers themselves, fitted to some rows, and the bound of the others.

    Groups, which are sought, are held out in folds; else a quarter of the rows is.
    """

    def __init__(self, x: Array, coding: Coding, fit: Fit, options: Options) -> None:
        order = np.random.default_rng(options.seed).permutation(len(x))[: 4 * MAX_ROWS]
        sought = fit is fit_categorical
        parts = np.array_split(order, _FOLDS) if sought else [order[: -(-len(order) // 4)]]
        self._folds = [(x[np.setdiff1d(order, held)], x[np.sort(held)]) for held in parts]
        self._coding, self._fit, self._options = coding, fit, options
        if not sought and not options.hidden:  # it starts where it nearly ends
            self._options = replace(options, max_iter=-(-options.max_iter // 4))

    def __call__(self, m: int) -> Array:
        """The bound of each row that is held out, ``(n,)``."""
        return np.concatenate([self._held(m, *fold) for fold in self._folds])

    def _held(self, m: int, rest: Array, held: Array) -> Array:
        layer = self._fit(self._coding, rest, replace(self._options, layers=(m,)))
        even = np.full((layer.n_hidden, len(layer.columns)), 1 / layer.n_hidden)
        terms = shared_terms(layer, self._coding.encode(held), even)
        counts = [layer.columns[i].kind == "counts" for i in terms.columns]
        better = (terms.gain.sum(0) > 0) | np.array(counts, dtype=bool)  # frequencies know the rows
        return terms.bounds(better).sum(1)

"""A latent class model of a group of columns by EM, and moving columns between groups.

A step of EM is a step of coordinate ascent on the bound of Eq. 10, in which the encoder is the
exact posterior; its fixed points are where the gradient of the bound vanishes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.special import rel_entr, softmax
from scipy.stats import nbinom

from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.design import Design
from pyro_corex.estimator.indicators import Indicators, leading
from pyro_corex.estimator.parameters import Options

Random = np.random.RandomState

ZERO = 0.004
"""Probabilities below are at the border, and not free."""
_CELLS = 1 << 18  # entries, times states, that are treated at once
_STARTS = 6
_SPARE = 0.25  # of each cell of a table: of two explanations, the one with more zeros
_PRIOR = 0.1  # observations added to each table, with the column's own frequencies
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Group:
    """A latent class model of some columns, in increasing order: EM in closed form."""

    q: Array
    """The states' probabilities, ``(N, S)``."""
    n_iter = 0
    converged = True

    def __init__(self, design: Design, columns: Sequence[int], n_states: int) -> None:
        self.design = design
        self.columns = list(columns)
        self.n_states = n_states
        self.levels = [i for i in self.columns if design.columns[i].n_levels]
        self.numbers = [i for i in self.columns if not design.columns[i].n_levels]
        self.cells = np.flatnonzero(np.isin(design.of, self.levels))
        self.of = np.searchsorted(self.levels, design.of[self.cells])
        self.starts = np.concatenate([[0], np.cumsum(design.width[self.levels])]).astype(int)
        self._counted = np.array([design.columns[i].kind == "counts" for i in self.numbers], bool)

    @cached_property
    def hot(self) -> Indicators:
        """Those of the levels, and after them of numbers; :meth:`release` lets go of them."""
        return self.design.exact.take([*self.levels, *self.numbers])

    @cached_property
    def _values(self) -> _Values:
        """The cells of the numbers."""
        return _Values(self)

    def release(self) -> None:
        """Forgets what takes memory and can be made again."""
        for name in ("hot", "_values"):
            self.__dict__.pop(name, None)

    def maximise(self, q: Array) -> None:
        """The parameters that are best for the states' probabilities ``(N, S)``."""
        design = self.design
        q = q * design.often[:, None]
        self.log_pi = np.log((q.sum(0) + _PRIOR / self.n_states) / (design.total + _PRIOR))
        whole = self.hot.counts(q)
        counts = np.maximum(whole[: len(self.of)] - _SPARE, 0.0)
        counts += _PRIOR * design.marginal[self.cells, None]
        total = np.add.reduceat(counts, self.starts[:-1])[self.of] if self.levels else counts
        self.log_table = np.log(np.maximum(counts / total, 1e-12))
        self.loc = np.zeros((len(self.numbers), self.n_states))
        self.scale = np.ones((len(self.numbers), self.n_states))
        self.size = np.ones(len(self.numbers))
        if self.numbers:
            self._maximise_numbers(whole[len(self.of) :])

    def _maximise_numbers(self, counts: Array) -> None:
        """From how often each value is there in each state, ``(cells, S)``."""
        own, counted = self._values, self._counted
        w = counts + 1e-9 * own.times[:, None]
        sums = own.total(w)
        mean = (own.total(w * own.x) + _PRIOR * own.mean) / (sums + _PRIOR)
        square = own.total((own.x - mean[own.of]) ** 2 * w)
        variance = (square + _PRIOR * own.variance) / (sums + _PRIOR)
        self.scale = np.sqrt(np.maximum(variance, 1e-3 * own.variance))
        self.scale[counted] = 1.0
        self.loc = mean
        if counted.any():
            mean = np.maximum(mean[counted], 1e-3)
            sums, square = sums[counted], square[counted]
            excess = (square - sums * mean).sum(1) / (sums * mean**2).sum(1)
            self.size[counted] = 1 / np.clip(excess, 1e-3, 1e3)
            self.loc[counted] = np.log(mean)

    def n_parameters(self, above: float = 0.0) -> float:
        """Parameters of the dependence among the columns; of probabilities only those above."""
        if len(self.columns) < 2:
            return 0.0
        width = self.design.width[self.levels]
        s, n_numbers = self.n_states, len(self.numbers)
        free = (np.exp(self.log_table) > above).sum() - s * len(width) - (width - 1).sum()
        free += s - 1 + 2 * (s - 1) * n_numbers
        cells = np.inf if n_numbers else float(np.prod(width.astype(float)))
        return float(np.clip(free, 0, cells - 1 - (width - 1).sum()))

    def log_joint(self, weighted: bool = True) -> Array:
        """Joint ln p(x, state) of the group's columns: ``(N, S)``."""
        table = self._log_probs()
        if weighted:
            own = self.design.weight[[*self.levels, *self.numbers]]
            table = table * np.repeat(own, self.hot.width)[:, None]
        return self.hot.dot(table) + self.log_pi

    def _log_probs(self) -> Array:
        """Log-probabilities ln p(x_i|state) of all cells: ``(cells, S)``."""
        if not self.numbers:
            return self.log_table
        own = self._values
        with np.errstate(over="ignore"):
            z = (own.x - self.loc[own.of]) / self.scale[own.of]
        value = -0.5 * z**2 - np.log(self.scale[own.of]) - _HALF_LOG_TAU
        at = self._counted[own.of]
        if at.any():
            size = self.size[own.of[at], None]
            mean = np.exp(self.loc[own.of[at]])
            value[at] = nbinom.logpmf(own.x[at], size, size / (size + mean))
        return np.vstack([self.log_table, value])

    def _own(self, table: Array, columns: Sequence[int]) -> Array:
        """What columns have in a table ``(cells + 1, S)``, 0 where missing: ``(N, k, S)``."""
        level = self.design.exact.levels(columns)
        order = [*self.levels, *self.numbers]
        begin = self.hot.starts[[order.index(i) for i in columns]]
        return np.asarray(table[np.where(level >= 0, begin + level, -1)])

    def counts_without_own(self, states: Array) -> tuple[Array, Array]:
        """Joint counts ``(cells, S)`` of the levels of the group's columns and its states, given
        the *other* columns; and where each column starts.

        :param states: log-probabilities of the states and all columns, ``(N, S)``.
        """
        design, columns = self.design, np.array(self.columns)
        starts = np.concatenate([[0], np.cumsum(design.width[columns])])
        out = np.zeros((starts[-1], self.n_states))
        step = max(1, _CELLS // states.size)
        table = np.vstack([self._log_probs(), np.zeros((1, self.n_states))])
        for first in range(0, len(columns), step):
            block = columns[first : first + step]
            level = design.hot.levels(block)
            seen = level >= 0
            own = self._own(table, block.tolist())
            q = softmax(states[:, None] - design.weight[block][:, None] * own, axis=2)
            q = (q * design.often[:, None, None])[seen]
            at = (starts[first : first + len(block)] + level)[seen]
            for s in range(self.n_states):
                out[:, s] += np.bincount(at, q[:, s], len(out))
        return out, starts

    @cached_property
    def value(self) -> float:
        """The evidence of new rows, less a constant: a nat for each parameter (Akaike 1973)."""
        return self.evidence() - self.n_parameters() / self.design.total

    def evidence(self) -> float:
        """Mean of ln p of the group's columns, without weights, in nats."""
        each = np.logaddexp.reduce(self.log_joint(weighted=False), 1)
        found = float(each @ self.design.often) / self.design.total
        self.release()
        return found

    def run(self, q: Array, n_iter: int, tol: float) -> float:
        """EM from the states' probabilities; the log-likelihood a row that it reaches."""
        last = value = -math.inf
        for k in range(n_iter):
            self.maximise(q)
            joint = self.log_joint()
            total = np.logaddexp.reduce(joint, 1, keepdims=True)
            last, value = value, float(total[:, 0] @ self.design.often) / self.design.total
            self.q = q = np.exp(joint - total)
            self.n_iter, self.converged = k + 1, abs(value - last) < tol
            if self.converged:
                break
        return value


class _Values:
    """The numbers that a group's columns hold: each of them, how often, and their moments."""

    def __init__(self, group: Group) -> None:
        design, columns = group.design, group.numbers
        starts = design.exact.starts
        cells = [np.arange(starts[i], starts[i + 1]) for i in columns]
        width = np.array([len(each) for each in cells])
        self.x = design.values[np.concatenate(cells)][:, None]
        self.of = np.repeat(np.arange(len(columns)), width)
        self._first = np.cumsum(width) - width
        each = np.column_stack([design.often, np.ones(design.n)])
        often, self.times = group.hot.counts(each)[len(group.of) :].T
        total = self.total(often)
        self.mean = (self.total(often * self.x[:, 0]) / total)[:, None]
        spread = (self.x[:, 0] - self.mean[self.of, 0]) ** 2
        self.variance = (self.total(often * spread) / total)[:, None]

    def total(self, values: Array) -> Array:
        """Sums over the values of each column."""
        return np.asarray(np.add.reduceat(values, self._first))


def _starts(group: Group, rng: Random) -> Iterator[Array]:
    """States' probabilities to start from: by levels, by principal components, and at random."""
    s, n = group.n_states, group.design.n
    yield from _by_levels(group, rng)
    for label in _by_components(group, rng):
        yield 0.3 / s + 0.7 * np.eye(s)[label]
    for _ in range(_STARTS // 2 if len(group.columns) > 3 else 2 * _STARTS):
        yield rng.dirichlet(np.full(s, 0.5), n)


def _by_levels(group: Group, rng: Random) -> Iterator[Array]:
    """A level of a column speaks for one of the states; all do, or all but one.

    That one may tell nothing of the state, such as that an entry was erased.
    """
    design, s = group.design, group.n_states
    each = group.hot.counts(np.ones((design.n, 1)))[: len(group.of), 0]
    seen = np.add.reduceat(each, group.starts[:-1])
    busy = [group.levels[k] for k in np.argsort(-seen, kind="stable")]
    for i in busy[: _STARTS // 2]:
        level = design.hot.levels([i])[:, 0]
        mute = [-1, *range(design.width[i])] if design.width[i] > s else [-1]
        for silent in mute:
            telling = [k for k in range(max(design.width[i], s)) if k != silent]
            guess = np.zeros(max(design.width[i], s), dtype=int)
            guess[telling] = rng.permutation(len(telling)) % s
            q = np.full((design.n, s), 1 / s)
            rows = (level >= 0) & (level != silent)
            q[rows] = 0.3 / s
            q[rows, guess[level[rows]]] += 0.7
            yield q


def _by_components(group: Group, rng: Random) -> Iterator[Array]:
    """Clusters in the plane of the first principal components, and ranks along the first."""
    design, s = group.design, group.n_states
    projected = _principal(group, s)
    if s <= design.n:  # a fold may have fewer rows than there are states
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clusters that lose all of their rows
            yield kmeans2(projected, s, 10, minit="points", seed=rng)[1]
    yield np.argsort(np.argsort(projected[:, -1])) * s // design.n


def _principal(group: Group, k: int) -> Array:
    """The rows by the first principal components of indicators of levels, less their frequencies,
    and of standardised numbers: ``(N, k)``.
    """
    table, hot = np.ones((len(group.of), 1)), group.hot
    shift, of = group.design.marginal[group.cells], np.arange(len(group.of))
    if group.numbers:
        own = group._values
        scale = np.sqrt(own.variance) + 1e-12
        table = np.vstack([table, (own.x - own.mean[own.of]) / scale[own.of]])
        of = np.append(of, len(of) + own.of)
        shift = np.append(shift, np.zeros(len(group.numbers)))
    first = np.flatnonzero(np.diff(of, prepend=-1))

    def forward(v: Array) -> Array:
        return hot.dot(table * v[of]) - shift @ v

    def back(u: Array) -> Array:
        return np.add.reduceat(table * hot.counts(u), first) - shift[:, None] * u.sum(0)

    return leading(forward, back, (hot.n, len(shift)), k)


def fit_group(
    design: Design, columns: Sequence[int], n_states: int, options: Options, rng: Random
) -> Group:
    """The best of several starts after Akaike (1973), run to the end."""
    group = Group(design, columns, n_states)
    if len(columns) < 2:
        group.q = np.eye(n_states)[np.zeros(design.n, int)]
        group.maximise(group.q)
        return group
    found = []
    for q in _starts(group, rng):
        value = group.run(q, 12, 1e-4)
        found.append((value - group.n_parameters(ZERO) / design.total, group.q))
    best = max(found, key=lambda each: each[0])[1]
    group.run(best, max(options.max_iter, 100), options.tol * 0.01)
    group.release()
    return group


# ---------------------------------------------------------------------- moving columns


def tables_information(counts: Array, begin: Array) -> tuple[Array, Array]:
    """Mutual information of tables of counts in nats, less the bias of so many cells (Miller
    1955), and the variance of its summand.  It may be negative.

    :param counts: tables one below the other, which begin at the rows ``begin``.
    """

    def total(values: Array) -> Array:
        return np.add.reduceat(values, begin)

    of = np.repeat(np.arange(len(begin)), np.diff(np.append(begin, len(counts))))
    n = np.maximum(total(counts.sum(1)), 1e-12)
    p = counts / n[of, None]
    rows, columns = p.sum(1), total(p)
    ratio = rel_entr(p, rows[:, None] * columns[of])
    value = total(ratio.sum(1))
    variance = total((ratio**2 / np.maximum(p, 1e-12)).sum(1)) - value**2
    cells = (total(1.0 * (rows > 1e-9)) - 1) * ((columns > 1e-3).sum(1) - 1)
    return value - cells / (2 * np.maximum(n, 1.0)), variance


def relevances(design: Design, groups: Sequence[Group]) -> Array:
    """What each latent tells of each column, ``(m, d)`` in nats, without the column's own say.

    The mutual information of a column and the posterior given the *other* columns.
    """
    out = np.zeros((len(groups), design.d))
    for j, group in enumerate(groups):
        counts = design.hot.counts(group.q * design.often[:, None])
        out[j] = tables_information(counts, design.starts[:-1])[0]
    for j, group in enumerate(groups):
        if len(group.columns) < 2:
            out[j, group.columns] -= 1.0  # it is better off anywhere
            continue
        counts, starts = group.counts_without_own(group.log_joint())
        out[j, group.columns] = tables_information(counts, starts[:-1])[0]
        group.release()
    return out


def refine(
    design: Design, parent: Array, states: Sequence[int], held: Sequence[int], options: Options,
    rng: Random,
) -> list[Group]:  # fmt: skip
    """Moves columns to the latents that tell most of them, while that raises the bound.

    :param parent: the latent of each column, -1 where it has none yet.
    :param held: columns that stay where they are.
    """

    def fit(parent: Array, known: Sequence[Group] = ()) -> list[Group]:
        out = []
        for j, s in enumerate(states):
            own = np.flatnonzero(parent == j).tolist()
            same = bool(known) and known[j].columns == own
            out.append(known[j] if same else fit_group(design, own, s, options, rng))
        return out

    groups = fit(parent)
    for _ in range(12):
        told = relevances(design, groups)
        now = np.where(parent < 0, -np.inf, np.maximum(told[parent, np.arange(design.d)], 0.0))
        now[held] = np.inf
        lead = told.max(0) - now
        movers = np.flatnonzero(lead > 1e-9)
        movers = movers[np.argsort(-lead[movers], kind="stable")]
        while len(movers):  # all of them, or the half that gains most, or half of these ...
            moved = parent.copy()
            moved[movers] = told[:, movers].argmax(0)
            trial = fit(moved, groups)
            if (parent < 0).any() or _bound(trial) > _bound(groups) + 1e-9:
                parent, groups = moved, trial
                break
            movers = movers[: len(movers) // 2]
        if not len(movers):
            break
    return groups


def _bound(groups: Sequence[Group]) -> float:
    """What new rows would have in nats, less a constant."""
    return sum(group.value for group in groups)

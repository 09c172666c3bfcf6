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

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.weights import quantiles

Random = np.random.RandomState

ZERO = 0.004
"""Probabilities below are at the border, and not free."""
_BINS = 4
_BLOCK = 256  # columns that are treated at once
_CELLS = 1 << 18  # entries, times states, that are treated at once
_STARTS = 6
_SPARE = 0.25  # of each cell of a table: of two explanations, the one with more zeros
_PRIOR = 0.1  # observations added to each table, with the column's own frequencies
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Design:
    """Coded rows as matrices: indicators of levels, and numbers."""

    def __init__(self, columns: Sequence[Column], code: Array, often: Array | None = None) -> None:
        self.columns = list(columns)
        self.code = code
        self.n, self.d = code.shape
        self.often = np.ones(self.n) if often is None else often  # each row counts
        self.total = float(self.often.sum())
        self.weight = np.ones(self.d)
        """How often the likelihood of each column counts."""
        self.seen = ~np.isnan(code)
        self.width = np.array([c.n_levels or _BINS for c in columns])
        self.starts = np.concatenate([[0], np.cumsum(self.width)])
        self.of = np.repeat(np.arange(self.d), self.width)
        self.level = np.full(code.shape, -1, dtype=np.int16)
        """-1 where missing; numbers count by their quartiles while groups are sought."""
        counts = []
        for i, column in enumerate(columns):
            level, seen = code[:, i], self.seen[:, i]
            if not column.n_levels:
                level = np.searchsorted(quantiles(level[seen], self.often[seen], _BINS), level)
            self.level[seen, i] = level[seen]
            counts.append(np.bincount(self.level[seen, i], self.often[seen], self.width[i]))
        share = np.concatenate(counts) + 1e-12
        self.marginal = share / np.add.reduceat(share, self.starts[:-1])[self.of]

    def indicators(self, columns: Array) -> tuple[Array, Array]:
        """Indicators of the levels of columns, ``(N, sum of levels)``; and where each starts."""
        return indicators(self.level[:, columns], self.width[columns])

    def rooted(self, columns: Array) -> tuple[Array, Array]:
        """The same by the roots of what rows count, so that products of two count rows."""
        hot, starts = self.indicators(columns)
        return hot * np.sqrt(self.often)[:, None], starts


def indicators(level: Array, width: Array) -> tuple[Array, Array]:
    """Indicators ``(N, sum of widths)`` of levels ``(N, k)``, of which -1 is none; and starts."""
    starts = np.concatenate([[0], np.cumsum(width)])
    out = np.zeros((len(level), starts[-1]))
    rows, at = np.nonzero(level >= 0)
    out[rows, starts[at] + level[rows, at]] = 1.0
    return out, starts


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

    @cached_property
    def onehot(self) -> Array:
        """Indicators of the levels; :meth:`release` lets go of them."""
        return self.design.indicators(np.array(self.levels, dtype=int))[0]

    def release(self) -> None:
        """Forgets what takes memory and can be made again."""
        self.__dict__.pop("onehot", None)

    def maximise(self, q: Array) -> None:
        """The parameters that are best for the states' probabilities ``(N, S)``."""
        design = self.design
        q = q * design.often[:, None]
        self.log_pi = np.log((q.sum(0) + _PRIOR / self.n_states) / (design.total + _PRIOR))
        counts = np.maximum(self.onehot.T @ q - _SPARE, 0.0)
        counts += _PRIOR * design.marginal[self.cells, None]
        total = np.add.reduceat(counts, self.starts[:-1])[self.of] if self.levels else counts
        self.log_table = np.log(np.maximum(counts / total, 1e-12))
        self.loc = np.zeros((len(self.numbers), self.n_states))
        self.scale = np.ones((len(self.numbers), self.n_states))
        self.size = np.ones(len(self.numbers))
        for a, i in enumerate(self.numbers):
            rows = design.seen[:, i]
            x, w = design.code[rows, i], q[rows] + 1e-9
            sums = w.sum(0)
            whole = np.average(x, weights=design.often[rows])
            spread = np.average((x - whole) ** 2, weights=design.often[rows])
            mean = (w.T @ x + _PRIOR * whole) / (sums + _PRIOR)
            square = ((x[:, None] - mean) ** 2 * w).sum(0)
            if design.columns[i].kind == "counts":
                mean = np.maximum(mean, 1e-3)
                excess = (square - sums * mean).sum() / (sums * mean**2).sum()
                self.size[a] = 1 / np.clip(excess, 1e-3, 1e3)
                self.loc[a] = np.log(mean)
            else:
                self.loc[a] = mean
                variance = (square + _PRIOR * spread) / (sums + _PRIOR)
                self.scale[a] = np.sqrt(np.maximum(variance, 1e-3 * spread))

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
        weight = self.design.weight if weighted else np.ones(self.design.d)
        out = self.onehot @ (self.log_table * weight[self.levels][self.of, None]) + self.log_pi
        for i in self.numbers:
            out = out + weight[i] * self.column_log_prob(i)
        return out

    def column_log_prob(self, i: int) -> Array:
        """Log-probability ln p(x_i|state) of one of the columns, 0 where missing: ``(N, S)``."""
        if i in self.levels:
            own = self.of == self.levels.index(i)
            return self.onehot[:, own] @ self.log_table[own]
        a, x = self.numbers.index(i), np.nan_to_num(self.design.code[:, i])[:, None]
        if self.design.columns[i].kind == "counts":
            size = self.size[a]
            value = nbinom.logpmf(x, size, size / (size + np.exp(self.loc[a])))
        else:
            scale = self.scale[a]  # by hand: scipy.stats looks at its arguments for longer
            value = -0.5 * ((x - self.loc[a]) / scale) ** 2 - np.log(scale) - _HALF_LOG_TAU
        return np.where(self.design.seen[:, [i]], value, 0.0)

    def without(self, i: int) -> Array:
        """The states' probabilities given all columns of the group but one."""
        own = self.design.weight[i] * self.column_log_prob(i)
        return softmax(self.log_joint() - own, axis=1)

    def counts_without_own(self, states: Array) -> tuple[Array, Array]:
        """Joint counts ``(cells, S)`` of the levels of the group's columns and its states, given
        the *other* columns; and where each column starts.

        :param states: log-probabilities of the states and all columns, ``(N, S)``.
        """
        design, columns = self.design, np.array(self.columns)
        width = design.width[columns]
        starts = np.concatenate([[0], np.cumsum(width)])
        out = np.zeros((starts[-1], self.n_states))
        step = max(1, _CELLS // states.size)
        place = {i: a for a, i in enumerate(self.levels)}
        table = np.vstack([self.log_table, np.zeros((1, self.n_states))])
        for first in range(0, len(columns), step):
            block = columns[first : first + step]
            level = design.level[:, block].astype(int)
            seen = level >= 0
            begin = np.array([self.starts[place[i]] if i in place else -1 for i in block])
            own = table[np.where(seen & (begin >= 0), begin + level, -1)]  # (N, k, S)
            for a, i in enumerate(block):
                if i not in place:
                    own[:, a] = self.column_log_prob(i)
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
    busy = sorted(group.levels, key=lambda i: -design.seen[:, i].mean())
    for i in busy[: _STARTS // 2]:
        level = np.nan_to_num(design.code[:, i], nan=-1).astype(int)
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
    numbers = design.code[:, group.numbers]
    centred = np.nan_to_num(numbers - np.nanmean(numbers, 0)) / (np.nanstd(numbers, 0) + 1e-12)
    matrix = np.concatenate([group.onehot - design.marginal[group.cells], centred], 1)
    if matrix.shape[1] > design.n:
        values, vectors = np.linalg.eigh(matrix @ matrix.T)
        projected = vectors[:, -s:] * np.sqrt(np.maximum(values[-s:], 0.0))
    else:
        _, vectors = np.linalg.eigh(matrix.T @ matrix)
        projected = matrix @ vectors[:, -min(s, matrix.shape[1]) :]
    if s <= design.n:  # a fold may have fewer rows than there are states
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clusters that lose all of their rows
            yield kmeans2(projected, s, 10, minit="points", seed=rng)[1]
    yield np.argsort(np.argsort(projected[:, -1])) * s // design.n


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


def table_information(counts: Array) -> tuple[float, float]:
    """Mutual information of a table of counts in nats, less the bias of so many cells (Miller
    1955), and the variance of its summand.

    It may be negative.
    """
    value, variance = tables_information(counts, np.array([0]))
    return float(value[0]), float(variance[0])


def tables_information(counts: Array, begin: Array) -> tuple[Array, Array]:
    """:func:`table_information` of tables one below the other, which begin at these rows."""

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
    for block in np.array_split(np.arange(design.d), 1 + design.d // _BLOCK):
        onehot, starts = design.indicators(block)
        for j, group in enumerate(groups):
            counts = onehot.T @ (group.q * design.often[:, None])
            out[j, block] = tables_information(counts, starts[:-1])[0]
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

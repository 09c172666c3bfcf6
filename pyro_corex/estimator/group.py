"""A latent class model of a group of columns by EM, and moving columns between groups.

A step of EM is a step of coordinate ascent on the bound of Eq. 10, in which the encoder is the
exact posterior; its fixed points are where the gradient of the bound vanishes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.special import rel_entr, softmax
from scipy.stats import nbinom

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.parameters import Options

Random = np.random.RandomState

ZERO = 0.004
"""Probabilities below are at the border, and not free."""
_BINS = 4
_STARTS = 6
_SPARE = 0.25  # of each cell of a table: of two explanations, the one with more zeros
_PRIOR = 0.1  # observations added to each table, with the column's own frequencies
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Design:
    """Coded rows as matrices: indicators of levels, and numbers."""

    def __init__(self, columns: Sequence[Column], code: Array) -> None:
        self.columns = list(columns)
        self.code = code
        self.n, self.d = code.shape
        self.weight = np.ones(self.d)
        """How often the likelihood of each column counts."""
        self.seen = ~np.isnan(code)
        self.width = np.array([c.n_levels or _BINS for c in columns])
        self.starts = np.concatenate([[0], np.cumsum(self.width)])
        self.of = np.repeat(np.arange(self.d), self.width)
        self.onehot = np.zeros((self.n, self.starts[-1]))
        for i, column in enumerate(columns):
            level = code[:, i]
            if not column.n_levels:  # numbers count by their quartiles while groups are sought
                cuts = np.nanquantile(level, np.arange(1, _BINS) / _BINS)
                level = np.where(self.seen[:, i], np.searchsorted(cuts, level), np.nan)
            rows = np.flatnonzero(self.seen[:, i])
            self.onehot[rows, self.starts[i] + level[rows].astype(int)] = 1.0
        share = self.onehot.sum(0) + 1e-12
        self.marginal = share / np.add.reduceat(share, self.starts[:-1])[self.of]

    def cells(self, i: int) -> slice:
        """Where the levels of a column are among all."""
        return slice(self.starts[i], self.starts[i + 1])


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
        self.onehot = design.onehot[:, self.cells]

    def maximise(self, q: Array) -> None:
        """The parameters that are best for the states' probabilities ``(N, S)``."""
        design = self.design
        self.log_pi = np.log((q.sum(0) + _PRIOR / self.n_states) / (len(q) + _PRIOR))
        counts = np.maximum(self.onehot.T @ q - _SPARE, 0.0)
        counts += _PRIOR * design.marginal[self.cells, None]
        total = np.zeros((len(self.levels), self.n_states))
        np.add.at(total, self.of, counts)
        self.log_table = np.log(np.maximum(counts / total[self.of], 1e-12))
        self.loc = np.zeros((len(self.numbers), self.n_states))
        self.scale = np.ones((len(self.numbers), self.n_states))
        self.size = np.ones(len(self.numbers))
        for a, i in enumerate(self.numbers):
            rows = design.seen[:, i]
            x, w = design.code[rows, i], q[rows] + 1e-9
            sums = w.sum(0)
            whole, spread = x.mean(), x.var()
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

    def evidence(self) -> float:
        """Mean of ln p of the group's columns, without weights, in nats."""
        return float(np.logaddexp.reduce(self.log_joint(weighted=False), 1).mean())

    def run(self, q: Array, n_iter: int, tol: float) -> float:
        """EM from the states' probabilities; the log-likelihood a row that it reaches."""
        last = value = -math.inf
        for k in range(n_iter):
            self.maximise(q)
            joint = self.log_joint()
            total = np.logaddexp.reduce(joint, 1, keepdims=True)
            last, value = value, float(total.mean())
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
        found.append((value - group.n_parameters(ZERO) / design.n, group.q))
    best = max(found, key=lambda each: each[0])[1]
    group.run(best, max(options.max_iter, 100), options.tol * 0.01)
    return group


# ---------------------------------------------------------------------- moving columns


def information(p: Array) -> tuple[float, float]:
    """Mutual information of a table of probabilities in nats, and the variance of its summand."""
    ratio = rel_entr(p, p.sum(1, keepdims=True) * p.sum(0))
    value = ratio.sum()
    return float(value), float((ratio**2 / np.maximum(p, 1e-12)).sum() - value**2)


def table_information(counts: Array) -> tuple[float, float]:
    """The same of a table of counts, less the bias of so many cells (Miller 1955).

    It may be negative.
    """
    n = max(counts.sum(), 1e-12)
    p = counts / n
    value, variance = information(p)
    cells = ((p.sum(1) > 1e-9).sum() - 1) * ((p.sum(0) > 1e-3).sum() - 1)
    return float(value - cells / (2 * max(n, 1.0))), variance


def relevances(design: Design, groups: Sequence[Group]) -> Array:
    """What each latent tells of each column, ``(m, d)`` in nats, without the column's own say.

    The mutual information of a column and the posterior given the *other* columns.
    """
    out = np.zeros((len(groups), design.d))
    for j, group in enumerate(groups):
        alone = len(group.columns) < 2
        joint = design.onehot.T @ group.q
        for i in range(design.d):
            cells = design.cells(i)
            table = joint[cells]
            if i in group.columns and not alone:
                table = design.onehot[:, cells].T @ group.without(i)
            out[j, i] = table_information(table)[0]
        if alone:
            out[j, group.columns] -= 1.0  # it is better off anywhere
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
    """What new rows would have in nats, less a constant: a nat for each parameter (Akaike 1973)."""
    return sum(group.evidence() - group.n_parameters() / group.design.n for group in groups)

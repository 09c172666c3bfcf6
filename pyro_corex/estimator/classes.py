"""Discrete latents: groups of columns, and a latent class model for each of them by EM.

Given the groups, a step of EM is a step of coordinate ascent on the bound of Eq. 10, in which the
encoder is the exact posterior; its fixed points are where the gradient of the bound vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_corex.estimator.classes_layer import ClassesLayer
from pyro_corex.estimator.columns import Column
from pyro_corex.estimator.grouping import find_groups, pairwise_scores
from pyro_corex.programs.classes import LatentClasses
from pyro_corex.programs.tables import TableSpec

Array = NDArray[Any]
Batches = Callable[[], Iterator[Tensor]]

MAX_ROWS = 100_000
_STARTS = 6
_ZERO = 0.004  # probabilities below are at the border, and not free
_SPARE = 0.25  # of each cell of a table: of two explanations, the one with more zeros
_PRIOR = 0.1  # observations added to each table, with the column's own frequencies


class Design:
    """Coded rows as matrices: indicators of levels, and numbers."""

    def __init__(self, columns: Sequence[Column], code: Array, n_bins: int = 4) -> None:
        self.columns = list(columns)
        self.code = code
        self.n, self.d = code.shape
        self.seen = ~np.isnan(code)
        self.width = np.array([c.n_levels or n_bins for c in columns])
        self.starts = np.concatenate([[0], np.cumsum(self.width)])
        self.onehot = np.zeros((self.n, self.starts[-1]))
        for i, column in enumerate(columns):
            level = code[:, i]
            if not column.n_levels:  # numbers count by their quartiles while groups are sought
                cuts = np.nanquantile(level, np.arange(1, n_bins) / n_bins)
                level = np.where(self.seen[:, i], np.searchsorted(cuts, level), np.nan)
            rows = np.flatnonzero(self.seen[:, i])
            self.onehot[rows, self.starts[i] + level[rows].astype(int)] = 1.0
        share = self.onehot.sum(0) + 1e-12
        total = np.add.reduceat(share, self.starts[:-1])
        self.marginal = share / np.repeat(total, self.width)

    def cells(self, i: int) -> slice:
        """Where the levels of a column are among all."""
        return slice(self.starts[i], self.starts[i + 1])


class Group:
    """A latent class model of some columns: EM in closed form."""

    def __init__(
        self, design: Design, columns: Sequence[int], n_states: int, weight: Array
    ) -> None:
        self.design = design
        self.columns = list(columns)
        self.n_states = n_states
        self.weight = weight[self.columns]
        self.levels = [i for i in self.columns if design.columns[i].n_levels]
        self.numbers = [i for i in self.columns if not design.columns[i].n_levels]
        spans = [np.arange(*design.cells(i).indices(10**9)) for i in self.levels]
        self.cells = np.concatenate(spans) if spans else np.zeros(0, int)
        self.of = np.repeat(np.arange(len(self.levels)), [len(s) for s in spans])
        at = [self.columns.index(i) for i in self.levels]
        self.cell_weight = self.weight[at][self.of] if at else np.zeros(0)
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
                floor = 1e-3 * spread
                self.scale[a] = np.sqrt(
                    np.maximum((square + _PRIOR * spread) / (sums + _PRIOR), floor)
                )

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

    def log_joint(self, rows: Any = slice(None), weighted: bool = True) -> Array:
        """Joint ln p(x, state) of the group's columns: ``(N, S)``."""
        weight = self.cell_weight[:, None] if weighted else 1.0
        out = self.onehot[rows] @ (self.log_table * weight) + self.log_pi
        for a, i in enumerate(self.numbers):
            w = self.weight[self.columns.index(i)] if weighted else 1.0
            out = out + w * self.number_log_prob(a, i, rows)
        return out

    def number_log_prob(self, a: int, i: int, rows: Any = slice(None)) -> Array:
        """Log-probability ln p(x_i|state) of one of the numbers, 0 where missing."""
        x = np.nan_to_num(self.design.code[rows, i])[:, None]
        if self.design.columns[i].kind == "counts":
            size = self.size[a]
            fn = torch.distributions.NegativeBinomial(
                torch.tensor(size), logits=torch.as_tensor(self.loc[a] - np.log(size))
            )
            value = fn.log_prob(torch.as_tensor(x)).numpy()
        else:
            value = -0.5 * ((x - self.loc[a]) / self.scale[a]) ** 2 - np.log(self.scale[a])
            value = value - 0.5 * math.log(2 * math.pi)
        return np.where(self.design.seen[rows, i][:, None], value, 0.0)

    def run(self, q: Array, n_iter: int, tol: float) -> tuple[Array, float, int, bool]:
        """EM from the states' probabilities: these, the log-likelihood a row, the iterations."""
        last, value = -math.inf, -math.inf
        for k in range(n_iter):
            self.maximise(q)
            joint = self.log_joint()
            top = joint.max(1, keepdims=True)
            total = top[:, 0] + np.log(np.exp(joint - top).sum(1))
            value = float(total.mean())
            q = np.exp(joint - total[:, None])
            if abs(value - last) < tol:
                return q, value, k + 1, True
            last = value
        return q, value, n_iter, False


def normalise(joint: Array) -> Array:
    """Probabilities from logarithms, along the last axis."""
    q = np.exp(joint - joint.max(-1, keepdims=True))
    return q / q.sum(-1, keepdims=True)


def _starts(group: Group, rng: np.random.RandomState) -> Iterator[Array]:
    """States' probabilities to start from: by the levels of one column, or at random."""
    design, s = group.design, group.n_states
    busy = sorted(group.levels, key=lambda i: -design.seen[:, i].mean())
    for i in busy[: _STARTS // 2]:
        level = np.nan_to_num(design.code[:, i], nan=-1).astype(int)
        mute = [-1, *range(design.width[i])] if design.width[i] > s else [-1]
        for silent in mute:  # a level that may tell nothing of the state, such as an erasure
            telling = [k for k in range(max(design.width[i], s)) if k != silent]
            guess = np.zeros(max(design.width[i], s), dtype=int)
            guess[telling] = rng.permutation(len(telling)) % s
            q = np.full((design.n, s), 1 / s)
            rows = (level >= 0) & (level != silent)
            q[rows] = 0.3 / s
            q[rows, guess[level[rows]]] += 0.7
            yield q
    score = np.zeros(design.n)  # the first principal component of what is observed
    if len(group.cells) or group.numbers:
        parts = [group.onehot - design.marginal[group.cells] * 1.0]
        parts += [np.nan_to_num(design.code[:, [i]] - np.nanmean(design.code[:, i]))
                  / (np.nanstd(design.code[:, i]) + 1e-12) for i in group.numbers]  # fmt: skip
        matrix = np.concatenate(parts, 1)
        _, vectors = np.linalg.eigh(matrix.T @ matrix)
        score = matrix @ vectors[:, -1]
        projected = matrix @ vectors[:, -min(s, matrix.shape[1]) :]
        centre = projected[rng.choice(design.n, s)]
        for _ in range(10):
            near = ((projected[:, None] - centre) ** 2).sum(2).argmin(1)
            for k in range(s):
                own = near == k
                centre[k] = projected[own].mean(0) if own.any() else projected[rng.choice(design.n)]
        yield 0.3 / s + 0.7 * np.eye(s)[near]
    rank = np.argsort(np.argsort(score)) * s // design.n
    yield 0.3 / s + 0.7 * np.eye(s)[rank]
    for _ in range(_STARTS // 2 if len(group.columns) > 3 else 2 * _STARTS):
        yield rng.dirichlet(np.full(s, 0.5), design.n)


Fitted = tuple[Group, Array, int, bool]
"""A group, its states' probabilities, the steps of EM that it took, and whether it converged."""


def fit_group(
    design: Design, columns: Sequence[int], n_states: int, weight: Array, n_iter: int, tol: float,
    rng: np.random.RandomState,
) -> Fitted:  # fmt: skip
    """The best of several starts after Akaike (1973), run to the end."""
    group = Group(design, columns, n_states, weight)
    if len(columns) < 2:
        q = np.zeros((design.n, n_states))
        q[:, 0] = 1.0
        group.maximise(q)
        return group, q, 0, True
    best: tuple[float, Array | None] = (-math.inf, None)
    for q in _starts(group, rng):
        q, value, _, _ = group.run(q, 12, 1e-4)
        value -= group.n_parameters(_ZERO) / design.n
        if value > best[0]:
            best = (value, q)
    assert best[1] is not None
    q, _, taken, converged = group.run(best[1], n_iter, tol)
    return group, q, taken, converged


def relevances(design: Design, groups: list[tuple[Group, Array]]) -> Array:
    """What each latent tells of each column, ``(m, d)`` in nats, without the column's own say.

    The mutual information of a column and the posterior given the *other* columns, less the bias
    of so many cells.
    """
    out = np.zeros((len(groups), design.d))
    for j, (group, q) in enumerate(groups):
        if len(group.columns) < 2:
            out[j, group.columns] = -1.0  # a lone column is better off anywhere
        joint = design.onehot.T @ q
        for i in range(design.d):
            cells = design.cells(i)
            if i in group.columns and len(group.columns) > 1:
                own = design.onehot[:, cells].T @ without(group, i)
            else:
                own = joint[cells]
            out[j, i] += _information(own)
    return out


def without(group: Group, i: int) -> Array:
    """The states' probabilities given all columns of the group but one."""
    joint = group.log_joint()
    if i in group.levels:
        own = group.of == group.levels.index(i)
        joint = joint - group.onehot[:, own] @ (
            group.log_table[own] * group.cell_weight[own][:, None]
        )
    else:
        w = group.weight[group.columns.index(i)]
        joint = joint - w * group.number_log_prob(group.numbers.index(i), i)
    return normalise(joint)


def _information(joint: Array) -> float:
    n = joint.sum()
    p = joint / max(n, 1e-12)
    outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 1e-12, p * np.log(p / outer), 0.0)
    cells = ((p.sum(1) > 1e-9).sum() - 1) * ((p.sum(0) > 1e-3).sum() - 1)
    return float(terms.sum() - cells / (2 * max(n, 1.0)))


def fit_classes(
    columns: Sequence[Column], batches: Batches, n_states: tuple[int, ...] | int, options: Any
) -> ClassesLayer:
    """Finds the groups, fits each, and moves columns until each is where most is told of it."""
    parts, rows = [], 0
    for batch in batches():
        parts.append(batch.numpy())
        rows += len(batch)
        if rows >= MAX_ROWS:
            break
    design = Design(columns, np.concatenate(parts)[:MAX_ROWS])
    rng = np.random.RandomState(options.seed)
    m = options.n_hidden
    states = [n_states] * m if isinstance(n_states, int) else list(n_states)
    together = [list(c) for c in options.anchors.values()]
    scores = pairwise_scores(design.onehot, design.starts)
    label = find_groups(scores, m, rng, together)
    place = np.array([*options.anchors, *[j for j in range(m) if j not in options.anchors], -1])
    held = {i: j for j, own in options.anchors.items() for i in own}
    weight = np.ones(design.d)
    for own in options.anchors.values():
        for i, strength in own.items():
            weight[i] = strength
    fitted = _settle(design, place[label], states, weight, held, options, rng)
    history = [{"elbo": float(sum(_evidence(group) for group, _, _, _ in fitted))}]
    program = _program(design, columns, fitted, states)
    return ClassesLayer(
        program,
        columns,
        n_parameters=np.array([group.n_parameters(_ZERO) for group, *_ in fitted]),
        history=history,
        n_iter=max([1, *[taken for _, _, taken, _ in fitted]]),
        converged=all(converged for _, _, _, converged in fitted),
    )


def _settle(
    design: Design, parent: Array, states: list[int], weight: Array, held: dict[int, int],
    options: Any, rng: np.random.RandomState,
) -> list[Fitted]:  # fmt: skip
    """Moves columns to the latents that tell most of them, while that raises the bound.

    :param parent: the latent of each column, -1 where it has none yet.
    """
    n_iter, tol = max(options.max_iter, 100), options.tol * 0.01

    def fit(parent: Array, known: Sequence[Fitted] = ()) -> list[Fitted]:
        out = []
        for j, s in enumerate(states):
            own = np.flatnonzero(parent == j).tolist()
            if known and known[j][0].columns == own:
                out.append(known[j])
            else:
                out.append(fit_group(design, own, s, weight, n_iter, tol, rng))
        return out

    fitted = fit(parent)
    for _ in range(12):
        told = relevances(design, [(group, q) for group, q, *_ in fitted])
        now = np.where(parent < 0, -np.inf, np.maximum(told[parent, np.arange(design.d)], 0.0))
        now[list(held)] = np.inf
        lead = told.max(0) - now
        movers = np.flatnonzero(lead > 1e-9)
        movers = movers[np.argsort(-lead[movers], kind="stable")]
        while len(movers):  # all of them, or the half that gains most, or half of these ...
            moved = parent.copy()
            moved[movers] = told[:, movers].argmax(0)
            trial = fit(moved, fitted)
            if (parent < 0).any() or _bound(trial) > _bound(fitted) + 1e-9:
                parent, fitted = moved, trial
                break
            movers = movers[: len(movers) // 2]
        if not len(movers):
            break
    return fitted


def _bound(fitted: Sequence[Fitted]) -> float:
    """What new rows would have in nats, less a constant: a nat for each parameter (Akaike 1973)."""
    n = fitted[0][0].design.n
    return sum(_evidence(group) - group.n_parameters() / n for group, *_ in fitted)


def _evidence(group: Group) -> float:
    if not group.columns:
        return 0.0
    joint = group.log_joint(weighted=False)
    top = joint.max(1)
    return float((top + np.log(np.exp(joint - top[:, None]).sum(1))).mean())


@torch.no_grad()
def _program(
    design: Design, columns: Sequence[Column], fitted: list[Any], states: list[int]
) -> LatentClasses:
    """The Pyro program with the parameters that EM has found."""
    parent = np.zeros(design.d, dtype=int)
    for j, (group, *_rest) in enumerate(fitted):
        parent[group.columns] = j
    spec = TableSpec(tuple(c.program_kind for c in columns), tuple(c.n_levels for c in columns))
    program = LatentClasses(spec, parent.tolist(), states).double()
    for j, (group, *_rest) in enumerate(fitted):
        s = states[j]
        program.class_logits[j, :s] = torch.as_tensor(group.log_pi)
        for a, i in enumerate(group.levels):
            k = design.width[i]
            program.table[i, :s, :k] = torch.as_tensor(group.log_table[group.of == a].T)
        for a, i in enumerate(group.numbers):
            program.loc[i, :s] = torch.as_tensor(group.loc[a])
            program.log_scale[i, :s] = torch.as_tensor(np.log(group.scale[a]))
            program.log_size[i] = float(np.log(group.size[a]))
    return program

"""Categorical latents: :class:`~pyro_corex.programs.LatentClasses`, found, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.estimator.group import ZERO, Design, Fitted, refine, table_information
from pyro_corex.estimator.grouping import find_groups, pairwise_scores
from pyro_corex.estimator.layer import Batches, Points, Training
from pyro_corex.estimator.parameters import Options
from pyro_corex.programs.latent_classes import LatentClasses
from pyro_corex.programs.tables import TableSpec

MAX_ROWS = 100_000
"""Rows from which groups and states are found; of longer tables the first."""


class CategoricalLayer:
    """A trained program and the order of its latents: a :class:`.Layer`."""

    style = False

    def __init__(
        self,
        program: LatentClasses,
        columns: Sequence[Column],
        n_parameters: Array,
        training: Training,
    ) -> None:
        self.program = program.eval()
        self.columns = list(columns)
        self.training = training
        self._n_parameters = n_parameters
        self.order = np.arange(len(program.n_states))
        """Reported latent -> the program's."""

    @property
    def n_hidden(self) -> int:
        """The number of latents."""
        return len(self.order)

    @property
    def parents(self) -> Array:
        """The reported latent of each column."""
        return np.argsort(self.order)[self.program.parents.numpy()]

    def reorder(self, order: Array) -> None:
        """Puts the reported latents into another order."""
        self.order = self.order[order]

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Array:
        """Probabilities of the states, ``(N, m, max n_states)``."""
        return self.program.encode(x).probs.numpy()[:, self.order]

    def encode(self, x: Tensor) -> Array:
        """The most probable states."""
        return self.posterior(x).argmax(-1).astype(float)

    def reported(self, z: Tensor) -> Array:
        """The program's latents as they are reported."""
        return z.numpy()[:, self.order].astype(float)

    def latents(self, reported: Array) -> Tensor:
        """The program's latents for reported ones."""
        states = np.clip(np.round(reported), 0, max(self.program.n_states) - 1)
        return torch.as_tensor(states[:, np.argsort(self.order)])

    def prior(self, n: int) -> Tensor:
        """Draws ``(n, m)`` of the latents."""
        return torch.multinomial(self.program.prior().exp(), n, replacement=True).T

    def points(self, x: Tensor) -> Points:
        """The states, by the probabilities that the parents of the columns are in them."""
        q = self.program.encode(x).probs
        one = torch.ones(1, self.n_hidden, dtype=torch.long)
        parents = self.program.parents
        return ((q[:, parents, state], one * state) for state in range(q.shape[-1]))

    def latent_kl(self, x: Tensor, kl: Mapping[str, Array]) -> Array:
        """That of each site."""
        return np.stack([kl[f"z_{j}"] for j in self.order], 1)

    def shares(self, mis: Array) -> Array:
        """All of a column's relevance is its parent's."""
        return (self.parents == np.arange(self.n_hidden)[:, None]).astype(float)

    def clusters(self, mis: Array) -> Array:
        """Whatever they are told, the groups."""
        return self.parents

    def parameters_by_latent(self) -> Array:
        """Those that are not at the border."""
        return self._n_parameters[self.order]

    def mutual_information(self, x: Tensor, n_data: Array) -> tuple[Array, Array]:
        """Of the rows, where they are observed.

        For levels from the joint frequencies with the states' probabilities, less the bias of so
        many cells; for numbers from the variance within states, as if they were normal.
        """
        code, q = x.numpy(), self.posterior(x)
        value = np.zeros((self.n_hidden, len(self.columns)))
        spread = np.zeros_like(value)
        for i, column in enumerate(self.columns):
            seen = ~np.isnan(code[:, i])
            for j, latent in enumerate(self.order):
                w = q[seen, j, : self.program.n_states[latent]]
                value[j, i], spread[j, i] = _mutual_information(column, code[seen, i], w)
        return np.maximum(value, 0), np.sqrt(np.maximum(spread, 0.5 / n_data) / n_data)


def _mutual_information(column: Column, x: Array, w: Array) -> tuple[float, float]:
    if column.n_levels:
        return table_information(np.eye(column.n_levels)[x.astype(int)].T @ w)
    x = np.log(x + 0.5) if column.kind == "counts" else x
    total = w.sum(0) + 1e-12
    mean = (w.T @ x) / total
    within = ((x[:, None] - mean) ** 2 * w).sum(0) / total
    variance = max(x.var(), 1e-12)
    ratio = np.maximum(within / variance, 1e-3)
    value = float(-0.5 * (total / total.sum()) @ np.log(ratio))
    return value, float(np.clip(2 * value, 0, 1))


# ---------------------------------------------------------------------- fitting


def fit_categorical(
    columns: Sequence[Column], batches: Batches, options: Options
) -> CategoricalLayer:
    """Finds the groups, fits each, and moves columns until each is where most is told of it."""
    parts, rows = [], 0
    for batch in batches():
        parts.append(batch.numpy())
        rows += len(batch)
        if rows >= MAX_ROWS:
            break
    design = Design(columns, np.concatenate(parts)[:MAX_ROWS])
    rng = np.random.RandomState(options.seed)
    m, anchors = options.n_hidden, options.anchors
    states = [options.n_states] * m if isinstance(options.n_states, int) else [*options.n_states]
    scores = pairwise_scores(design.onehot, design.starts)
    label = find_groups(scores, m, rng, [list(own) for own in anchors.values()])
    place = np.array([*anchors, *[j for j in range(m) if j not in anchors], -1])
    held = {i: j for j, own in anchors.items() for i in own}
    weight = np.ones(design.d)
    for i, j in held.items():
        weight[i] = anchors[j][i]
    fitted = refine(design, place[label], states, weight, held, options, rng)
    training = Training(
        history=[{"elbo": float(sum(each.group.evidence() for each in fitted))}],
        n_iter=max([1, *(each.n_iter for each in fitted)]),
        converged=all(each.converged for each in fitted),
    )
    n_parameters = np.array([each.group.n_parameters(ZERO) for each in fitted])
    return CategoricalLayer(_program(columns, fitted, states), columns, n_parameters, training)


@torch.no_grad()
def _program(
    columns: Sequence[Column], fitted: Sequence[Fitted], states: Sequence[int]
) -> LatentClasses:
    """The Pyro program with the parameters that EM has found."""
    parents = np.zeros(len(columns), dtype=int)
    for j, each in enumerate(fitted):
        parents[each.group.columns] = j
    spec = TableSpec(tuple(c.program_kind for c in columns), tuple(c.n_levels for c in columns))
    program = LatentClasses(spec, parents.tolist(), states).double()
    for j, (group, *_) in enumerate(fitted):
        s = states[j]
        program.class_logits[j, :s] = torch.as_tensor(group.log_pi)
        for a, i in enumerate(group.levels):
            program.table[i, :s, : columns[i].n_levels] = torch.as_tensor(
                group.log_table[group.of == a].T
            )
        for a, i in enumerate(group.numbers):
            program.loc[i, :s] = torch.as_tensor(group.loc[a])
            program.log_scale[i, :s] = torch.as_tensor(np.log(group.scale[a]))
            program.log_size[i] = float(np.log(group.size[a]))
    return program

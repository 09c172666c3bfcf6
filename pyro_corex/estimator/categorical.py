"""Categorical latents: :class:`~pyro_corex.programs.LatentClasses`, found, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from pyro_corex.estimator.classes import order_states
from pyro_corex.estimator.columns import Array, Coding, Column
from pyro_corex.estimator.design import Design
from pyro_corex.estimator.group import ZERO, Group, refine, tables_information
from pyro_corex.estimator.grouping import (
    MOST,
    find_groups,
    find_groups_of_many,
    pairwise_scores,
)
from pyro_corex.estimator.indicators import Indicators
from pyro_corex.estimator.layer import Layer, Points, Training, table_spec
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.sparse import Table
from pyro_corex.programs.latent_classes import LatentClasses

_BLOCK = 256  # columns that are treated at once
MAX_ROWS = 100_000
"""Rows from which groups and states are found; of longer tables the first."""


class CategoricalLayer(Layer):
    """A trained program and the order of its latents."""

    program: LatentClasses
    least_errors = 0.0  # as its groups are sought

    def __init__(
        self,
        program: LatentClasses,
        columns: Sequence[Column],
        n_parameters: Array,
        training: Training,
    ) -> None:
        self.program = program.eval()
        self.columns = list(columns)
        self.rotation = np.eye(self.n_hidden)
        self.training = training
        self._n_parameters = n_parameters

    @property
    def order(self) -> Array:
        """Reported latent -> the program's."""
        return self.rotation.argmax(0)

    @property
    def parents(self) -> Array:
        """The reported latent of each column."""
        return np.argsort(self.order)[self.program.parents.numpy()]

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Array:
        """Probabilities of the states, ``(N, m, max n_states)``."""
        return self.program.encode(x).probs.numpy()[:, self.order]

    def latents(self, reported: Array) -> Tensor:
        """The nearest states."""
        return super().latents(np.clip(np.round(reported), 0, self.program.n_points - 1))

    def prior(self, n: int) -> Tensor:
        """Draws ``(n, m)`` of the latents."""
        return torch.multinomial(self.program.prior().exp(), n, replacement=True).T

    def points(self, x: Tensor) -> Points:
        """The states, by the probabilities that the parents of the columns are in them."""
        q = self.program.encode(x).probs
        one = torch.ones(1, self.n_hidden, dtype=torch.long)
        parents = self.program.parents
        return ((q[:, parents, state], one * state) for state in range(q.shape[-1]))

    @torch.no_grad()
    def prior_points(self) -> Points:
        """The states, by the probabilities that the parents of the columns are in them."""
        p, one = self.program.prior().exp(), torch.ones(1, self.n_hidden, dtype=torch.long)
        return ((p[None, self.program.parents, s], one * s) for s in range(p.shape[-1]))

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

    @torch.no_grad()
    def doubts(self, x: Tensor, mis: Array, n_data: Array, often: Array | None = None) -> Array:
        """Of a column and the latent it belongs to, as the *other* columns tell it; 1 elsewhere."""
        program, out = self.program, np.ones_like(mis)
        each = np.ones(len(x)) if often is None else often
        joint = program.log_joint(x)
        for at, j in enumerate(self.order):
            states = torch.arange(program.n_states[j])[:, None, None]
            for kind, columns in program.members(int(j)):
                for start in range(0, len(columns), _BLOCK):
                    some = columns[start : start + _BLOCK]
                    value = x[:, some]
                    fn = program.column_distribution(kind, some, states)
                    own = fn.log_prob(value.nan_to_num()).masked_fill(value.isnan(), 0.0)
                    q = (joint[:, j, : len(states)].T[:, :, None] - own).softmax(0)
                    out[at, some] = _chance(value.numpy(), q.numpy(), kind, each)
        return out

    def mutual_information(
        self, x: Tensor, n_data: Array, often: Array | None = None
    ) -> tuple[Array, Array]:
        """Of the rows, where they are observed.

        For levels from the joint frequencies with the states' probabilities, less the bias of so
        many cells; for numbers from the variance within states, as if they were normal.
        """
        often = np.ones(len(x)) if often is None else often
        code, q = x.numpy(), self.posterior(x) * often[:, None, None]
        value = np.zeros((self.n_hidden, len(self.columns)))
        spread = np.zeros_like(value)
        width = np.array([column.n_levels for column in self.columns])
        levels = np.flatnonzero(width)
        hot = Indicators.of(
            (np.nan_to_num(code[:, i], nan=-1).astype(int), width[i]) for i in levels
        )
        parts = [own for own in np.array_split(np.flatnonzero(width == 0), 1 + len(width) // _BLOCK)
                 if len(own)]  # fmt: skip
        for j, latent in enumerate(self.order):
            own = q[:, j, : self.program.n_states[latent]]
            if len(levels):
                found = tables_information(hot.counts(own), hot.starts[:-1])
                value[j, levels], spread[j, levels] = found
            for numbers in parts:
                numeric = self._numbers(code, numbers, often)
                value[j, numbers], spread[j, numbers] = _mutual_information(numeric, own)
        n_data = np.minimum(n_data, np.maximum(often @ ~np.isnan(code), 1e-12))
        return np.maximum(value, 0), np.sqrt(np.maximum(spread, 0.5 / n_data) / n_data)

    def _numbers(self, code: Array, columns: Array, often: Array) -> Array:
        """Standardised numbers, of counts the logarithms, NaN where missing."""
        x = code[:, columns].copy()
        for a, i in enumerate(columns):
            if self.columns[i].kind == "counts":
                x[:, a] = np.log(x[:, a] + 0.5)
        known = np.maximum(often @ ~np.isnan(x), 1e-12)
        x -= often @ np.nan_to_num(x) / known
        return x / np.sqrt(np.maximum(often @ np.nan_to_num(x) ** 2 / known, 1e-12))


def _mutual_information(x: Array, q: Array) -> tuple[Array, Array]:
    """Of numbers ``(N, k)`` and states ``(N, S)``, as if numbers were normal within states."""
    seen = ~np.isnan(x)
    x = np.nan_to_num(x)
    total = seen.T.astype(float) @ q + 1e-12
    mean = (x.T @ q) / total
    within = np.maximum((x**2).T @ q / total - mean**2, 1e-3)
    value = -0.5 * (total / total.sum(1, keepdims=True) * np.log(within)).sum(1)
    return value, np.clip(2 * value, 0, 1)


def _chance(x: Array, q: Array, kind: str, often: Array) -> Array:
    """How probable it is by chance that columns ``(N, k)`` go with states ``(S, N, k)`` as they do.

    By Pillai's trace of levels, or numbers, and the states' probabilities, times the rows, each of
    which counts so ``often``, ``(N,)``.
    """
    seen = ~np.isnan(x) * often[:, None]
    n = np.maximum(seen.sum(0), 1e-12)
    q = (q - (q * seen).sum(1, keepdims=True) / n) * (seen > 0)
    inverse = np.linalg.pinv(
        np.einsum("snk,tnk,nk->kst", q, q, seen) / n[:, None, None], rcond=1e-9, hermitian=True
    )
    if kind == "levels":
        own = [(x == level) * seen for level in range(int(np.nanmax(x)) + 1)]
        sizes = [each.sum(0) for each in own]
        df = sum(1 * (size > 0) for size in sizes) - 1
    else:
        z = np.nan_to_num(np.log(x + 0.5) if kind == "counts" else x)
        z = z - (z * seen).sum(0) / n
        z = z / np.sqrt(np.maximum((z**2 * seen).sum(0) / n, 1e-12))
        own, sizes, df = [z * seen], [n], 1
    total = 0.0
    for each, size in zip(own, sizes, strict=True):
        mean = np.einsum("snk,nk->ks", q, each)
        total = total + np.einsum("ks,kst,kt->k", mean, inverse, mean) / np.maximum(size, 1e-12)
    return np.asarray(chi2.sf(total, np.maximum(df, 1) * (len(q) - 1)))


# ---------------------------------------------------------------------- fitting


def fit_categorical(coding: Coding, x: Table, options: Options) -> CategoricalLayer:
    """Finds the groups, fits each, and moves columns until each is where most is told of it."""
    often = None if options.weight is None else options.weight[:MAX_ROWS]
    design = Design(coding, x[:MAX_ROWS], often)
    rng = np.random.RandomState(options.seed)
    m, anchors = options.n_hidden, options.anchors
    states = [options.n_states] * m if isinstance(options.n_states, int) else [*options.n_states]
    together = [list(own) for own in anchors.values()]
    if design.d > min(max(design.n, _BLOCK), MOST):
        label = find_groups_of_many(design.hot, m, rng, together, often)
    else:
        label = find_groups(pairwise_scores(design.hot, often=often), m, rng, together)
    place = np.array([*anchors, *[j for j in range(m) if j not in anchors], -1])
    held = {i: strength for own in anchors.values() for i, strength in own.items()}
    design.weight[list(held)] = list(held.values())
    groups = refine(design, place[label], states, list(held), options, rng)
    training = Training(
        history=[{"elbo": sum(group.evidence() for group in groups)}],
        n_iter=max([1, *(group.n_iter for group in groups)]),
        converged=all(group.converged for group in groups),
    )
    n_parameters = np.array([group.n_parameters(ZERO) for group in groups])
    return CategoricalLayer(_program(coding.used, groups), coding.used, n_parameters, training)


@torch.no_grad()
def _program(columns: Sequence[Column], groups: Sequence[Group]) -> LatentClasses:
    """The Pyro program with the parameters that EM has found."""
    parents = np.zeros(len(columns), dtype=int)
    for j, group in enumerate(groups):
        parents[group.columns] = j
    states = [group.n_states for group in groups]
    program = LatentClasses(table_spec(columns), parents.tolist(), states).double()
    for j, group in enumerate(groups):
        s = group.n_states
        program.class_logits[j, :s] = torch.as_tensor(group.log_pi)
        for a, i in enumerate(group.levels):
            own = torch.as_tensor(group.log_table[group.of == a].T)
            program.table[i, :s, : columns[i].n_levels] = own
        for a, i in enumerate(group.numbers):
            program.loc[i, :s] = torch.as_tensor(group.loc[a])
            program.log_scale[i, :s] = torch.as_tensor(np.log(group.scale[a]))
            program.log_size[i] = float(np.log(group.size[a]))
    order_states(program)
    return program

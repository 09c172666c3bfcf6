"""What a fitted layer is: a protocol, and what every layer does in the same way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_corex.estimator.columns import Array, Column
from pyro_corex.information import Bracket, Estimate, aggregate_total_correlation
from pyro_corex.programs.latent_classes import LatentClasses
from pyro_corex.programs.tables import TableSpec, TableVAE

_FEW = 10  # rows below which nothing is said
_ALL = 1e8  # draws, times rows and latents, of which TC(z) is found, at most

Points = Iterable[tuple[Tensor, Tensor]]
"""Weights, which broadcast against ``(N, d)`` and sum to 1, and latents ``(N or 1, m)``."""


@dataclass
class Training:
    """How a layer was trained."""

    history: list[dict[str, float]] = field(default_factory=list)
    """One record an iteration: "elbo", in nats per row."""
    n_iter: int = 0
    converged: bool = True


class Layer(Protocol):
    """A trained program for the columns of a table, and how its latents are reported.

    Its tables are coded (see :class:`.Coding`): float64 tensors ``(N, d)``, NaN where an entry is
    missing.  What is reported of the latents, m of them, is in an order of its own, and may be
    turned, orthogonally or not; the last ones may be no latents to the user.
    """

    program: TableVAE | LatentClasses
    """The Pyro program, in evaluation mode: what it sums over has no noise."""
    columns: Sequence[Column]
    """The columns that vary."""
    rotation: Array
    """Reported latents are the program's times this matrix, ``(m, m)``."""
    training: Training
    n_extra: int = 0
    """How many of the last latents are not shown."""
    least_errors: float = -1.0
    """How many of its errors above 0 a latent's share of the bound has to be for it to have
    columns.  A bound of what is there may well be below 0; what was sought is there by chance."""

    @property
    def n_hidden(self) -> int:
        """The number of latents, m, with those that are not shown."""
        return self.program.latent_dim

    @property
    def n_reported(self) -> int:
        """The number of latents that are shown."""
        return self.n_hidden - self.n_extra

    def reorder(self, order: Array) -> None:
        """Puts the reported latents into another order."""
        self.rotation = self.rotation[:, order]

    def reported(self, z: Tensor) -> Array:
        """The program's latents as they are shown."""
        return z.numpy() @ self.rotation[:, : self.n_reported]

    def latents(self, reported: Array) -> Tensor:
        """The program's latents for all reported ones or those that are shown: ``(N, m)``."""
        return torch.as_tensor(reported @ np.linalg.inv(self.rotation)[: reported.shape[1]])

    @torch.no_grad()
    def encode(self, x: Tensor) -> Array:
        """The latents of each row that are shown: means, or most probable states."""
        return self.reported(self.program.encode(x).mode)

    def prior(self, n: int) -> Tensor:
        """Draws ``(n, m)`` of the program's latents."""

    def points(self, x: Tensor) -> Points:
        """Latents over which a mean is one over q(z|x)."""

    def prior_points(self) -> Points:
        """Latents over which a mean is one over the prior, ``(1, m)`` each."""

    def latent_kl(self, x: Tensor, kl: Mapping[str, Array]) -> Array:
        """How the KL of each row is shared among the reported latents: ``(N, m)``, in nats.

        :param kl: that of each latent site, ``(N,)``.
        """

    def mutual_information(
        self, x: Tensor, n_data: Array, often: Array | None = None
    ) -> tuple[Array, Array]:
        """I(z_j : x_i) in nats and standard errors, ``(m, d)`` each.

        :param n_data: how many entries of each column were observed.
        :param often: how often each row counts, ``(N,)``.
        """

    def doubts(self, x: Tensor, mis: Array, n_data: Array, often: Array | None = None) -> Array:
        """How probable it is by chance alone that each latent tells as much of each column.

        :param mis: what they tell, ``(m, d)``; the same shape is returned.
        :param n_data: how many entries of each column were observed.
        :param often: how often each row counts, ``(N,)``.
        """

    def shares(self, mis: Array) -> Array:
        """Shares of the latents in each column's relevance, ``(m, d)``, 1 in sum over latents."""

    def clusters(self, mis: Array) -> Array:
        """The latent of each column, ``(d,)``; ``mis`` is of those that are shown."""

    def parameters_by_latent(self) -> Array:
        """Free parameters of the dependence among the columns: ``(m,)``."""


def table_spec(columns: Sequence[Column]) -> TableSpec:
    """The columns as programs know them."""
    return TableSpec(tuple(c.program_kind for c in columns), tuple(c.n_levels for c in columns))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random state follows ``seed`` for a while."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def draw(layer: Layer, x: Tensor, seed: int) -> tuple[Tensor, Array]:
    """Fills missing entries with draws from the model; and the reported latents drawn."""
    with seeded(seed):
        z = layer.program.encode(x).sample()
        missing = x.isnan()
        filled = torch.where(missing, _draw_columns(layer, z), x) if missing.any() else x
        return filled, layer.reported(z)


@torch.no_grad()
def encodings(layer: Layer, x: Tensor) -> list[Array]:
    """The parameters of q(z|x): means and standard deviations ``(N, m)``, or the probabilities
    ``(N, m, n_states)``, of the program's latents.
    """
    q = layer.program.encode(x)
    return [value.numpy() for value in ([q.loc, q.scale] if hasattr(q, "loc") else [q.probs])]


def dependence(layer: Layer, encoded: Sequence[Array]) -> Bracket:
    """TC(z) of the reported latents, those that are not shown included, in nats.

    :param encoded: as :func:`encodings` gives them.
    """
    if layer.n_hidden == 1 or len(encoded[0]) < _FEW:
        known = layer.n_hidden == 1
        ends = Estimate(0.0, 0.0), Estimate(0.0 if known else math.inf, 0.0)
        return Bracket(0.0, ends[1].value, *ends, open=not known)
    turn = torch.as_tensor(layer.rotation) if len(encoded) > 1 else None
    draws = int(np.clip(_ALL / encoded[0].size, 256, 1024))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are too few, which the interval says, too
        parameters = map(torch.as_tensor, encoded)
        return aggregate_total_correlation(*parameters, num_samples=draws, turn=turn)


@torch.no_grad()
def sample(layer: Layer, n: int, seed: int, latents: Array | None = None) -> Tensor:
    """Rows from the model, coded, ``(n, d)``: from the prior or for reported latents."""
    with seeded(seed):
        if latents is None:
            return _draw_columns(layer, layer.prior(n))
        rest = torch.randn(n, layer.n_hidden - latents.shape[1], dtype=torch.float64).numpy()
        latents = np.column_stack([latents, rest])
        return _draw_columns(layer, layer.latents(latents))


def _draw_columns(layer: Layer, z: Tensor) -> Tensor:
    out = torch.empty(len(z), len(layer.columns), dtype=torch.float64)
    for _, columns, fn in layer.program.column_distributions(z):
        out[:, columns] = fn.sample().to(out.dtype)
    return out


@torch.no_grad()
def predict(layer: Layer, points: Points) -> list[Array]:
    """What the model expects of each column.

    :returns: for each column, probabilities of its levels ``(N, K)``, or means and standard
        deviations of its code ``(N, 2)``.
    """
    totals: list[Any] = [0.0] * len(layer.columns)
    for weight, z in points:
        for _, columns, fn in layer.program.column_distributions(z):
            if layer.columns[columns[0]].n_levels:
                value = fn.probs  # type: ignore[attr-defined]
            else:
                value = torch.stack([fn.mean, fn.variance + fn.mean**2], -1)
            for at, i in enumerate(columns):
                totals[i] = totals[i] + weight[:, i % weight.shape[1], None] * value[:, at]
    out = []
    for column, total in zip(layer.columns, totals, strict=True):
        p = total.numpy()
        if not column.n_levels:
            p[:, 1] = np.sqrt(np.maximum(p[:, 1] - p[:, 0] ** 2, 1e-12))
        out.append(p[:, : column.n_levels or 2])
    return out

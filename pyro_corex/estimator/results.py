"""From a fitted layer to the figures that the estimator shows, in nats.

The terms of the bound are those of :class:`~pyro_corex.CorExELBO`, and the bound is that of
:func:`~pyro_corex.tc_bound`.  Here it is corrected, and shared among latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import false_discovery_control
from torch import Tensor

from pyro_corex.estimator.blocks import blocks
from pyro_corex.estimator.columns import Array, log_marginals
from pyro_corex.estimator.layer import Layer, draw
from pyro_corex.estimator.weights import variance
from pyro_corex.evaluation import TCBound, tc_bound
from pyro_corex.evaluation.bound import evaluating
from pyro_corex.objective import CorExELBO
from pyro_corex.programs.tables import TableVAE

MAX_ROWS = 20_000
"""Rows on which the bound is evaluated; of longer tables a random subset."""
_DRAWS = 20  # of what is missing, at most
_CELLS = 1 << 18  # entries, times the values of a latent, that are evaluated at once
_ALL_CELLS = 1 << 24  # and that all draws of what is missing may take
_FALSE = 0.05  # of the columns with a latent, those that have it by chance
_GAP = 1e-6  # half the least width of a cell over which equal values are spread


@dataclass
class RowTerms:
    """The terms of the bound for each row, in nats."""

    reconstruction: Array
    """E ln q(x_i|z), ``(N, d)``, 0 where missing."""
    kl: Array
    """``(N,)``: that of all latents together."""
    latent_kl: Array
    """``(N, m)``: shares of the reported latents; they add up to ``kl``."""
    marginal: Array
    """Log p(x_i) on its own, as the columns are described, ``(N, d)``, 0 where missing."""

    @property
    def relevance(self) -> Array:
        """How much more is known of each entry than on its own, ``(N, d)``."""
        return self.reconstruction - self.marginal

    @property
    def bound(self) -> Array:
        """What each row adds to the bound on TC(x): ``(N,)``."""
        return self.relevance.sum(1) - self.kl


def row_terms(layer: Layer, x: Tensor) -> RowTerms:
    """The terms of coded rows; a row's own do not depend on the others."""
    if isinstance(layer.program, TableVAE) and layer.program.quadratic:
        return _quadratic_terms(layer, x)
    program, elbo = layer.program, CorExELBO(max_plate_nesting=2, strict_enumeration_warning=False)
    reconstruction = np.zeros(x.shape)
    kls: list[tuple[Array, Array]] = []
    with evaluating(program, 0):
        start = 0
        for rows in x.split(_batch_size(layer)):
            evidence = elbo.terms(program.model, program.guide, rows).evidence
            own = reconstruction[start : start + len(rows)]
            for site, columns in program.site_columns.items():
                own[:, columns] = evidence.matrix("reconstruction", site).numpy()
            terms = evidence.per_datum.items()
            kl = {site: term.numpy() for (kind, site), term in terms if kind == "kl"}
            total = sum(kl.values(), np.zeros(len(rows)))
            kls.append((total, layer.latent_kl(rows, kl)))
            start += len(rows)
            evidence.compact()
    totals, by_latent = map(np.concatenate, zip(*kls, strict=True))
    return RowTerms(reconstruction, totals, by_latent, log_marginals(layer.columns, x.numpy()))


@torch.no_grad()
def _quadratic_terms(layer: Layer, x: Tensor) -> RowTerms:
    """The same of normal columns and a linear program in closed form, to which the sum over points
    of :class:`~pyro_corex.programs.TableVAE` comes down.
    """
    program = layer.program
    q, w = program.encode(x), program.loadings()
    own = (q.loc @ w.T).add_(program.bias).sub_(x).square_()
    own += q.scale.square() @ w.square().T
    noise = (2 * program.log_scale).exp()
    own.div_(noise).add_((2 * math.pi * noise).log()).mul_(-0.5).masked_fill_(x.isnan(), 0.0)
    kl = (0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()).sum(1).numpy()
    by_latent = layer.latent_kl(x, {"z": kl})
    return RowTerms(own.numpy(), kl, by_latent, log_marginals(layer.columns, x.numpy()))


@dataclass
class SharedTerms:
    """The terms of rows, of which the columns' are summed by the latents that they are due to.

    What is credited to dependence is what the better of two marginals does not have: that of the
    description of the columns, which is coarse for some, and the model's.
    """

    relevance: Array
    """``(N, m)``: how much more is known of the columns than by their description."""
    latent_kl: Array
    """``(N, m)``."""
    columns: list[int]
    """Those of which the model's marginal may be the better."""
    elbo: Array
    """The bound on ln p of each row's observed entries, ``(N,)``."""
    gain: Array
    """How much more the model's marginal knows of these, ``(N, k)``, 0 where missing."""
    share: Array
    """Of the latents in the relevance of these, ``(m, k)``."""

    def bounds(self, better: Array) -> Array:
        """What the rows add to the bound by latent, ``(N, m)``.

        :param better: of which columns the model's marginal is taken, ``(k,)``.
        """
        taken = self.gain[:, better] @ self.share[:, better].T
        return self.relevance - taken - self.latent_kl


def shared_terms(layer: Layer, x: Tensor, share: Array) -> SharedTerms:
    """The terms of coded rows by latent; ``share`` is that in each column's relevance, ``(m, d)``.

    No more than a block of rows is held with all of its columns.
    """
    linear = isinstance(layer.program, TableVAE) and not layer.program.hidden
    known = ("counts",) if linear else ("counts", "continuous")
    columns = [i for i, column in enumerate(layer.columns) if column.kind in known]
    gain = np.zeros((len(x), len(columns)))
    relevance, latent_kl = np.empty((2, len(x), layer.n_hidden))
    elbo = np.empty(len(x))
    for some in blocks(*x.shape):
        rows = x[some]
        terms = row_terms(layer, rows)
        if columns:
            own = _model_marginal(layer, rows) - terms.marginal
            own[rows.isnan().numpy()] = 0.0
            gain[some] = own[:, columns]
        elbo[some] = terms.reconstruction.sum(1) - terms.kl
        terms.reconstruction -= terms.marginal
        relevance[some], latent_kl[some] = terms.reconstruction @ share.T, terms.latent_kl
    return SharedTerms(relevance, latent_kl, columns, elbo, gain, share[:, columns])


@torch.no_grad()
def _model_marginal(layer: Layer, x: Tensor) -> Array:
    """Log-probability of each entry under the program, whatever the others: ``(N, d)``."""
    total = torch.full(x.shape, -torch.inf, dtype=torch.float64)
    filled = x.nan_to_num()
    for weight, z in layer.prior_points():
        for _, columns, fn in layer.program.column_distributions(z):
            own = fn.log_prob(filled[:, columns]) + weight.expand(1, x.shape[1])[:, columns].log()
            total[:, columns] = torch.logaddexp(total[:, columns], own)
    return total.numpy()


def _batch_size(layer: Layer) -> int:
    return max(1, _CELLS // (layer.program.n_points * len(layer.columns)))


# ---------------------------------------------------------------------- the bound of a table


@dataclass(frozen=True, repr=False)
class InSampleBound(TCBound):
    """The bound of a program on the very rows that it was fitted to, which is too high for one."""

    def __repr__(self) -> str:
        return (
            f"{super().__repr__()[:-1]}\n  of the rows that the program was fitted to, and too "
            "high by the optimism of that: tc_ is without it)"
        )


@dataclass
class Results:
    """What the bound says of a table: see the attributes of :class:`~pyro_corex.CorEx`."""

    bound: TCBound
    corrections: dict[str, float]
    tc_stderr: float
    tcs: Array
    """Of the latents that are shown; so are the next."""
    tcs_stderr: Array
    mis: Array
    mis_stderr: Array
    doubts: Array
    """How probable it is by chance alone that a latent tells as much of a column, ``(m, d)``."""
    alive: Array
    """Which latents may tell something, ``(m,)``: what they add is above ``least`` errors."""
    least: float
    """See :attr:`.Layer.least_errors`."""
    extra: float
    """What those add that are not shown."""
    tc_observed: float
    elbo: float
    """The bound on ln p of a row's observed entries, on average."""
    draws: Array
    """Latents drawn for the rows looked at."""
    optimism: Array
    """By latent: half a nat for each parameter and the number of rows."""
    worth: float
    """How many rows there are for each complete row that the entries are worth."""
    above: list[tuple[float, float]] = field(default_factory=list)
    """What each layer above adds, and its error, where rows were held out."""


def completed(layer: Layer, x: Tensor, seed: int, fill: bool = True) -> Tensor:
    """Coded rows with their gaps filled, or not, as the bound is evaluated on them.

    Where a column is measured by a density, values that repeat would have no finite entropy.
    """
    fill = fill and bool(x.isnan().any())
    filled = draw(layer, x, seed)[0] if fill else x
    rng = np.random.default_rng(seed)
    numbers = np.array([i for i, c in enumerate(layer.columns) if c.kind == "continuous"], int)
    for some in (numbers[own] for own in blocks(len(numbers), len(x))):
        ordered = np.sort(filled[:, some].numpy(), 0)
        for i in some[(ordered[1:] == ordered[:-1]).any(0)]:
            filled = filled.clone() if filled is x else filled
            filled[:, i] = torch.as_tensor(spread_ties(filled[:, i].numpy(), rng))
    return filled


def spread_ties(x: Array, rng: np.random.Generator) -> Array:
    """Values ``(N,)``, of which those that repeat are drawn from cells between their neighbours.

    What noise in disjoint cells adds to the entropy of a column it adds to that of all of them, so
    that their difference, TC(x), stays.
    """
    seen = ~np.isnan(x)
    if not seen.all():
        out = x.copy()
        out[seen] = spread_ties(x[seen], rng)
        return out
    ordered = np.sort(x)
    if not (ordered[1:] == ordered[:-1]).any():
        return x
    values, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    half = np.diff(values) / 2 if len(values) > 1 else np.array([0.5])
    below, above = np.concatenate([half[:1], half]), np.concatenate([half, half[-1:]])
    below, above = (np.maximum(side[: len(values)], _GAP)[place] for side in (below, above))
    spread = x - below + (below + above) * rng.random(len(x))
    return np.where(counts[place] > 1, spread, x)


def evaluate(
    layer: Layer, x: Tensor, n_data: float, seed: int, often: Array | None = None
) -> Results:
    """The bound of Eq. 10 on a table, and how it is shared among latents and columns.

    Missing entries are filled with draws from the model given the observed ones, several times
    where rows are few, so that the bound is that of complete rows; on the observed entries alone it
    bounds the mean over rows of the TC of what is observed in them.

    :param x: coded rows, at most ``MAX_ROWS``.
    :param n_data: the number of rows that the layer was trained on, or what they count.
    :param often: how often each row counts, ``(N,)``.
    """
    missing = x.isnan()
    n, m = len(x), layer.n_hidden
    cells = x.numel() * layer.program.n_points
    n_draws = int(np.clip(_ALL_CELLS // cells, 1, _DRAWS)) if missing.any() else 1
    seen = np.average(~missing.numpy(), 0, often)
    counts = np.maximum(seen, 1e-12) * n_data
    mis, mis_stderr = layer.mutual_information(x, counts, often)
    doubts = layer.doubts(x, mis, counts, often)
    share = layer.shares(mis)
    known = informative_rows(~missing.numpy(), share, often) * n_data / n
    optimism = layer.parameters_by_latent() / (2 * known)
    bound = tc_bound(layer.program, completed(layer, x, seed), batch_size=_batch_size(layer))
    fills = [draw(layer, x, seed + k) for k in range(n_draws)]
    rows = torch.cat([x, *(filled for filled, _ in fills)]) if missing.any() else x
    terms = shared_terms(layer, rows, share)
    each = np.tile(np.ones(n) if often is None else often, len(rows) // n)
    better = np.average(terms.gain, 0, each) > -_frequencies(layer, terms, n_data)
    per_latent = terms.bounds(better).reshape(-1, n, m)
    observed, *values = per_latent.sum(-1)
    if not missing.any():
        values = [observed]
    drawn = per_latent[-n_draws:]
    means = np.average(values, 1, often)
    whole = variance(np.array(values), often, 1).mean()
    tcs = np.average(drawn, 1, often).mean(0) - optimism
    tcs_stderr = np.sqrt(variance(drawn, often, 1).mean(0) / known)
    k = layer.n_reported
    corrections = {
        "marginals": float(np.mean(values[0])) - bound.estimate,
        "completion": float(means.mean() - means[0]),
        "optimism": -float(optimism.sum()),
    }
    if often is not None:
        corrections["sample weights"] = float(means[0] - np.mean(values[0]))
    return Results(
        bound=InSampleBound(**vars(bound)),
        corrections=corrections,
        tc_stderr=float(np.sqrt(whole / known.mean())),
        tcs=tcs[:k],
        tcs_stderr=tcs_stderr[:k],
        mis=mis[:k],
        mis_stderr=mis_stderr[:k],
        doubts=doubts[:k],
        alive=tcs[:k] > layer.least_errors * tcs_stderr[:k],
        least=layer.least_errors,
        extra=float(tcs[k:].sum()),
        tc_observed=float(np.average(observed, 0, often) - optimism.sum() * seen.mean()),
        elbo=float(np.average(terms.elbo[:n], 0, often)),
        draws=fills[-1][1],
        optimism=optimism,
        worth=float(n_data / known.mean()),
    )


def _frequencies(layer: Layer, terms: SharedTerms, n: float) -> Array:
    """How much likelier the frequencies of counts make the rows than they make new ones.

    By leaving each row out of the frequencies by which it is judged.

    :returns: of each column of the terms, in nats for each row, ``(k,)``; 0 for other kinds.
    """
    out = np.zeros(len(terms.columns))
    for at, i in enumerate(terms.columns):
        if layer.columns[i].kind == "counts":
            p = np.exp(layer.columns[i].marginal)
            spare = 0.5 / len(p)  # that were added to each, see description.py
            counts = np.round(p * (n - layer.columns[i].missing + 0.5) - spare)
            counts = counts[counts > 0]
            out[at] = counts @ np.log((counts + spare) / (counts - 1 + spare)) / n
    return out


def informative_rows(seen: Array, share: Array, often: Array | None = None) -> Array:
    """How many complete rows the observed entries are worth to each latent: ``(m,)``.

    The mean over its columns of the entries in rows that have two or more of them: a single one
    tells nothing of how columns agree.

    :param seen: ``(N, d)``; *share* ``(m, d)``, how much of a column is a latent's.
    :param often: how often each row counts, relative to the others.
    """
    loads = (share.T > 0).astype(float)
    each = np.ones(len(seen)) if often is None else often * (len(seen) / often.sum())
    entries = np.zeros(share.shape)
    for own in blocks(*seen.shape):
        known = seen[own].astype(float)
        entries += ((known @ loads > 1) * each[own, None]).T @ known
    total = share.sum(1)
    mean = (entries * share).sum(1) / np.maximum(total, 1e-300)
    return np.maximum(np.where(total > 0, mean, len(seen)), 1.0)


def assign(
    layer: Layer,
    mis: Array,
    doubts: Array,
    alive: Array,
    anchors: Mapping[int, Mapping[int, float]],
) -> Array:
    """The latent that tells most of each column, -1 where it may well be chance: ``(d,)``.

    Of the columns that have a latent, 1 in 20 at most is expected to depend on none (Benjamini and
    Hochberg 1995).  With fewer than 10 rows, nothing can be said of that.

    :param mis: of the m latents, ``(m, d)``; *doubts* likewise, see :meth:`.Layer.doubts`.
    :param alive: which latents may tell anything, ``(m,)``.
    :param anchors: latent -> its columns, which stay.
    """
    label = layer.clusters(np.where(alive[:, None], mis, 0.0))
    chance = np.minimum(1.0, alive.sum() * doubts[label, np.arange(len(label))])
    chance[~alive[label]] = 1.0
    held = [i for own in anchors.values() for i in own]
    free = np.setdiff1d(np.arange(len(label)), held)
    if len(free):
        label[free[false_discovery_control(chance[free]) > _FALSE]] = -1
    return label


def some_rows(x: Array, rng: np.random.RandomState) -> Any:
    """Which rows of a table are looked at."""
    if len(x) <= MAX_ROWS:
        return slice(None)
    return np.sort(rng.choice(len(x), MAX_ROWS, replace=False))


def order_of(tcs: Array, anchors: Any) -> Array:
    """Sorts the latents, largest first; those with anchors stay."""
    order = np.arange(len(tcs))
    free = np.array([j for j in order if j not in anchors], dtype=int)
    order[free] = free[np.argsort(-tcs[free], kind="stable")]
    return order

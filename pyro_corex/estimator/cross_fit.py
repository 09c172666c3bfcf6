"""Cross-fitting: a layer is fitted to some of the rows, and the terms are those of the others.

On rows that a layer was fitted to, its bound is too high, and no asymptotic correction mends that
where parameters rival rows.  On rows held out it is a bound: there, whatever was learned of noise
costs as much as it claims.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pyro_corex.estimator.categorical import fit_categorical
from pyro_corex.estimator.columns import Array, Coding, Column
from pyro_corex.estimator.description import describe_again
from pyro_corex.estimator.layer import Layer, draw, sample
from pyro_corex.estimator.parameters import Options
from pyro_corex.estimator.results import (
    MAX_ROWS,
    Results,
    SharedTerms,
    completed,
    row_terms,
    shared_terms,
)
from pyro_corex.programs.tables import TableVAE

Fit = Callable[[Coding, Array, Options], Layer]

_FOLDS = 5
_FEW = 10  # rows below which nothing is said
_ENOUGH = 30  # rows for which an asymptotic correction is worth anything
_CLEAR = {"gaussian": 1.0, "categorical": 0.25}  # standard errors that the optimism may come to
_REPEATS = 5  # rows from the model for each row with gaps


@dataclass
class Held:
    """The terms of rows that a layer was not fitted to, in nats."""

    terms: SharedTerms
    """By latent; one that is not shown is after the m others.  Columns are the table's."""
    completion: Array
    """What missing entries would add, as far as the observed ones confirm it: ``(n, m + 1)``."""
    above: Array
    """What each layer above adds, ``(n, L - 1)``."""
    often: Array
    """How often each row counts, ``(n, 1)``."""


def _better(parts: Sequence[Held], d: int) -> Array:
    """Of which columns of a table the model's marginal is the better, ``(d,)``."""
    total = np.zeros(d)
    for part in parts:
        total[part.terms.columns] += part.often[:, 0] @ part.terms.gain
    return total > 0


def _bounds(part: Held, better: Array) -> Array:
    """The latents' shares in the bound of each row's observed entries, ``(n, m + 1)``."""
    return part.terms.bounds(better[part.terms.columns])


def n_folds(cv: Any, found: Results, layer: Layer, n: int) -> int:
    """How many folds there are to be: 0 where the asymptotic correction is good enough, and 1
    where there are too few rows for any.

    It is where it is no larger than the standard error, or a quarter of that for categorical
    latents, and there are 30 rows.  Of those that find noise, Gaussian ones gain up to 1.5 times
    half their parameters, however many rows there are, and categorical ones, whose groups are
    sought, up to 4 times.

    ``None`` warns where columns exceed rows.  What parameters rival rows find in noise follows no
    asymptotic rule: it is less than that where loadings are shrunken, and more elsewhere.

    :raises ValueError: for more folds than rows.
    """
    if cv is None:
        if (d := len(layer.columns)) > n:
            warnings.warn(
                f"tc_ is not to be trusted with cv=None on more columns ({d}) than rows ({n}): the "
                "asymptotic optimism that is taken off is too much where loadings are shrunken, so "
                "that tc_ may be far below 0, and too little elsewhere. Leave cv='auto', which "
                "holds rows out.",
                stacklevel=4,
            )
        return 0
    if cv == "auto":
        optimism = float(found.optimism.sum())
        if isinstance(layer.program, TableVAE) and layer.program.hidden:  # as if all counted
            optimism = sum(p.numel() for p in layer.program.parameters()) / (2 * n)
        kind = "gaussian" if isinstance(layer.program, TableVAE) else "categorical"
        if n < _FEW:
            return 1
        return 0 if n >= _ENOUGH and optimism <= _CLEAR[kind] * found.tc_stderr else _FOLDS
    if cv > n:
        raise ValueError(f"cv must be at most the number of rows, {n}, but got {cv}")
    return int(cv)


def cross_fit(
    x: Array, columns: Sequence[Column], fit: Fit, options: Options, n_folds: int, found: Results
) -> Results:
    """The results of a table with all that is shown of the bound from rows held out.

    :param x: the table, ``(N, d)``.
    :param columns: as they were found in all rows, of which only the kinds are used.
    :param found: the results of the layer that was fitted to all rows.
    :param n_folds: with one, nothing is known: 0 is a bound on TC(x), with an infinite error.
    """
    if n_folds == 1:
        return _unknown(found, len(options.layers) - 1)
    order = np.random.default_rng(options.seed).permutation(len(x))
    weight = np.ones(len(x)) if options.weight is None else options.weight
    apart = fit is fit_categorical
    held = []
    for test in np.array_split(order, n_folds):
        train, rows = np.setdiff1d(order, test), np.sort(test[: max(2, MAX_ROWS // n_folds)])
        own = replace(options, weight=None if options.weight is None else weight[train])
        held.append(_hold_out([x[train], x[rows]], columns, fit, own, found.mis, weight[rows]))
    # by their weights, which are 1 on average, so that means are means of rows
    mean = np.concatenate([part.often for part in held]).mean()
    often = [part.often / mean for part in held]
    better = _better(held, len(columns))
    observed = [_bounds(p, better) * w for p, w in zip(held, often, strict=True)]
    whole = [own + p.completion * w for own, p, w in zip(observed, held, often, strict=True)]
    m = len(found.tcs)
    kept = _confirmed(whole if apart else [p.sum(1, keepdims=True) for p in whole])
    tcs = _mean(whole, kept)
    confirmed = np.clip(tcs[:m] / np.maximum(found.tcs + found.optimism[:m], 1e-12), 0, 1)
    above = [p.above * w for p, w in zip(held, often, strict=True)]
    about = [p - w * tcs for p, w in zip(whole, often, strict=True)]
    stderrs = np.array([_stderr([p[:, j] for p in about]) for j in range(m)])
    over = _mean(above, _confirmed(above) & kept.any(1, keepdims=True))
    beside = [p - w * over for p, w in zip(above, often, strict=True)]
    tc = float(tcs.sum())
    rest = {k: v for k, v in found.corrections.items() if k != "optimism"}
    scale = np.sqrt(found.worth)
    return replace(
        found,
        corrections=rest | {"held-out rows": tc - found.bound.estimate - sum(rest.values())},
        tc_stderr=_stderr([p.sum(1) for p in about]) * scale,
        tcs=tcs[:m],
        tcs_stderr=stderrs * scale,
        alive=(np.concatenate(whole).mean(0)[:m] > found.least * stderrs) & kept.any(),
        extra=float(tcs[m]),
        mis=found.mis * confirmed[:, None],
        tc_observed=float(_mean(observed, kept).sum()),
        above=[
            (float(tc), _stderr([p[:, k] for p in beside]) * scale) for k, tc in enumerate(over)
        ],
    )


def _confirmed(parts: Sequence[Array]) -> Array:
    """Of each fold, which parts of the bound ``(n, k)`` the others find above 0: ``(folds, k)``.

    What they do not is left out of the model of the fold: without a latent, its columns are
    independent, and add 0.  No row has a say in what is left out of its own model.
    """
    sums = np.array([part.sum(0) for part in parts])
    return sums.sum(0) - sums > 0


def _mean(parts: Sequence[Array], kept: Array) -> Array:
    """Over all rows, of what is kept in their folds: ``(k,)``."""
    return np.concatenate([p * own for p, own in zip(parts, kept, strict=True)]).mean(0)


def _unknown(found: Results, above: int) -> Results:
    corrections = {k: v for k, v in found.corrections.items() if k != "optimism"}
    corrections["held-out rows"] = -found.bound.estimate - sum(corrections.values())
    return replace(
        found,
        corrections=corrections,
        tc_stderr=np.inf,
        tcs=0 * found.tcs,
        tcs_stderr=found.tcs_stderr + np.inf,
        mis_stderr=found.mis_stderr + np.inf,
        alive=np.ones(len(found.tcs), bool),
        extra=0.0,
        tc_observed=0.0,
        above=[(0.0, np.inf)] * above,
    )


def _stderr(folds: Sequence[Array]) -> float:
    """The standard error of the mean of all: that of rows, and what folds differ beyond it."""
    n = np.array([len(values) for values in folds])
    rows = np.concatenate(folds)
    if len(rows) == len(folds):
        return float(rows.std(ddof=1) / np.sqrt(len(rows)))
    mean = np.array([values.mean() for values in folds])
    within = sum(float(np.square(v - a).sum()) for v, a in zip(folds, mean, strict=True))
    within /= max(1, len(rows) - len(folds))
    between = max(0.0, float(mean.var(ddof=1) - within * np.mean(1 / n)))
    return float(np.sqrt(within / len(rows) + between / len(folds)))


def _hold_out(
    parts: list[Array],
    columns: Sequence[Column],
    fit: Fit,
    options: Options,
    mis: Array,
    often: Array,
) -> Held:
    """Fits a layer, and those above it, to some rows, and evaluates them on others.

    :param parts: the rows that it is fitted to, and the others; they are let go of.
    :param mis: of the latents that are reported, for the columns that vary: those of the layer are
        put in their order.
    :param often: how often each of the others counts.
    """
    train, test = parts
    parts.clear()
    m, n = options.n_hidden, len(test)
    above = len(options.layers) - 1
    coding = Coding(describe_again(columns, train, options.weight))
    nothing = np.zeros((n, m + 1))
    out = Held(
        SharedTerms(nothing, nothing, [], np.zeros(n), np.zeros((n, 0)), np.zeros((m + 1, 0))),
        nothing, np.zeros((n, above)), often[:, None],
    )  # fmt: skip
    if not coding.used:
        return out
    layer = fit(coding, train, replace(options, anchors=anchors_within(options, columns, coding)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # states that are not in the other rows count as missing
        code = coding.encode(test)
    seen, n_train = coding.encode(train), len(train)
    del train, test
    spread = completed(layer, code, options.seed, fill=False)
    n_data = np.full(len(coding.used), float(n_train))
    told, _ = layer.mutual_information(seen, n_data, options.weight)
    place = _place(coding.widen(told[:m]), mis, columns)
    place = np.append(place, np.arange(m, layer.n_hidden))
    share = layer.shares(told)
    found = shared_terms(layer, spread, share)

    def placed(values: Array) -> Array:
        wide = np.zeros((m + 1, values.shape[1]))
        wide[place] = values
        return wide

    out.terms = SharedTerms(
        placed(found.relevance.T).T,
        placed(found.latent_kl.T).T,
        np.flatnonzero(coding.varies)[found.columns].tolist(),
        found.elbo,
        found.gain,
        placed(found.share),
    )
    if spread.isnan().any():
        out.completion = placed(_completion(layer, spread, share, options.seed, often).T).T
    if above:
        _, z = draw(layer, seen, options.seed)
        _, new = draw(layer, code, options.seed + 1)
        upper = [Column(f"latent {j}", "continuous") for j in range(z.shape[1])]
        inner = replace(options, layers=options.layers[1:], anchors={})
        higher = _hold_out([z, new], upper, fit, inner, np.eye(inner.n_hidden, z.shape[1]), often)
        out.above[:, 0] = _bounds(higher, _better([higher], len(upper))).sum(1)
        out.above[:, 1:] = higher.above
    return out


def anchors_within(options: Options, columns: Sequence[Column], coding: Coding) -> Any:
    """The anchors by the columns that vary in these rows."""
    of = np.flatnonzero([column.varies for column in columns])
    place = np.cumsum(coding.varies) - 1
    found = {
        latent: {int(place[of[i]]): s for i, s in own.items() if coding.varies[of[i]]}
        for latent, own in options.anchors.items()
    }
    return {latent: own for latent, own in found.items() if own}


def _place(told: Array, mis: Array, columns: Sequence[Column]) -> Array:
    """Which of the reported latents each latent of a fold is, by the columns that it tells."""
    wide = np.zeros((len(told), len(columns)))
    wide[:, [column.varies for column in columns]] = mis[: len(told)]
    norms = np.linalg.norm(told, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
    return linear_sum_assignment(-(told @ wide.T) / np.maximum(norms, 1e-12))[1]


def _completion(layer: Layer, x: Tensor, share: Array, seed: int, often: Array) -> Array:
    """What the missing entries add to each row's bound under the model, as far as it is confirmed.

    That is by how much of the bound of the observed entries that the model expects, rows that it
    was not fitted to have.
    """

    def bounds(rows: Tensor) -> Array:
        terms = row_terms(layer, rows)
        return terms.relevance @ share.T - terms.latent_kl

    repeated = x.repeat(_REPEATS, 1)
    expected = torch.where(repeated.isnan(), repeated, sample(layer, len(repeated), seed))
    observed = bounds(x)
    claimed = np.average(bounds(expected).sum(1), weights=np.tile(often, _REPEATS))
    confirmed = np.average(observed.sum(1), weights=often) / max(claimed, 1e-12)
    return np.clip(confirmed, 0.0, 1.0) * (bounds(completed(layer, x, seed)) - observed)

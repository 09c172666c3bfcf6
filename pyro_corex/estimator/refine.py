"""Moves columns between groups until each is with the latent that tells most of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import rel_entr

from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.group import Design, Fitted, fit_group
from pyro_corex.estimator.parameters import Options


def table_information(counts: Array) -> tuple[float, float]:
    """Mutual information of a table of counts in nats, and the variance of its summand.

    It is less the bias of so many cells (Miller 1955), and may be negative.
    """
    n = max(counts.sum(), 1e-12)
    p = counts / n
    ratio = rel_entr(p, p.sum(1, keepdims=True) * p.sum(0))
    value = ratio.sum()
    variance = (ratio**2 / np.maximum(p, 1e-12)).sum() - value**2
    cells = ((p.sum(1) > 1e-9).sum() - 1) * ((p.sum(0) > 1e-3).sum() - 1)
    return float(value - cells / (2 * max(n, 1.0))), float(variance)


def relevances(design: Design, fitted: Sequence[Fitted]) -> Array:
    """What each latent tells of each column, ``(m, d)`` in nats, without the column's own say.

    The mutual information of a column and the posterior given the *other* columns, less the bias
    of so many cells.
    """
    out = np.zeros((len(fitted), design.d))
    for j, (group, q, *_) in enumerate(fitted):
        if len(group.columns) < 2:
            out[j, group.columns] = -1.0  # a lone column is better off anywhere
        joint = design.onehot.T @ q
        for i in range(design.d):
            cells = design.cells(i)
            table = joint[cells]
            if i in group.columns and len(group.columns) > 1:
                table = design.onehot[:, cells].T @ group.without(i)
            out[j, i] += table_information(table)[0]
    return out


def refine(
    design: Design, parent: Array, states: Sequence[int], weight: Array, held: Mapping[int, int],
    options: Options, rng: np.random.RandomState,
) -> list[Fitted]:  # fmt: skip
    """Moves columns to the latents that tell most of them, while that raises the bound.

    :param parent: the latent of each column, -1 where it has none yet.
    :param weight: how often the likelihood of each column counts.
    :param held: columns that stay where they are.
    """
    n_iter, tol = max(options.max_iter, 100), options.tol * 0.01

    def fit(parent: Array, known: Sequence[Fitted] = ()) -> list[Fitted]:
        out = []
        for j, s in enumerate(states):
            own = np.flatnonzero(parent == j).tolist()
            if known and known[j].group.columns == own:
                out.append(known[j])
            else:
                out.append(fit_group(design, own, s, weight, n_iter, tol, rng))
        return out

    fitted = fit(parent)
    for _ in range(12):
        told = relevances(design, fitted)
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
    n = fitted[0].group.design.n
    return sum(each.group.evidence() - each.group.n_parameters() / n for each in fitted)

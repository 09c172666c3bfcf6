"""Standard errors of what is shown of latents: they are fitted again to rows that are drawn again.

One way for all of them (Efron and Tibshirani 1993), whatever was done to the latents after they
were fitted, and without the assumption that the model is right.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from pyro_corex.estimator.blocks import most_rows, some_rows
from pyro_corex.estimator.categorical import CategoricalLayer, fit_categorical
from pyro_corex.estimator.classes import class_figures
from pyro_corex.estimator.columns import Array, Coding
from pyro_corex.estimator.correlations import Correlations
from pyro_corex.estimator.cross_fit import anchors_within
from pyro_corex.estimator.description import describe_again
from pyro_corex.estimator.gaussian import fit_gaussian
from pyro_corex.estimator.goodness import reliability
from pyro_corex.estimator.layer import draw
from pyro_corex.estimator.loadings import factor_figures
from pyro_corex.estimator.parameters import Options, check_parameters
from pyro_corex.estimator.results import shared_terms
from pyro_corex.estimator.sparse import Table
from pyro_corex.estimator.table import column_names
from pyro_corex.estimator.told import read_anchors


def standard_errors(e: Any, x: Table, weight: Array | None, n_draws: int) -> dict[str, Any]:
    """Those of a fitted estimator's attributes that speak of its latents, by name.

    :param x: the table that was fitted, ``(N, d)``.
    :param weight: of its rows, where they are those of a survey.
    """
    options, rng = _options(e), np.random.default_rng(e._seed)
    draws = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is told of the table is told by fit
        for _ in range(n_draws):
            rows = np.sort(rng.integers(len(x), size=len(x)))
            own = None if weight is None else weight[rows]
            draws.append(_figures(e, x, x[rows], replace(options, weight=own)))
    return {name: _spread([draw[name] for draw in draws]) for name in draws[0]}


def _options(e: Any) -> Options:
    """With which the estimator's first layer was fitted; classes keep their columns."""
    layer = e._layer
    found = replace(
        check_parameters(e), layers=(e.n_hidden_,), seed=e._seed, style=bool(layer.n_extra)
    )
    if isinstance(layer, CategoricalLayer):
        own = {j: np.flatnonzero(layer.parents == j).tolist() for j in range(e.n_hidden_)}
        states = tuple(layer.program.n_states[j] for j in layer.order)
        anchors = {j: dict.fromkeys(columns, 1.0) for j, columns in own.items() if columns}
        return replace(found, n_states=states, anchors=anchors)
    varies, strength = e._coding.varies, e.anchor_strength
    anchors = read_anchors(e.anchors, column_names(e), varies, e.n_hidden_, strength)
    return replace(found, anchors=anchors)


def _figures(e: Any, whole: Table, x: Table, options: Options) -> dict[str, Any]:
    """Of latents that are fitted to rows x, in the order and with the signs of those of e.

    :param whole: the table by which they are told.
    """
    weight = options.weight
    coding = Coding(describe_again(e.columns_, x, weight))
    options = replace(options, anchors=anchors_within(options, e.columns_, coding))
    at = some_rows(x, np.random.RandomState(options.seed))
    each = (np.ones(len(x)) if weight is None else weight)[at]
    some, code = whole[: most_rows(whole.shape[1])], coding.encode(x[at])
    if isinstance(e._layer, CategoricalLayer):
        classes = fit_categorical(coding, x, options)
        of_classes = class_figures(classes.program, classes.columns, classes.order, code, each)
        before = e._layer.posterior(e._coding.encode(some))
        return _same_states(of_classes, before, classes.posterior(coding.encode(some)))
    layer = fit_gaussian(coding, x, options)
    before, after = e._layer.encode(e._coding.encode(some)), layer.encode(coding.encode(some))
    m = layer.n_reported
    alike = np.corrcoef(before.T, after.T)[:m, m:]
    order = linear_sum_assignment(-np.abs(np.nan_to_num(alike)))[1]
    layer.reorder(np.append(order, np.arange(m, layer.n_hidden)))
    layer.rotation[:, :m] *= np.where(alike[np.arange(m), order] < 0, -1.0, 1.0)
    often, clusters = None if weight is None else each, e.clusters_[coding.varies]
    found: dict[str, Any] = reliability(Correlations(layer, code, often), m, clusters)
    found |= factor_figures(layer, coding)
    filled = draw(layer, code, options.seed)[0]
    terms = shared_terms(layer, filled, layer.shares(np.empty(0)))
    tcs = np.average(terms.bounds(terms.gain.mean(0) > 0), 0, each)
    held_out = {} if e.n_folds_ else {"tcs_": tcs[:m]}  # of which folds tell, too
    return found | held_out | {"style_tc_": tcs[m:].sum()}


def _same_states(found: dict[str, Any], before: Array, after: Array) -> dict[str, Any]:
    """Classes in the order of others, by the rows that are in both."""
    for j, sizes in enumerate(found["class_sizes_"]):
        s = len(sizes)
        order = linear_sum_assignment(-before[:, j, :s].T @ after[:, j, :s])[1]
        found["class_sizes_"][j] = sizes[order]
        profiles = found["class_profiles_"][j]
        found["class_profiles_"][j] = {name: own[order] for name, own in profiles.items()}
    return found


def _spread(draws: list[Any]) -> Any:
    """The standard deviations of arrays, or of those in lists and mappings."""
    if isinstance(draws[0], list):
        return [_spread(list(each)) for each in zip(*draws, strict=True)]
    if isinstance(draws[0], dict):
        names = [name for name in draws[0] if all(name in draw for draw in draws)]
        return {name: _spread([draw[name] for draw in draws]) for name in names}
    return np.std(draws, axis=0, ddof=1)

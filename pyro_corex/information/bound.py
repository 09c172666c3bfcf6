"""A mean over the data plus their entropies: the lower bound on TC(x), Eq. 10, and its error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .entropy import entropy_estimate, summed_surprisal
from .estimate import Estimate

_evaluate: Callable[..., Any] | None = None


def mean_with_entropies(
    per_datum: Tensor, entropies: Iterable[tuple[Tensor, str, float]]
) -> Estimate:
    """A mean over data plus or minus the entropies of the same data, in nats.

        mean_n t_n + sum over (x, kind, sign) of sign * sum_i H(x_i)

    With t_n the evidence lower bound at datum n and the entropies of x it is the lower bound on
    TC(x) of Eq. 10. The entropies and the mean are strongly correlated, most often negatively, so
    that the standard error is much less than that of either; see :func:`summed_surprisal`. It
    measures the noise of the data, not the bias of the entropies (below 0.001 nats a dimension
    at N = 10,000).

    Args:
        per_datum: (N,) values t_n.
        entropies: triples of data (N, d), the ``kind`` of their entropies ("binary",
            "categorical" or "continuous") and a sign, 1 or -1.

    Returns:
        A scalar :class:`Estimate` in float64.

    Raises:
        ValueError: N < 2, data of another length, or as :func:`entropy_estimate`.

    """
    n = per_datum.shape[0]
    if per_datum.dim() != 1 or n < 2:
        raise ValueError(
            f"per_datum must have shape (N,) with N >= 2, but has {tuple(per_datum.shape)}."
        )
    influence = per_datum.detach().double()
    value = influence.mean()
    excess = value.new_zeros(())
    for x, kind, sign in entropies:
        if x.shape[:1] != per_datum.shape:
            raise ValueError(
                f"per_datum is of {n} data, but the entropies are of {x.shape[0]}; give both for "
                "the same data."
            )
        value = value + sign * entropy_estimate(x, kind).value.double().sum()
        surprisal, more = summed_surprisal(x, kind)
        influence = influence + sign * surprisal
        excess = excess + more
    spread = influence.var()
    # the noise of the spacings is common to dimensions that are copies; keep some of the variance
    variance = torch.maximum(spread - excess, 0.1 * spread)
    return Estimate(value, (variance / n).sqrt(), "mean with entropies", "of the entropies")


def provide(evaluate: Callable[..., Any]) -> None:
    """Sets what :func:`tc_bound` calls; :mod:`pyro_corex.evaluation` does so when it is imported.

    A bound needs programs and an objective, and this package knows of neither. It offers the name,
    and the package that knows them fills it, so that imports keep going downwards.
    """
    global _evaluate
    _evaluate = evaluate


def tc_bound(module: Any, data: Any, **options: Any) -> Any:
    """A lower bound on TC(x), in nats, from a trained program: see :func:`pyro_corex.tc_bound`.

    Raises RuntimeError where this package was loaded without the rest of the library.
    """
    if _evaluate is None:
        raise RuntimeError(
            "tc_bound runs a program under the CorEx objective: import pyro_corex, not only its "
            "information package."
        )
    return _evaluate(module, data, **options)

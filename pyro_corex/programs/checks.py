"""What distributions and data have to be for a ready-made program."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Independent, constraints

from pyro_corex.arrays import on_hand


def check_pyros(what: str, fn: Any) -> None:
    """Raises ``TypeError`` unless ``fn`` is a distribution that ``pyro.sample`` takes."""
    if not isinstance(fn, dist.torch_distribution.TorchDistributionMixin):
        raise TypeError(
            f"{what} must give a distribution of pyro.distributions, but gave "
            f"{type(fn).__module__}.{type(fn).__name__}"
        )


def as_latents(q: Any, shape: tuple[int, ...]) -> Any:
    """What encodes x, if it is a distribution of single latents, of batch shape ``shape``.

    :raises TypeError: for what is no distribution of Pyro's.
    :raises ValueError: for another shape, and for latents that are vectors.
    """
    check_pyros("encode(x)", q)
    while isinstance(q, Independent):
        q = q.base_dist
    if q.event_shape:
        raise ValueError(
            f"The encoder gives {type(q).__name__} with events of shape {tuple(q.event_shape)}, "
            f"but each latent must be a number, in the batch shape {shape}. Take Categorical for "
            "OneHotCategorical, and a stack for latents that depend on each other."
        )
    if q.batch_shape != shape:
        raise ValueError(
            f"The encoder gives latents of batch shape {tuple(q.batch_shape)}, but a batch of "
            f"{shape[0]} data needs {shape}. Flatten inputs with several axes first, as "
            "mlp_encoder does: nn.Sequential(nn.Flatten(), encoder)."
        )
    return q


def as_event(q: Any) -> Any:
    """``q`` of batch shape ``(B, m)`` as one of batch shape ``(B, 1)`` and event shape ``(m,)``."""
    own = {name: getattr(q, name).unsqueeze(-2) for name in q.arg_constraints}
    return type(q)(**own, validate_args=False).to_event(1)


def warn_of_units(x: Tensor, columns: Sequence[int]) -> None:
    """Warns of columns of ``x``, of shape ``(N, d)``, whose spread is far from 1."""
    own = x[:, list(columns)].double()
    spread = (own - own.nanmean(0)).square().nanmean(0).sqrt()
    far = ((spread > 0) & ((spread < 1e-3) | (spread > 1e3))).nonzero().flatten().tolist()
    if far:
        warnings.warn(
            f"{len(far)} of the columns of the data have a standard deviation far from 1, e.g. "
            f"{float(spread[far[0]]):.3g} in column {columns[far[0]]}, but networks and learned "
            "scales start near 1, so that the fit depends on the unit. Standardise the data, "
            "(x - x.mean(0)) / x.std(0): the bound on TC(x) is the same in every unit, and ln p(x) "
            "becomes larger by the sum of ln x.std(0).",
            stacklevel=5,
        )


def looked_at(value: Tensor) -> bool:
    """Whether values are to be looked at."""
    return is_validation_enabled() and on_hand(value)


def check_values(fn: Any, x: Tensor) -> None:
    """Raises ``ValueError`` where ``x`` has values that ``decode(z)`` gives no density."""
    inside = fn.support.check(x)
    if not bool(inside.all()):
        raise ValueError(
            f"decode(z) gives {type(fn).__name__} with the support {fn.support}, but the data hold "
            f"{float(x[~inside][0]):g} ({int((~inside).sum())} of {x.numel()} values are outside). "
            "Choose a distribution that fits the data, or transform them."
        )


def check_prior(prior: Any, z: Tensor) -> None:
    """Raises ``ValueError`` where the prior has no density at what the encoder draws."""
    support = prior.support
    if support is constraints.real or not looked_at(z) or bool(support.check(z).all()):
        return
    raise ValueError(
        f"The prior {type(prior).__name__} has the support {support}, but the encoder draws "
        f"{float(z[~support.check(z)][0]):g}: the KL would be infinite. Give prior and encode(x) "
        "the same support."
    )

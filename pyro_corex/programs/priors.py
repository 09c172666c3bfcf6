r"""Priors :math:`r_\alpha(z) = \prod_j r_\alpha(z_j)` (Eq. 9 and 10).

Eq. 9 holds for any factorised :math:`r_\alpha` and is tight where it equals the aggregate
posterior :math:`p_\theta(z_j)`, so a prior is trained together with the encoder and the decoder.
To add one, subclass :class:`Prior` and list it in ``_PRIORS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from numbers import Real
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, register_kl

from pyro_corex.batches import check_count


class Prior(nn.Module):
    r"""A factorised prior :math:`r_\alpha` (Eq. 9); calling it gives its distribution.

    It is no ``PyroModule``, which would declare its parameters to Pyro once more, under a name that
    all instances share.

    :raises ValueError: for a ``dim`` below 1.
    """

    joint = False
    """Whether the latents are one event with one KL, a bound on I(x:z), in place of one for each.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = check_count("dim", dim)

    def forward(self) -> Distribution:
        """The distribution, of batch shape ``(dim,)`` and empty event shape."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"dim={self.dim}"


class StandardNormal(Prior):
    """N(0, 1) for each latent; nothing is learned."""

    _zero: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("_zero", torch.zeros(()), persistent=False)

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        loc = self._zero.expand(self.dim)
        return dist.Normal(loc, loc + 1.0, validate_args=False)


class LearnedNormal(Prior):
    """A normal for each latent, with learned location and scale."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        return dist.Normal(self.loc, self.log_scale.exp(), validate_args=False)


class LogNormal(LearnedNormal):
    """A log-normal for each latent, with learned location and scale of its logarithm.

    For a :class:`~pyro_corex.programs.LogNormalEncoder`, to which the KL is in closed form.
    """

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        return dist.LogNormal(self.loc, self.log_scale.exp(), validate_args=False)


class LogUniform(Prior):
    r"""The density :math:`1/z`, uniform in :math:`\ln z` (Achille & Soatto 2018).

    It is improper, so that a KL to it is known up to a constant, and there is no bound on TC(x).
    For a :class:`~pyro_corex.programs.LogNormalEncoder` the KL is :math:`-\ln \sigma - \frac{1}{2}
    \ln 2 \pi e`, where :math:`\sigma` is the scale of :math:`\ln z`.
    """

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        return _LogUniform((self.dim,))


class _LogUniform(dist.ImproperUniform):
    def __init__(self, batch_shape: Any) -> None:
        super().__init__(constraints.positive, torch.Size(batch_shape), ())

    def expand(self, batch_shape: Any, _instance: Any = None) -> _LogUniform:
        return _LogUniform(batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return -value.log()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        raise ValueError(
            "The prior 'log_uniform' is improper, so that nothing can be drawn from it"
        )


@register_kl(torch.distributions.LogNormal, _LogUniform)
def _kl_to_log_uniform(q: Any, p: _LogUniform) -> Tensor:
    entropy: Tensor = q.base_dist.entropy()  # of ln z, which is uniform in p
    return -entropy


class LearnedMixture(Prior):
    """A mixture of normals for each latent, which starts close to N(0, 1), its components apart.

    :raises ValueError: for fewer than one component.
    """

    def __init__(self, dim: int, n_components: int = 8) -> None:
        super().__init__(dim)
        check_count("n_components", n_components)
        self.n_components = n_components
        spread = torch.linspace(-1.5, 1.5, n_components) if n_components > 1 else torch.zeros(1)
        self.logits = nn.Parameter(torch.zeros(dim, n_components))
        self.loc = nn.Parameter(spread.repeat(dim, 1))
        self.log_scale = nn.Parameter(torch.full((dim, n_components), -0.5))

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        return _mixture(self.logits, self.loc, self.log_scale.exp())

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"dim={self.dim}, n_components={self.n_components}"


class Flat(Prior):
    """For chosen latents a plateau from ``-width`` to ``width`` with soft ends, N(0, 1) for others.

    Nothing is learned.  A product of normals looks the same however its latents are rotated; a
    product of plateaus does not, as in independent component analysis with sub-Gaussian sources.
    A plateau is a mixture of equal normals side by side, with a density on all real numbers.

    :param dim: the number of latents.
    :param latents: those that have the plateau; all by default.
    :param width: half of the plateau's width.
    :param n_components: normals that make up the plateau.
    :raises ValueError: for latents that are not there, and a width or a number out of range.
    """

    _loc: Tensor
    _scale: Tensor

    def __init__(
        self,
        dim: int,
        latents: Collection[int] | None = None,
        *,
        width: float = 1.6,
        n_components: int = 8,
    ) -> None:
        super().__init__(dim)
        check_count("n_components", n_components)
        if n_components < 2 or not isinstance(width, Real) or not 0 < width < math.inf:
            raise ValueError(
                "a plateau needs width > 0 and n_components >= 2, but got "
                f"width={width!r} and n_components={n_components!r}"
            )
        if isinstance(latents, int):
            raise ValueError(f"latents must be a list, e.g. [{latents}], but got {latents}")
        self.width, self.n_components = float(width), n_components
        self.latents: list[int] = sorted(range(dim) if latents is None else latents)
        if any(j not in range(dim) for j in self.latents):
            raise ValueError(f"latents is {self.latents}, but there are latents 0 to {dim - 1}")
        loc, scale = torch.zeros(dim, n_components), torch.ones(dim, n_components)
        loc[self.latents] = torch.linspace(-width, width, n_components)
        scale[self.latents] = 0.7 * 2 * width / (n_components - 1)
        self.register_buffer("_loc", loc, persistent=False)
        self.register_buffer("_scale", scale, persistent=False)

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        return _mixture(torch.zeros_like(self._loc), self._loc, self._scale)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"dim={self.dim}, latents={self.latents}"


def _mixture(logits: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
    """Of normals, one for each latent: ``(dim, n_components)`` each."""
    return dist.MixtureSameFamily(
        dist.Categorical(logits=logits, validate_args=False),
        dist.Normal(loc, scale, validate_args=False),
        validate_args=False,
    )


class LearnedCategorical(Prior):
    """A categorical with learned probabilities for each of ``dim`` discrete latents.

    :raises ValueError: for fewer than one class.
    """

    def __init__(self, n_classes: int, dim: int = 1) -> None:
        super().__init__(dim)
        check_count("n_classes", n_classes)
        self.n_classes = n_classes
        self.logits = nn.Parameter(torch.zeros(dim, n_classes))

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        return dist.Categorical(logits=self.logits, validate_args=False)


class UserPrior(Prior):
    """A distribution given by the user, or a module or function that returns one."""

    def __init__(self, source: Distribution | Callable[[], Any], dim: int) -> None:
        super().__init__(dim)
        self.source = source
        self()  # refuses at once what does not fit

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`."""
        given = self.source
        if isinstance(given, PyroModule):  # as it is, outside of Pyro's naming: see Prior
            given = given.forward
        return factorised(given if isinstance(given, Distribution) else given(), self.dim)


_PRIORS: dict[str, Callable[[int], Prior]] = {
    "standard_normal": StandardNormal,
    "learned_normal": LearnedNormal,
    "learned_mixture": LearnedMixture,
    "flat": Flat,
    "log_normal": LogNormal,
    "log_uniform": LogUniform,
}


def check_support(prior: Distribution) -> None:
    """Refuses a prior that has no density where a Gaussian encoder draws."""
    far = torch.tensor([-1e3, 1e3]).repeat(prior.batch_shape[-1] if prior.batch_shape else 1, 1).T
    support: Any = prior.support
    try:
        inside = bool(support.check(far).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        inside = True  # it cannot be asked
    if not inside:
        raise ValueError(
            f"The prior {type(prior).__name__} has the support {prior.support}, but the encoder "
            "draws from normals: the KL would be infinite. Use a prior on all real numbers, e.g. "
            "the prior of the logarithm, or an encoder that gives a distribution of that support."
        )


def make_prior(prior: str | Prior | Distribution | Callable[[], Any], dim: int) -> Prior:
    """The prior that ``prior`` names or is, if it factorises over ``dim`` latents."""
    if isinstance(prior, str):
        if prior not in _PRIORS:
            raise ValueError(
                f"Unknown prior {prior!r}: choose from {sorted(_PRIORS)}, or give a distribution "
                "of batch shape (latent_dim,) or a function that returns one"
            )
        return _PRIORS[prior](dim)
    if isinstance(prior, Prior):
        declared = prior()
        if prior.joint:
            if declared.event_shape != (dim,):
                raise ValueError(
                    f"prior must be over {dim} latents, as there are, but got {prior!r}"
                )
            return prior
        # latents are a plate, so event dimensions of a product are made batch dimensions
        return prior if factorised(declared, dim) is declared else UserPrior(prior, dim)
    if isinstance(prior, Distribution) or (callable(prior) and not isinstance(prior, type)):
        return UserPrior(prior, dim)
    raise TypeError(
        f"prior must be a name, a distribution or a function that returns one, but got {prior!r}"
    )


def factorised(prior: Any, dim: int) -> Distribution:
    """``prior`` as a distribution of batch shape ``(dim,)`` and empty event shape, if it is one."""
    if not isinstance(prior, Distribution):
        raise TypeError(f"A prior must give a distribution, but got {type(prior).__name__}")
    base = prior
    while isinstance(base, Independent):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            f"The prior {type(base).__name__} has the event shape {tuple(base.event_shape)}: it "
            "does not factorise over the latents, as the bound of Eq. 9 on each I(z_j : x) needs. "
            f"Give a distribution of batch shape ({dim},) without event dimensions, and put "
            "dependence between latents into a second layer (StackedCorEx)."
        )
    if base.batch_shape not in ((dim,), ()):
        raise ValueError(
            f"The prior has the batch shape {tuple(base.batch_shape)}, but {dim} latents need "
            f"({dim},)"
        )
    return base

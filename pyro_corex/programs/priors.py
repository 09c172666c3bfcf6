r"""Priors :math:`r_\alpha(z) = \prod_j r_\alpha(z_j)` (Eq. 9 and 10).

Eq. 9 holds for any factorised :math:`r_\alpha` and is tight where it equals the aggregate
posterior :math:`p_\theta(z_j)`, so a prior is trained together with the encoder and the decoder.
To add one, subclass :class:`Prior` and list it in ``_PRIORS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from numbers import Real
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, register_kl

from pyro_corex.batches import check_count
from pyro_corex.programs.checks import as_latents


class Prior(nn.Module):
    r"""A factorised prior :math:`r_\alpha` (Eq. 9); calling it gives its distribution.

    It is no ``PyroModule``, which would declare its parameters to Pyro once more, under a name that
    all instances share.

    :raises ValueError: for a ``dim`` below 1.
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


class Vamp(Prior):
    r"""The encodings of K pseudo-inputs, mixed (VampPrior, Tomczak & Welling 2018).

    Each latent has a mixture of its own, so that Eq. 9 holds for each and is tight for
    pseudo-inputs that encode as the data do:

    .. math:: r(z_j) = \frac{1}{K} \sum_k p_\theta(z_j|u_k)

    The paper's own prior is joint, :math:`r(z) = \frac{1}{K} \sum_k \prod_j p_\theta(z_j|u_k)`.
    Its KL is one number, which bounds :math:`I(x:z)` and not each :math:`I(z_j:x)`; it lets
    :math:`TC(z)` grow.  Both KLs are sampled.

    :param inputs: what the pseudo-inputs start from, shape ``(K, ...)``: data, e.g. ``x[:500]``;
        under the top of a stack, draws of the layer below.  They are trained, and held between the
        least and the largest value of these, as the paper holds them in [0, 1].
    :param joint: the paper's own form, for :class:`~pyro_corex.CorExVAE` only.
    :raises ValueError: for inputs that are no batch or not finite; for a second program with the
        same prior; when called before a program has it.
    :raises TypeError: for inputs that are no tensor of floating point.
    """

    limits: Tensor

    def __init__(self, inputs: Tensor, *, joint: bool = False) -> None:
        super().__init__(1)
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(
                "inputs must be a tensor of floating point with data to start from, e.g. "
                f"Vamp(x[:500]), but got {got}"
            )
        if inputs.dim() < 2 or not inputs.numel() or not bool(inputs.isfinite().all()):
            raise ValueError(
                "inputs must be a batch of finite data, of shape (K, ...), but got the shape "
                f"{tuple(inputs.shape)} with {int(inputs.isfinite().sum())} finite values"
            )
        self.joint = bool(joint)
        self.inputs = nn.Parameter(inputs.detach().clone())
        self.register_buffer("limits", torch.stack(list(inputs.detach().aminmax())))
        self._encode: Callable[[Tensor], Any] | None = None

    def bind(self, encode: Callable[[Tensor], Any], dim: int) -> Vamp:
        """Takes the encoder of a program with ``dim`` latents; every program does this once."""
        if self._encode is not None:
            raise ValueError(
                "prior must be a Vamp of its own for each program, since it holds the encoder of "
                "one, but got one that another program has. Make another: Vamp(x[:500])."
            )
        self._encode, self.dim = encode, dim
        return self

    def forward(self) -> Distribution:
        """See :meth:`Prior.forward`; if joint, of event shape ``(dim,)`` and empty batch shape."""
        if self._encode is None:
            raise ValueError(
                "A Vamp must be given to a program as its prior, whose encoder it needs, but got "
                "called without one: CorExVAE(..., prior=Vamp(x[:500]))"
            )
        held = self.inputs.detach().clamp(self.limits[0], self.limits[1])
        inputs = self.inputs + (held - self.inputs).detach()  # with a gradient at the limits, too
        return _Encodings(as_latents(self._encode(inputs), (len(inputs), self.dim)), self.joint)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"dim={self.dim}, n_inputs={len(self.inputs)}, joint={self.joint}"


class _Encodings(dist.TorchDistribution):
    """An equal mixture of ``q``, of batch shape ``(K, dim)``, for each latent or for all."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, q: Any, joint: bool, batch_shape: Any = None) -> None:
        self.q, self.joint = q, joint
        shape = q.batch_shape[1:]
        own = (torch.Size(), shape) if joint else (shape, torch.Size())
        super().__init__(
            own[0] if batch_shape is None else batch_shape, own[1], validate_args=False
        )

    @property
    def support(self) -> Any:
        return self.q.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Encodings:
        return _Encodings(self.q, self.joint, torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        each = self.q.log_prob(value.unsqueeze(-2))
        found = each.sum(-1).logsumexp(-1) if self.joint else each.logsumexp(-2)
        return found - math.log(self.q.batch_shape[0])

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self.shape(sample_shape)
        each = self.q.sample(shape[:-1])  # of all components, of which one is taken
        chosen = (*shape[:-1], 1, 1 if self.joint else shape[-1])
        index = torch.randint(each.shape[-2], chosen, device=each.device)
        return each.gather(-2, index.expand(*shape[:-1], 1, shape[-1])).squeeze(-2)


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

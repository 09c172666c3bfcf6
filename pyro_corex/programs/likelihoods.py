r"""Likelihoods :math:`q_\phi(x_i|z)`: from a decoder's output to a distribution over each input.

Eq. 8 and 10 need a likelihood under which the data can occur.  So each says which values it is for,
and refuses others.  To add one, subclass :class:`Likelihood` and list it in ``_LIKELIHOODS``.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.arrays import on_hand
from pyro_corex.batches import check_count


class Likelihood(nn.Module):
    r"""A family :math:`q_\phi(x_i|z)` (Eq. 8) for one input dimension, the same for all of them.

    A decoder has ``n_params`` outputs for each input dimension; :meth:`forward` takes them as the
    last axis if there are several.
    """

    n_params: int = 1
    support: str = "real numbers"
    mend: ClassVar[str] = "Choose a likelihood that fits the data, or transform them."

    def forward(self, params: Tensor) -> Distribution:
        """The distribution of ``x``.

        :param params: shape ``x.shape`` for one parameter, ``x.shape + (n_params,)`` for more.
        :returns: batch shape ``x.shape``, empty event shape.
        """
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raises ``ValueError`` where ``x``, of shape ``(B, ...)``, is outside of the support, and
        ``TypeError`` where it is no tensor.

        Values on an accelerator are not looked at, since that would synchronise with it; the
        training loop checks the data once, before it is moved there.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor of shape (B, ...), but got {type(x).__name__}")
        if not on_hand(x) or self._all_valid(x):
            return
        bad = x[~self.valid(x)]
        if bool(bad.isnan().any()):
            raise ValueError(
                f"The data hold {int(x.isnan().sum())} NaN. Drop or impute missing values, or mask "
                "them with poutine.mask in a model of your own."
            )
        raise ValueError(
            f"{type(self).__name__} is a likelihood for {self.support}, but the data hold "
            f"{float(bad[0]):g} ({len(bad)} of {x.numel()} values are outside). {self.mend}"
        )

    def valid(self, x: Tensor) -> Tensor:
        """Which values can occur, in the shape ``(B, ...)`` of ``x``; a subclass says its own."""
        return x.isfinite()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_valid" in vars(cls):
            raise TypeError(
                f"{cls.__name__} must say which values can occur in a method valid(x), but has "
                "_valid(x), as it was called before: rename it"
            )

    def _all_valid(self, x: Tensor) -> bool:
        return bool(self.valid(x).all())


class BernoulliLikelihood(Likelihood):
    """Binary data; the decoder gives logits."""

    support = "binary data (0 and 1)"
    mend = (
        "Binarise them (x > 0.5, or torch.bernoulli(x) anew in each epoch), or use the "
        "'continuous_bernoulli' or 'normal' likelihood: cross-entropy on grey values is the "
        "log-likelihood of nothing, so no bound on TC(x) could be stated."
    )

    def forward(self, params: Tensor) -> Distribution:
        """See :meth:`Likelihood.forward`."""
        return dist.Bernoulli(logits=params, validate_args=False)

    def valid(self, x: Tensor) -> Tensor:
        """See :meth:`Likelihood.valid`."""
        return (x == 0) | (x == 1)

    def _all_valid(self, x: Tensor) -> bool:
        return torch.equal(x.ne(0).to(x.dtype), x)  # asked at every step, so it has to be cheap


class ContinuousBernoulliLikelihood(Likelihood):
    """Grey values in [0, 1] (Loaiza-Ganem & Cunningham 2019); the decoder gives logits."""

    support = "data in [0, 1]"
    mend = "Scale them to [0, 1], or use the 'normal' likelihood."

    def forward(self, params: Tensor) -> Distribution:
        """See :meth:`Likelihood.forward`."""
        return dist.ContinuousBernoulli(logits=params, validate_args=False)

    def valid(self, x: Tensor) -> Tensor:
        """See :meth:`Likelihood.valid`."""
        return (x >= 0) & (x <= 1)


class Categorical(dist.Categorical):
    """Normalised by one operation, which with its gradient takes a third of the time of torch's."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = self._param = logits.log_softmax(-1)
        self._num_events = logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """See torch's."""
        return super().expand(batch_shape, _instance or type(self).__new__(type(self)))


class CategoricalLikelihood(Likelihood):
    """Data with ``n_states`` states, coded 0 to ``n_states - 1``; the decoder gives logits.

    :raises ValueError: for fewer than two.
    """

    def __init__(self, n_states: int) -> None:
        super().__init__()
        check_count("n_states", n_states, least=2)
        self.n_params = n_states
        self.support = f"states coded 0 to {n_states - 1}"

    def _arguments(self) -> dict[str, Any]:
        return {"n_states": self.n_params}

    def forward(self, params: Tensor) -> Distribution:
        """See :meth:`Likelihood.forward`."""
        return Categorical(params)

    def valid(self, x: Tensor) -> Tensor:
        """See :meth:`Likelihood.valid`."""
        return (x >= 0) & (x < self.n_params) & (x == x.floor() if x.is_floating_point() else True)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"n_states={self.n_params}"


class NormalLikelihood(Likelihood):
    """Real data with a fixed ``scale``: the paper's squared error, divided by 2 scale².

    The scale decides how much a latent is worth: see the docs on anchoring.

    :raises ValueError: for a scale that is not positive.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        _check_scale("scale", scale)
        self.scale = float(scale)

    def forward(self, params: Tensor) -> Distribution:
        """See :meth:`Likelihood.forward`."""
        return dist.Normal(params, params.new_full((), self.scale), validate_args=False)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"scale={self.scale:g}"


class LearnedNormalLikelihood(Likelihood):
    """Real data with a scale that is learned: one for all input dimensions, or one for each.

    :param dim: the shape of the input for one scale each, or ``None`` for a common one.
    :param init_scale: the scale at the start.
    :raises ValueError: for a scale that is not positive; when called, for another shape than
        ``dim``.
    """

    def __init__(self, dim: int | tuple[int, ...] | None = None, init_scale: float = 1.0) -> None:
        super().__init__()
        _check_scale("init_scale", init_scale)
        shape: Any = () if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
        for size in shape:
            check_count("Each size of dim", size)
        self.log_scale = nn.Parameter(torch.full(shape, math.log(init_scale)))

    def _arguments(self) -> dict[str, Any]:
        return {"dim": tuple(self.log_scale.shape) or None, "init_scale": 1.0}

    def forward(self, params: Tensor) -> Distribution:
        """See :meth:`Likelihood.forward`."""
        scale = self.log_scale.exp()
        if scale.dim() > 1 and params.shape[-scale.dim() :] != scale.shape:
            scale = scale.flatten()  # for input dimensions that are flattened
        if scale.dim() and params.shape[-scale.dim() :] != scale.shape:
            raise ValueError(
                "LearnedNormalLikelihood has scales for inputs of shape "
                f"{tuple(self.log_scale.shape)}, but the decoder gives {tuple(params.shape)}. Give "
                "it the shape of a datum."
            )
        return dist.Normal(params, scale, validate_args=False)

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"shape={tuple(self.log_scale.shape)}"


def _check_scale(name: str, value: Any) -> None:
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(
            f"{name} must be a number > 0, but got {value!r}. For a scale of each input dimension "
            "take LearnedNormalLikelihood(dim)."
        )


class _Flattened(dist.TorchDistribution):
    """A distribution with its last batch axes as one."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, axes: int) -> None:
        self.base_dist, self.axes = base, axes
        shape = base.batch_shape
        self.inner = shape[-axes:]
        super().__init__((*shape[:-axes], self.inner.numel()), validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Flattened:
        return _Flattened(self.base_dist.expand((*batch_shape[:-1], *self.inner)), self.axes)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value.unflatten(-1, self.inner)).flatten(-self.axes)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.base_dist.rsample(sample_shape).flatten(-self.axes)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.base_dist.sample(sample_shape).flatten(-self.axes)


def flattened(fn: Any, axes: int) -> Any:
    """A distribution whose last ``axes`` batch axes are one, as a plate of input dimensions."""
    if axes == 1:
        return fn
    if type(fn) is dist.Normal:  # the objective knows faster ways for these two
        loc, scale = fn.loc.flatten(-axes), fn.scale.flatten(-axes)
        return dist.Normal(loc, scale, validate_args=False)
    if type(fn) is dist.Bernoulli:
        return dist.Bernoulli(logits=fn.logits.flatten(-axes), validate_args=False)
    return _Flattened(fn, axes)


_LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "normal": NormalLikelihood,
    "learned_normal": LearnedNormalLikelihood,
}


def make_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """The likelihood that ``likelihood`` names or is."""
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, str) and likelihood in _LIKELIHOODS:
        return _LIKELIHOODS[likelihood]()
    hint = "NormalLikelihood(scale=0.5) or CategoricalLikelihood(n_states=4)"
    if likelihood == "categorical":
        hint = "CategoricalLikelihood(n_states=...)"
    raise ValueError(
        f"Unknown likelihood {likelihood!r}: choose from {sorted(_LIKELIHOODS)}, or give a "
        f"Likelihood such as {hint}"
    )

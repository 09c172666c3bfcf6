"""The VampPrior: pseudo-inputs, encoded as the data are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.programs.checks import as_latents
from pyro_corex.programs.priors import Prior


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
        """Takes the encoder of a program with ``dim`` latents, which it does when it is made.

        :param encode: from ``(K, ...)`` to a distribution of batch shape ``(K, dim)``.
        :raises ValueError: for a second program.
        """
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

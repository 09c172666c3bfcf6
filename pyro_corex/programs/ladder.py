"""A stack whose guide comes down as its model does: the Ladder VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_corex.batches import argument
from pyro_corex.programs.anchoring import AnchorMessenger
from pyro_corex.programs.checks import as_latents
from pyro_corex.programs.plates import data_plate
from pyro_corex.programs.stacked import StackedCorEx


class LadderVAE(StackedCorEx):
    r"""A :class:`~pyro_corex.StackedCorEx` with a guide from the top down (Sønderby et al. 2016).

    On the way up nothing is drawn: each encoder is given the locations of the layer below, and its
    :math:`\hat\mu, \hat\sigma` are what the data say of a layer.  On the way down each layer is
    drawn from the product of that and of what the model says of it, given the layer above:

    .. math::

        \sigma^{-2} = \hat\sigma^{-2} + \sigma_p^{-2}, \quad
        \mu = \sigma^2 (\hat\mu \hat\sigma^{-2} + \mu_p \sigma_p^{-2})

    Model and guide draw in one order, so that each KL is in closed form, and a layer that the data
    say nothing of costs nothing.  The KL of a layer below the top bounds what it tells about x
    beyond the layers above, :math:`I(z^{(l)} : x|z^{(l+1)})`; the bound on TC(x) is one for all
    layers, without a contribution of each (Eq. 16), as these need a guide that goes up.  By
    :class:`~pyro_corex.AggregatePosterior` a layer below the top has what it tells about x and the
    layer above together.

    Parameters, sites and errors are those of :class:`~pyro_corex.StackedCorEx`, whose networks fit.

    >>> stack = LadderVAE([(784, 256, 32), (32, 64, 8)], n_classes=None)
    >>> [tuple(q.batch_shape) for q in stack.encode(torch.zeros(5, 784))]
    [(5, 32), (5, 8)]
    """

    def guide(self, x: Tensor) -> Tensor:
        """Draws the top given ``x``, then each layer below; returns the top layer.

        ``(B, ...)`` to ``(B, m_L)``; a discrete top is one column of classes.
        """
        self._check_batch(x)
        self._register()
        evidence = self._evidence(x)
        with data_plate(len(x)), AnchorMessenger(self.anchors):
            return self._down(evidence, self._sample)[-1][1]

    def _closed_form(self, layer: int) -> bool:
        return True

    def _evidence(self, x: Tensor) -> list[Any]:
        """What the data say of each layer, from the data upwards."""
        found: list[Any] = []
        for layer, dim in enumerate(self.dims, 1):
            shape = (len(x), 1 if self._is_discrete(layer) else dim)
            found.append(as_latents(self.encode_layer(layer, x), shape))
            x = found[-1].mean  # not of a discrete top, which is the last
        return found

    def encode(self, x: Tensor, *, sample: bool = False) -> list[Distribution]:
        """The guide's distribution of each layer, from the data upwards.

        :param x: shape ``(B, ...)``.
        :param sample: condition each layer on a draw of the layer above rather than its mean (of
            classes, the most probable), as the guide does.
        :returns: as :meth:`StackedCorEx.encode`.
        """

        def draw(layer: int, q: Any) -> Tensor:
            if self._is_discrete(layer):
                return cast(Tensor, q.sample() if sample else q.logits.argmax(-1))
            return cast(Tensor, q.rsample() if sample else q.mean)

        *below, top = [q for q, _ in self._down(self._evidence(argument(x, self)), draw)]
        if self._is_discrete(self.n_layers):
            top = dist.Categorical(logits=top.logits.squeeze(-2), validate_args=False)
        return [*below, top]

    def _down(self, evidence: list[Any], draw: Callable[[int, Any], Tensor]) -> list[Any]:
        """Of each layer, from the data upwards, the distribution and what was drawn of it."""
        q = evidence[-1]
        found = [(q, draw(self.n_layers, q))]
        for layer in range(self.n_layers - 1, 0, -1):
            q = product(evidence[layer - 1], self.decode_layer(layer + 1, found[0][1]))
            found.insert(0, (q, draw(layer, q)))
        return found


def product(q: Distribution, p: Distribution) -> Distribution:
    """The normal whose density is proportional to the product of those of two normals."""
    for given in (q, p):
        if not isinstance(given, torch.distributions.Normal):
            raise ValueError(
                "The layers of a LadderVAE below the top must be normals, which are merged by "
                f"their precisions, but got {type(given).__name__}. For other families use "
                "StackedCorEx."
            )
    q, p = cast(torch.distributions.Normal, q), cast(torch.distributions.Normal, p)
    ours, theirs = q.scale**-2, p.scale**-2
    var = 1 / (ours + theirs)
    loc = var * (q.loc * ours + p.loc * theirs)
    return dist.Normal(loc, var.sqrt(), validate_args=False)

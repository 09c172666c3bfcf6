"""The paper's reading with labels: what latents tell of y, for what they know of x (VIB)."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import check_count
from pyro_corex.programs.anchoring import check_weight
from pyro_corex.programs.checks import check_prior
from pyro_corex.programs.likelihoods import CategoricalLikelihood, Likelihood
from pyro_corex.programs.plates import data_plate
from pyro_corex.programs.priors import Prior
from pyro_corex.programs.vae import AnchorVAE


class Bottleneck(AnchorVAE):
    r"""Latents of x that tell of labels y: the variational information bottleneck.

    Alemi et al. (2017) minimise

    .. math:: \langle -\ln q(y|z) \rangle + \beta\, D_{KL}(p_\theta(z|x) \,\|\, r(z))

    which is the CorEx objective with labels in place of the inputs and KL weights of beta.
    ``terms.relevance["y"]`` bounds :math:`I(z:y)` from below, the sum of ``terms.kl["z"]`` bounds
    :math:`I(z:x)` from above: the information plane.  Sites: ``"z"`` and ``"y"``.

    :param encoder: as that of :class:`~pyro_corex.CorExVAE`; with a
        :class:`~pyro_corex.programs.LogNormalEncoder` this is Information Dropout.
    :param head: maps latents ``(B, latent_dim)`` to the logits ``(B, C)`` of a label, or to the
        parameters of the labels' likelihood, ``(B, k)`` or ``(B, k, n_params)`` for k labels.
    :param latent_dim: the number of latents, m.
    :param labels: the number of classes C, or the likelihood of the labels, e.g. "learned_normal".
    :param beta: the KL weight; ``set_anchors({}, beta)`` changes it.
    :param prior: see :class:`~pyro_corex.CorExVAE`.
    :raises ValueError: for fewer than two classes, an unknown likelihood or prior, and a ``beta``
        that is negative or not finite; when run, for labels that cannot occur.
    :raises TypeError: for networks that are no modules, and a ``beta`` that is no number.

    >>> vib = Bottleneck(nn.Linear(20, 2 * 3), nn.Linear(3, 10), 3, labels=10, beta=1e-3)
    >>> vib.predict(torch.zeros(5, 20)).shape
    torch.Size([5, 10])

    Trained by ``fit(vib, (x, y))``.
    """

    takes_x_alone = False

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        latent_dim: int,
        *,
        labels: int | str | Likelihood,
        beta: float = 1.0,
        prior: str | Prior | Distribution | Callable[[], Any] = "standard_normal",
    ) -> None:
        check_weight("beta", beta)
        likelihood: Any = labels
        if isinstance(labels, Integral):
            likelihood = CategoricalLikelihood(check_count("labels", labels, least=2))
        super().__init__(
            encoder,
            head,
            latent_dim,
            anchors={},
            free_weight=beta,
            likelihood=likelihood,
            prior=prior,
        )

    def _arguments(self) -> dict[str, Any]:
        return {"head": self.decoder, "labels": self.likelihood, "beta": self.free_weight}

    def model(self, x: Tensor | None = None, y: Tensor | None = None, *, n: int = 1) -> Tensor:
        """Draws the latents from the prior and observes ``y``, or draws it as well.

        :param x: shape ``(B, ...)``, of which only the number of data matters here.
        :param y: labels, shape ``(B,)``, or ``(B, k)`` for several of each datum.
        :param n: without ``x``, the number of data to draw, B.
        :returns: the labels, of shape ``(B, k)``.
        :raises ValueError: for labels that cannot occur, or are not as many as the data.
        :raises TypeError: for labels that are no tensor.
        """
        n = self._start(x, n)
        if y is not None:
            y = self._labels(y, n)
        with data_plate(n):
            prior = self._prior(self.latent_dim)
            z = self._sample(prior)
            check_prior(prior, z)
            return self._observe(y, self.decode(z), z, "y")

    def guide(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Draws the latents given ``x``: ``(B, ...)`` to ``(B, latent_dim)``.

        :param y: labels, of shape ``(B,)`` or ``(B, k)``, which have no part here.
        """
        return super().guide(x)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z|x) for ``(B, ...)`` data, of batch shape ``(B, latent_dim)``.

        :param y: labels, of shape ``(B,)`` or ``(B, k)``, which have no part here.
        """
        return super().encode(x)

    def decode(self, z: Tensor) -> Distribution:
        """q(y|z) for latents of shape ``(n, latent_dim)``: batch shape ``(n, k)``, k labels."""
        return super().decode(z)

    @torch.no_grad()
    def predict(self, x: Tensor, n_draws: int = 12) -> Tensor:
        """What the labels are expected to be, averaged over draws of the latents.

        :param x: shape ``(B, ...)``.
        :param n_draws: of the latents; 12 as in the paper.
        :returns: probabilities of the classes, ``(B, C)``, or means of other labels, ``(B, k)``;
            ``(B, k, C)`` for several labels that are classes.
        :raises ValueError: for fewer than one draw, and x of another width.
        """
        check_count("n_draws", n_draws)
        y: Any = self.decode(self.encode(x).sample((n_draws,)))
        mean: Tensor = (y.probs if isinstance(y, dist.Categorical) else y.mean).mean(0)
        return mean.squeeze(1) if mean.dim() > 2 and mean.shape[1] == 1 else mean

    def check_data(self, x: Tensor) -> None:
        """Raises ``ValueError`` where ``x``, of shape ``(B, ...)``, has values that are not finite,
        as far as they are looked at: see :meth:`Likelihood.check`.
        """
        Likelihood().check(x)

    def _labels(self, y: Any, n: int) -> Tensor:
        y = as_tensor(y, "y")
        if y.dim() not in (1, 2) or len(y) != n:
            raise ValueError(
                f"y must hold the labels of {n} data, of shape ({n},) or ({n}, k), but got "
                f"{tuple(y.shape)}"
            )
        self.likelihood.check(y)
        return y.unsqueeze(-1) if y.dim() == 1 else y

    def _decoded(self, z: Tensor) -> Any:
        params = super()._decoded(z)
        one = (
            isinstance(params, Tensor) and params.dim() == z.dim() and self.likelihood.n_params > 1
        )
        return params.unsqueeze(-2) if one else params  # the classes of a single label

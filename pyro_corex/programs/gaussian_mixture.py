"""A mixture of Gaussians over all latents together, its class summed out."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_corex.batches import argument, check_count, check_seed
from pyro_corex.programs.priors import Prior


class GaussianMixture(Prior):
    r"""Classes, in each of which the latents are independent normals; the class is summed out.

    .. math:: r(z) = \sum_c \pi_c \prod_j \mathcal{N}(z_j; \mu_{cj}, \sigma_{cj}^2)

    It is the prior of VaDE (Jiang et al. 2017) and, without its inner latents, that of GMVAE
    (Dilokthanakul et al. 2016).  With the class summed out the bound is that of a guide whose class
    posterior is exact, :math:`q(c|z) = r(c|z)`, which no other guide of the class exceeds.  The
    latents depend on each other by their class, so that there is one KL, which bounds
    :math:`I(x:z)` and not each :math:`I(z_j:x)`.  It is sampled.

    :param dim: the number of latents.
    :param n_classes: the number of classes.
    :raises ValueError: for numbers below 1.
    """

    joint = True

    def __init__(self, dim: int, n_classes: int) -> None:
        super().__init__(dim)
        self.n_classes = check_count("n_classes", n_classes)
        self.logits = nn.Parameter(torch.zeros(n_classes))
        self.loc = nn.Parameter(torch.randn(n_classes, dim))  # apart, or all would stay the same
        self.log_scale = nn.Parameter(torch.zeros(n_classes, dim))

    def forward(self) -> Distribution:
        """The distribution, of event shape ``(dim,)`` and empty batch shape."""
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits, validate_args=False),
            self._components(),
            validate_args=False,
        )

    def _components(self) -> Any:
        return dist.Normal(self.loc, self.log_scale.exp(), validate_args=False).to_event(1)

    def classes(self, z: Tensor) -> Any:
        """The classes that latents belong to, r(c|z), by Bayes' rule.

        :param z: shape ``(..., dim)``, e.g. ``vae.encode(x).mean``.
        :returns: a categorical of batch shape ``z.shape[:-1]``.
        :raises ValueError: for another number of latents.
        """
        z = argument(z, self, "z", least=1)
        if z.shape[-1] != self.dim:
            raise ValueError(f"z must have the shape (..., {self.dim}), but got {tuple(z.shape)}")
        logits = self.logits.log_softmax(-1) + self._components().log_prob(z.unsqueeze(-2))
        return dist.Categorical(logits=logits, validate_args=False)

    @torch.no_grad()
    def start(self, z: Tensor, *, n_starts: int = 10, seed: int = 0) -> GaussianMixture:
        """Fits the mixture to latents by EM, the best of several starts, as VaDE's training begins.

        :param z: shape ``(N, dim)``, e.g. ``vae.encode(x).sample()`` of a trained program.
        :param n_starts: how often EM starts anew.
        :param seed: of the starts.
        :returns: the prior itself, changed in place.
        :raises ValueError: for fewer latents than classes, another width, values not finite, and a
            number of starts or a seed that is none.
        """
        z = argument(z, self, "z")
        if z.shape[1:] != (self.dim,) or len(z) < self.n_classes or not bool(z.isfinite().all()):
            raise ValueError(
                f"z must be finite, of shape (N, {self.dim}) with N of at least {self.n_classes}, "
                f"but got the shape {tuple(z.shape)} with {int(z.isfinite().sum())} finite values"
            )
        check_count("n_starts", n_starts)
        check_seed(seed)
        from sklearn import mixture  # here, since it sets filters of warnings

        options: Any = {"covariance_type": "diag", "n_init": n_starts, "random_state": seed}
        found = mixture.GaussianMixture(self.n_classes, **options).fit(z.double().cpu().numpy())
        self.logits.copy_(torch.as_tensor(found.weights_).log())
        self.loc.copy_(torch.as_tensor(found.means_))
        self.log_scale.copy_(torch.as_tensor(found.covariances_).log() / 2)
        return self

    def extra_repr(self) -> str:
        """What ``print`` shows of this module."""
        return f"dim={self.dim}, n_classes={self.n_classes}"

"""A density over all latents together, fitted to draws of an aggregate posterior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_corex.batches import check_count, check_seed
from pyro_corex.information.estimate import Estimate
from pyro_corex.information.mixture import Mixture, fit_mixture

_DRAWS = 20_000  # of which there are several for each datum where the data are fewer
_FEWEST = 20  # data, of which a fifth is held out


@dataclass(frozen=True, repr=False)
class JointDensity:
    """A density over all latents together, which keeps some of what they share, TC(z) (Eq. 4).

    Sec. 6.3 draws from the product of the marginals, which loses it.  This is a Gaussian mixture
    with full covariances, as
    :meth:`AggregatePosterior.fit_joint <pyro_corex.AggregatePosterior.fit_joint>` finds it.
    """

    mixture: Mixture
    """The mixture, on the scale of the latents."""

    gain: Estimate[float]
    r"""By how much it is nearer to the aggregate posterior than the product of its marginals is:
    :math:`TC(z) - \mathrm{KL}(p(z) \| q(z))` for the density q, in nats per draw, on draws of data
    that it has not seen.  So it is the part of TC(z) that is kept, and may be below 0."""

    def __repr__(self) -> str:
        k, m = self.mixture.loc.shape
        parts = "1 component" if k == 1 else f"{k} components"
        return f"JointDensity({m} latents, {parts}, keeps {self.gain} of TC(z))"

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of all latents together, ``(n, m)``.

        :raises ValueError: for negative n.
        :raises TypeError: for a generator of another kind.
        """
        return self.mixture.sample(n, generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density of all latents together, in nats: ``(n, m)`` to ``(n,)``."""
        return self.mixture.log_density(z)


@torch.no_grad()
def fit_joint(
    loc: Tensor,
    scale: Tensor,
    marginals: Callable[[Tensor], Tensor],
    components: int | Sequence[int],
    seed: int,
) -> JointDensity:
    """See :meth:`AggregatePosterior.fit_joint <pyro_corex.AggregatePosterior.fit_joint>`.

    A fifth of the data is held out; one half of it chooses the number of components, the other
    says what is gained.

    :param marginals: the log densities of single latents, ``(n, m)`` to ``(n, m)``.
    """
    counts = [components] if isinstance(components, int) else list(components)
    for each in counts:
        check_count("components", each)
    n, held = len(loc), len(loc) // 5
    if n < _FEWEST or not counts or n - held < min(counts):
        raise ValueError(
            f"components must hold a number of at most {max(n - held, 0)}, four fifths of the "
            f"data, and the data be at least {_FEWEST}, but got {counts} and {n} data"
        )
    generator = torch.Generator(loc.device).manual_seed(check_seed(seed))
    order = torch.randperm(n, generator=generator, device=loc.device)
    rows = torch.cat([order, order[held:].repeat(max(0, _DRAWS // n - 1))])
    noise = loc.new_empty(len(rows), loc.shape[1]).normal_(generator=generator)
    z = loc[rows] + scale[rows] * noise
    centre, spread = z[held:].mean(0), z[held:].std(0)
    found = [
        _moved(fit_mixture((z[held:] - centre) / spread, k, seed=seed), centre, spread)
        for k in counts
        if k <= n - held
    ]
    best = max(found, key=lambda mixture: float(mixture.log_density(z[: held // 2]).mean()))
    test = z[held // 2 : held]
    gains = (best.log_density(test) - marginals(test).sum(1)).double()
    gain = Estimate(float(gains.mean()), float(gains.std() / math.sqrt(len(gains))))
    if gain.value + 1.96 * gain.stderr < 0:
        warnings.warn(
            f"The joint density is further from the aggregate posterior than the product of the "
            f"marginals ({gain} on held-out draws): draw with AggregatePosterior.sample, or encode "
            "more data.",
            UserWarning,
            stacklevel=3,
        )
    return JointDensity(best, gain)


def _moved(mixture: Mixture, centre: Tensor, spread: Tensor) -> Mixture:
    """The mixture of what was brought to mean 0 and variance 1, on its own scale."""
    return mixture._replace(
        loc=centre + spread * mixture.loc,
        scale_tril=spread[:, None] * mixture.scale_tril,
        log_likelihood=mixture.log_likelihood - float(spread.log().sum()),
    )

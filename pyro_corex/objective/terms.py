"""The terms of the CorEx bound, in nats per datum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class CorExTerms:
    r"""The terms of the CorEx bound (Eq. 10 and 21), each in nats per datum.

    A datum is one element of the data plates, so that ``objective * num_data`` is minus the loss.
    Every tensor is detached; nothing is copied to the host until it is read.
    """

    reconstruction: Mapping[str, Tensor]
    r"""Observed site -> :math:`\langle \ln q_\phi(x_i|z) \rangle`, one value per input dimension.

    The shape is that of the site's own plates (those that are not the data's) followed by its
    event dimensions; a site whose distribution does not factorise has one value."""

    kl: Mapping[str, Tensor]
    r"""Latent site -> :math:`D_{KL}(p_\theta(z_j|x) \| r_\alpha(z_j))`, unweighted, one value per
    latent dimension: an upper bound on :math:`I(z_j : x)` (Eq. 9)."""

    kl_weight: Mapping[str, Tensor]
    """Latent site -> the anchor weights in force (1 - lambda in Eq. 21), in the shape of ``kl``."""

    num_data: float
    """The number of data that the loss stands for."""

    tc_weight: float = 0.0
    """The weight of the penalty on TC(z) (Sec. 7)."""

    total_correlation: Tensor | None = None
    """The minibatch estimate of TC(z), where ``tc_weight`` is not 0."""

    _values: Mapping[str, tuple[Tensor, object]] = field(default_factory=dict)

    @property
    def elbo(self) -> float:
        """The sum of ``reconstruction`` minus the sum of ``kl``: Eq. 10 without the entropies."""
        return float(_total(self.reconstruction) - _total(self.kl))

    @property
    def objective(self) -> float:
        """The sum of ``reconstruction`` minus ``kl_weight * kl`` minus ``tc_weight * TC(z)``.

        Minus the loss that is trained, per datum (Eq. 21).
        """
        weighted = {name: self.kl_weight[name] * kl for name, kl in self.kl.items()}
        value = float(_total(self.reconstruction) - _total(weighted))
        if self.total_correlation is not None:
            value -= self.tc_weight * float(self.total_correlation)
        return value

    def __repr__(self) -> str:
        lines = [
            f"CorExTerms(elbo={self.elbo:.4g}, objective={self.objective:.4g} nats per datum,"
            f" num_data={self.num_data:g}"
        ]
        for name, value in self.reconstruction.items():
            lines.append(f"  reconstruction[{name!r}]: {_summary(value, 'dimension')}")
        for name, value in self.kl.items():
            weight = self.kl_weight[name]
            low, high = float(weight.min()), float(weight.max())
            weights = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            lines.append(f"  kl[{name!r}]: {_summary(value, 'latent')}, weight {weights}")
        if self.total_correlation is not None:
            tc = float(self.total_correlation)
            lines.append(f"  total_correlation: {tc:.4g}, weight {self.tc_weight:g}")
        return "\n".join(lines) + ")"


def _total(values: Mapping[str, Tensor]) -> Tensor | float:
    totals = [value.sum() for value in values.values()]
    return torch.stack(totals).sum() if totals else 0.0


def _summary(value: Tensor, unit: str) -> str:
    text = f"{float(value.sum()):.4g}"
    if value.numel() > 1:
        text += f" over {value.numel()} {unit}s (largest {float(value.max()):.3g})"
    return text

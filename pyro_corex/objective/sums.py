"""The terms of one or more traces, as tensors with their graphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_corex.objective.evidence import Batch
from pyro_corex.objective.terms import CorExTerms

Kind = Literal["reconstruction", "kl"]
Extra = Literal["total_correlation", "mutual_information"]

_TC: tuple[Extra, str] = ("total_correlation", "")
_EXTRA: dict[Extra, str] = {
    "total_correlation": "the penalty on TC(z)",
    "mutual_information": "the reward for I(z:x) of site {}",
}


@dataclass
class Sums:
    """The terms of one or more traces, summed over the data and the particles.

    ``value`` is what is reported, ``weighted`` what is trained; both map a kind of term and a site
    to a tensor with one entry per latent or input dimension.
    """

    value: dict[tuple[Kind, str], Tensor] = field(default_factory=dict)
    weighted: dict[tuple[Kind, str], Tensor] = field(default_factory=dict)
    weight: dict[str, Tensor | float | None] = field(default_factory=dict)
    """The weight of each KL; ``None`` where it differs between data, which have no one weight."""
    num_data: float = 1.0
    extra: dict[tuple[Extra, str], Tensor] = field(default_factory=dict)
    """What is rewarded or penalised beside Eq. 10, in nats per datum, summed over the particles."""
    extra_weight: dict[tuple[Extra, str], float] = field(default_factory=dict)
    """How much of each; not negative."""
    rewards: Tensor | None = None
    """What is trained of them: rewards less penalties."""
    batch: Batch | None = None
    """What the terms were made of, of the last trace."""
    shares_graph: bool = False
    """Whether other traces of the same particle share tensors with this one."""

    def add(self, kind: Kind, name: str, value: Tensor, weighted: Tensor) -> None:
        """Adds to a term what is reported, and what is trained with its graph."""
        _accumulate(self.value, (kind, name), value.detach())
        _accumulate(self.weighted, (kind, name), weighted)

    def merge(self, other: Sums) -> None:
        """Adds the terms of another trace of the same programs, without their graph."""
        for key, value in other.value.items():
            self.add(*key, value, other.weighted[key].detach())
        self.weight.update(other.weight)
        self.num_data = other.num_data
        self.batch = other.batch
        self.extra_weight.update(other.extra_weight)
        for extra, value in other.extra.items():
            _accumulate(self.extra, extra, value)
        if other.rewards is not None:
            self.rewards = _sum(self.rewards, other.rewards.detach())

    def add_extra(self, kind: Extra, name: str, value: Tensor, weight: float) -> None:
        """Adds ``weight * value`` to the bound, or takes it off where it is a penalty."""
        _accumulate(self.extra, (kind, name), value.detach())
        self.extra_weight[kind, name] = weight
        sign = 1.0 if kind == "mutual_information" else -1.0
        self.rewards = _sum(self.rewards, value.sum() * (sign * weight * self.num_data))

    def elbo(self) -> Tensor | float:
        """The sum of all weighted terms in nats: what is to be maximised."""
        total: Tensor | float = 0.0
        for (kind, _), weighted in self.weighted.items():
            total = total + weighted.sum() if kind == "reconstruction" else total - weighted.sum()
        return total if self.rewards is None else total + self.rewards

    def terms(self, num_particles: int) -> CorExTerms:
        """The terms per datum."""
        scale = 1.0 / (num_particles * self.num_data)
        kl = {name: value * scale for (kind, name), value in self.value.items() if kind == "kl"}
        return CorExTerms(
            reconstruction={
                name: value * scale
                for (kind, name), value in self.value.items()
                if kind == "reconstruction"
            },
            kl=kl,
            kl_weight={name: self._kl_weight(name) for name in kl},
            num_data=self.num_data,
            tc_weight=self.extra_weight.get(_TC, 0.0),
            total_correlation=self.extra[_TC] / num_particles if _TC in self.extra else None,
            mutual_information=self._extra("mutual_information", num_particles),
            mi_weight=self._extra_weight("mutual_information"),
            _batch=self.batch,
        )

    def _extra(self, kind: Extra, num_particles: int) -> dict[str, Tensor]:
        return {name: value / num_particles for (k, name), value in self.extra.items() if k == kind}

    def _extra_weight(self, kind: Extra) -> dict[str, float]:
        return {name: weight for (k, name), weight in self.extra_weight.items() if k == kind}

    def _kl_weight(self, name: str) -> Tensor:
        """The weights of a KL in the shape of its values, such that the products add up."""
        value, weight = self.value["kl", name], self.weight[name]
        if weight is None:
            return _ratio(self.weighted["kl", name].detach(), value)
        if isinstance(weight, Tensor):
            return weight.detach().expand(value.shape)
        return torch.full_like(value, weight)

    def describe_non_finite(self) -> str:
        """Which terms are NaN or infinite, as a sentence."""
        found = []
        for (kind, name), value in self.value.items():
            for what, bad in (("NaN", value.isnan()), ("infinite", value.isinf())):
                count = int(bad.sum())
                if count:
                    where = (
                        f" in {count} of {value.numel()} dimensions" if value.numel() > 1 else ""
                    )
                    term = "reconstruction" if kind == "reconstruction" else "KL"
                    found.append(f"the {term} of site {name!r} is {what}{where}")
        for (extra, name), value in self.extra.items():
            if not bool(value.isfinite().all()):
                found.append(_EXTRA[extra].format(repr(name)) + " is not finite")
        return (
            "The loss is not finite: "
            + ("; ".join(found) or "the sum of its terms overflows")
            + ". "
            "Check the data and the parameters for NaN and for values outside a support, or lower "
            "the learning rate."
        )


def _sum(total: Tensor | None, value: Tensor) -> Tensor:
    return value if total is None else total + value


def _accumulate(into: dict[Any, Tensor], key: Any, value: Tensor) -> None:
    if key not in into:
        into[key] = value
    elif into[key].shape == value.shape:
        into[key] = into[key] + value
    else:  # one part does not factorise: keep the sum
        into[key] = into[key].sum() + value.sum()


def _ratio(weighted: Tensor, value: Tensor) -> Tensor:
    return torch.where(value == 0, torch.ones_like(value), weighted / value)

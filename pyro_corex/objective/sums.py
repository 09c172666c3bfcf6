"""The terms of one or more traces, as tensors with their graphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_corex.objective.evidence import Batch
from pyro_corex.objective.terms import CorExTerms

Kind = Literal["reconstruction", "kl"]


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
    total_correlation: Tensor | None = None
    """TC(z), summed over the particles, where it is penalised."""
    penalty: Tensor | None = None
    """What is trained of it."""
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
        if other.total_correlation is not None and other.penalty is not None:
            self.penalise(other.total_correlation, other.penalty.detach())

    def penalise(self, value: Tensor, penalty: Tensor) -> None:
        """Adds to TC(z) what is reported, and what is trained with its graph."""
        self.total_correlation = _sum(self.total_correlation, value.detach())
        self.penalty = _sum(self.penalty, penalty)

    def elbo(self) -> Tensor | float:
        """The sum of all weighted terms in nats: what is to be maximised."""
        total: Tensor | float = 0.0
        for (kind, _), weighted in self.weighted.items():
            total = total + weighted.sum() if kind == "reconstruction" else total - weighted.sum()
        return total if self.penalty is None else total - self.penalty

    def terms(self, num_particles: int, tc_weight: float) -> CorExTerms:
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
            tc_weight=tc_weight,
            total_correlation=None
            if self.total_correlation is None
            else self.total_correlation / num_particles,
            _batch=self.batch,
        )

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
        if self.total_correlation is not None and not bool(self.total_correlation.isfinite()):
            found.append("the penalty on TC(z) is not finite")
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

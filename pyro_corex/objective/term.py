"""Term: one part of the bound with its axes, and the only place where a part is summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["reconstruction", "kl"]
Axis = str | int  # the name of a plate, or the place of a batch dimension outside of all plates


@dataclass(eq=False)
class Term:
    r"""What a site adds to the bound, in nats: a log density, a log-ratio or a KL, not yet summed.

    ``value`` has the shape ``batch + events``.  The batch dimensions that ``axes`` names are those
    of the data and of the site's own plates; others are of particles and of enumerated values.
    A site may have several terms, such as the two halves of a log-ratio, which add up.
    """

    kind: Kind
    site: str
    value: Tensor
    event_dims: int
    """How many of the last axes are dimensions over which the distribution factorises."""
    axes: Mapping[Axis, int]
    """Plate -> batch dimension, counted from the right."""
    data_axes: Collection[Axis]
    """Those of the plates that index data."""
    sign: float = 1.0
    probability: Tensor | float = 1.0
    """The guide's weight of the value, batch-shaped: probabilities of what it enumerates."""
    subsampling: float = 1.0
    """The factor that makes up for what subsampled plates leave out."""
    weight: Tensor | float = 1.0
    """The KL weight, or the scale of a likelihood: a number, or batch-shaped.  It is trained with,
    and has no part in what is reported."""
    event_weight: Tensor | None = None
    """A KL weight for each event dimension."""
    finite: bool = False
    """Whether the value is known to be finite everywhere."""
    particles: int = 1
    """How many vectorised particles it is summed over."""

    # ------------------------------------------------------------------ by dimension

    @property
    def per_dimension(self) -> Tensor:
        """Summed over data and particles, without weights: the site's own plates, then its event
        dimensions.
        """
        return self.sums[0]

    @property
    def weighted(self) -> Tensor:
        """As :attr:`per_dimension`, with the weight: what is trained."""
        return self.sums[1]

    @property
    def total(self) -> Tensor:
        """The sum of :attr:`per_dimension`."""
        return self.per_dimension.sum()

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor, Tensor | float | None]:
        """``per_dimension``, ``weighted``, and the weight between them, in their shape.

        The weight is ``None`` where it differs between data, which have no one weight.
        """
        keep = self._dims(lambda axis: axis not in self.data_axes)
        value = self._reduce(self.value, self.event_dims, keep)
        sign = self.subsampling * self.sign
        value = value if sign == 1.0 else value * sign
        weighted, weight = value, self.weight_of(keep)
        if weight is None:
            scale = torch.as_tensor(self.weight)
            scaled = times(self.value, scale.reshape(scale.shape + (1,) * self.event_dims))
            weighted = self._reduce(scaled, self.event_dims, keep) * sign
        elif isinstance(weight, Tensor) or weight != 1.0:
            weighted = times(value, weight)
        if self.event_weight is not None and self.event_dims:
            weighted = times(weighted, self.event_weight)
            weight = None if weight is None else self.event_weight * weight
        return value, weighted, weight

    def weight_of(self, keep: list[int]) -> Tensor | float | None:
        """The weight in the shape of the batch dimensions to keep; ``None`` if others vary."""
        scale = self.weight
        if not isinstance(scale, Tensor) or not scale.dim():
            return scale
        if any(scale.shape[d] > 1 and d not in keep for d in range(-scale.dim(), 0)):
            return None
        shape = [scale.shape[d] if d >= -scale.dim() else 1 for d in keep]
        return scale.reshape(shape + [1] * self.event_dims)

    # ------------------------------------------------------------------ by datum

    @property
    def per_datum(self) -> Tensor:
        """For each datum, summed over dimensions, without weights: shape ``(B,)``, float64."""
        value = self.value.double()
        if self.event_dims:
            value = value.sum(tuple(range(-self.event_dims, 0)))
        value = self._reduce(value, 0, self.data_dims)
        return value.flatten() * (self.sign / self.particles)

    @property
    def matrix(self) -> Tensor:
        """For each datum and dimension, without weights: shape ``(B, d)``, float64."""
        keep = self._dims(lambda axis: True)
        value = self._reduce(self.value.double(), self.event_dims, keep)
        front = [keep.index(dim) for dim in self.data_dims]
        value = value.movedim(front, list(range(len(front)))) if front else value[None]
        size = math.prod(value.shape[: len(front)])
        return value.reshape(size, -1) * (self.sign / self.particles)

    @property
    def data_dims(self) -> list[int]:
        """The batch dimensions of the data."""
        return self._dims(lambda axis: axis in self.data_axes)

    def detach(self) -> Term:
        """The same without its graph."""
        found = Term(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        found.value = self.value.detach()
        if isinstance(self.probability, Tensor):
            found.probability = self.probability.detach()
        return found

    # ------------------------------------------------------------------ inside

    def _dims(self, which: Callable[[Axis], bool]) -> list[int]:
        rank = self.value.dim() - self.event_dims
        return sorted(dim for axis, dim in self.axes.items() if which(axis) and dim >= -rank)

    def _reduce(self, value: Tensor, events: int, keep: list[int]) -> Tensor:
        """Sums the weighted batch dimensions but those to keep; a weight of 0 hides an infinity."""
        weight = self.probability
        drop = [d - events for d in range(events - value.dim(), 0) if d not in keep]
        if not isinstance(weight, Tensor):
            value = value if weight == 1.0 else value * weight
            return value.sum(drop) if drop else value
        weight = weight.reshape(weight.shape + (1,) * events)
        if weight.dim() > value.dim() or any(
            w > 1 and v == 1 for w, v in zip(weight.shape[::-1], value.shape[::-1], strict=False)
        ):
            value = value.expand(torch.broadcast_shapes(value.shape, weight.shape))
            drop = [d - events for d in range(events - value.dim(), 0) if d not in keep]
        if not self.finite:
            value = value.masked_fill(weight == 0, 0.0)
        count = len(drop)
        if drop == list(range(-value.dim(), count - value.dim())) and weight.numel() == math.prod(
            value.shape[:count]
        ):  # every leading dimension is weighted and summed: a product of a matrix with a vector
            kept = value.shape[count:]
            product = weight.reshape(1, -1).to(value.dtype) @ value.reshape(weight.numel(), -1)
            return product.reshape(kept)
        return (value * weight).sum(drop) if drop else value * weight


def times(value: Tensor, weight: Tensor | float) -> Tensor:
    """A weighted value; a weight of 0 takes an infinity away, too."""
    product = value * weight
    if not isinstance(weight, Tensor):
        return product if weight else product.masked_fill(value.isinf(), 0.0)
    return product.masked_fill(value.isinf() & (weight == 0), 0.0)


def layout(value: Tensor, event_dims: int, term: Term) -> Tensor:
    """Draws or data of a term's site as ``(B, d)``: of particles and enumerated values, the first.

    :param value: of shape ``batch + events``.
    """
    rank = value.dim() - event_dims
    named = set(term.axes.values())
    for dim in range(-rank, 0):
        if dim not in named:
            value = value.narrow(dim - event_dims, 0, 1)
    data = [dim for dim in term.data_dims if dim >= -rank]
    if not data:
        return value.flatten()[None]
    value = value.movedim([dim - event_dims for dim in data], list(range(len(data))))
    return value.reshape(math.prod(value.shape[: len(data)]), -1)

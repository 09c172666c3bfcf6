"""A number, or a tensor of numbers, together with its standard error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value", Tensor, float)


@dataclass(frozen=True, repr=False)
class Estimate(Generic[Value]):
    """A number and its standard error, in nats unless ``unit`` says otherwise."""

    value: Value
    """A number, or a tensor: a scalar, or one value for each dimension, ``(d,)`` or ``(m,)``."""

    stderr: Value
    """The standard error of ``value``, of the same shape.  It measures the noise of the data (and
    of the draws, where there are any), not the bias."""

    kind: str = field(default="", kw_only=True)
    """What was estimated and how it was taken, such as ``"binary"`` or ``"continuous"``."""

    correction: str = field(default="none", kw_only=True)
    """The bias correction that ``value`` contains, ``"none"`` if there is none."""

    unit: str = field(default="nats", kw_only=True)
    """Of ``value`` and ``stderr``; empty for shares and distances."""

    @property
    def estimate(self) -> float:
        """A single ``value`` as a float, in ``unit`` (nats by default)."""
        return float(self.value)

    @property
    def interval(self) -> tuple[Value, Value]:
        """The interval that contains the truth in 95 % of cases, in ``unit`` (nats by default)."""
        return self.value - 1.96 * self.stderr, self.value + 1.96 * self.stderr

    def __repr__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if isinstance(self.value, Tensor) and self.value.numel() != 1:
            text = f"{self.value.numel()} values{unit and f' in{unit}'}, sum {self.value.sum():.5g}"
        else:
            digits = 5 if self.kind else 4
            text = f"{self.estimate:.{digits}g} ± {float(self.stderr):.2g}{unit}"
        if not self.kind:
            return text
        return f"Estimate({text}, kind={self.kind!r}, correction={self.correction!r})"

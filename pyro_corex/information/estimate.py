"""The value of an estimator together with what it costs to believe it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """An estimate in nats, as :func:`entropy_estimate` and its kin give it.

    Attributes:
        value: the estimate; a scalar, or one value per dimension, (d,) or (m,).
        stderr: its standard error, of the same shape. It measures the noise of the data (and of the
            draws, where there are any), not the bias.
        kind: what was estimated and how it was taken, such as ``"binary"`` or ``"continuous"``.
        correction: the bias correction that ``value`` contains, ``"none"`` if there is none.

    """

    value: Tensor
    stderr: Tensor
    kind: str
    correction: str = "none"

    def __repr__(self) -> str:
        if self.value.numel() == 1:
            number = f"{float(self.value):.5g} ± {float(self.stderr):.2g} nats"
        else:
            number = f"{self.value.numel()} values in nats, sum {float(self.value.sum()):.5g}"
        return f"Estimate({number}, kind={self.kind!r}, correction={self.correction!r})"

"""How data are shown: as images, or as columns with names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pyro_corex.export.pictures import Shape

COLUMNS = 20  # of a table, at most, in one picture


@dataclass(frozen=True)
class View:
    """Data, and what is known of their shape or their names."""

    x: Tensor
    image: Shape | None
    names: Sequence[str]

    @property
    def mean(self) -> Tensor:
        """Of each column."""
        return self.x.flatten(1).mean(0).cpu()

    @property
    def scale(self) -> Tensor:
        """The standard deviation of each column."""
        return self.x.flatten(1).std(0).cpu().clamp_min(1e-12)


def rounded(value: Tensor, scale: Tensor) -> str:
    """A value to a hundredth of the order of its scale."""
    decimals = 2 - math.floor(math.log10(float(scale)))
    near = round(float(value), decimals) + 0.0  # no minus zero
    return f"{near:.{decimals}f}" if 0 <= decimals <= 6 else f"{near:.3g}"

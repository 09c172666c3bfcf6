"""The plates of the ready-made programs: the data at dimension -2, dimensions of a datum at -1.

Being in a plate, each latent and each input dimension has a term of its own in the bound, and each
latent a weight of its own (see :func:`~pyro_corex.anchor`).
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.subsample_messenger import SubsampleMessenger

from pyro_corex.batches import check_count


class _FullPlate(PlateMessenger):
    """``pyro.plate`` without the sample statement for its subsample, which expands no distribution
    that has its shape already.
    """

    def _process_message(self, msg: Any) -> None:
        shape = getattr(msg["fn"], "batch_shape", ())
        if len(shape) >= -self.dim and shape[self.dim] == self.size:
            SubsampleMessenger._process_message(self, msg)
        else:
            super()._process_message(msg)

    @staticmethod
    def _subsample(name: str, size: int, *args: Any, **kwargs: Any) -> tuple[int, int, None]:
        return size, size, None


def data_plate(size: int) -> PlateMessenger:
    """The plate ``"data"``, dimension -2."""
    return _FullPlate("data", size, dim=-2)


def latent_plate(name: str, size: int) -> PlateMessenger:
    """A plate of latents, or of input dimensions: dimension -1.

    >>> import pyro, pyro.distributions as dist
    >>> with pyro.plate("data", 10, dim=-2), latent_plate("latents", 3):
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    >>> z.shape
    torch.Size([10, 3])

    :raises ValueError: for a size below 1.
    """
    size = int(size) if isinstance(size, Integral) else size  # NumPy has integers of its own
    return _FullPlate(name, check_count("size", size), dim=-1)

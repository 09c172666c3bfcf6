"""Random elastic deformations of batches of images, on the device that they are on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyro_corex.batches import check_count
from pyro_corex.datasets.transforms import _as_images, _check_side, check_amount


class RandomElastic:
    """Bends each image of a batch as if it were drawn on rubber (Simard et al. 2003).

    A few points are moved, independently and normally, and the pixels between them smoothly with
    them.  The moves are drawn anew at each call, with torch's generator of the device.  A call
    waits for nothing.  Values stay within those of the batch; binary images turn grey: draw them
    anew with ``torch.bernoulli`` where they are to stay binary.

    Example::

        >>> import torch
        >>> bent = RandomElastic(28, amount=1.0)
        >>> bent(torch.rand(100, 784)).shape
        torch.Size([100, 784])

    :param side: as for :class:`RandomAffine`: the height and width of flat images, or ``(height,
        width)``.  ``None`` for images that are not flat.
    :param amount: the standard deviation of the moves, in pixels.
    :param points: their number along each axis, spread evenly from edge to edge; at least 2.
    :raises ValueError: for an ``amount`` that is negative or not finite, fewer than 2 points, and
        a side below 1.
    """

    def __init__(
        self, side: int | tuple[int, int] | None = None, *, amount: float = 1.0, points: int = 5
    ) -> None:
        check_amount("amount", amount)
        check_count("points", points, least=2)
        _check_side(side)
        self.side, self.amount, self.points = side, amount, points

    def __call__(self, x: Tensor) -> Tensor:
        """Bent copies of ``x``, of its shape, device and dtype.

        :param x: floating-point images: ``(n, height * width)`` where ``side`` is given, else
            ``(n, height, width)`` or ``(n, channels, height, width)``.
        :raises TypeError: where ``x`` does not hold floating-point numbers.
        :raises ValueError: where its shape is not one of these.
        """
        images = _as_images(x, self.side)
        height, width = images.shape[-2:]
        shape = (len(images), 2, self.points, self.points)
        moves = self.amount * torch.randn(shape, dtype=x.dtype, device=x.device)
        field = functional.interpolate(
            moves, size=(height, width), mode="bicubic", align_corners=True
        )
        down, right = (  # grid_sample measures in half images
            (2 * torch.arange(n, dtype=x.dtype, device=x.device) + 1) / n - 1
            for n in (height, width)
        )
        grid = torch.stack(
            [right + field[:, 0] * (2 / width), down[:, None] + field[:, 1] * (2 / height)], -1
        )
        bent = functional.grid_sample(images, grid, align_corners=False).reshape(x.shape)
        return bent.clamp(x.amin().clamp(max=0.0), x.amax().clamp(min=0.0))  # rounding may leave it

    def __repr__(self) -> str:
        side = "" if self.side is None else f"side={self.side!r}, "
        return f"RandomElastic({side}amount={self.amount!r}, points={self.points!r})"

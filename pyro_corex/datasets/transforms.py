"""Random affine transforms of batches of images, on the device that they are on."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Amount = Tensor | float


class RandomAffine:
    """Rotates, scales, shears and shifts each image of a batch by amounts of its own.

    The amounts are drawn anew at each call, uniformly, with torch's generator of the device.  A
    call waits for nothing.

    Example::

        >>> import torch
        >>> small = RandomAffine(28, rotation=0.26, scale=0.15, shift=2.0)
        >>> small(torch.rand(100, 784)).shape
        torch.Size([100, 784])

    :param side: the height and width of flat images, or ``(height, width)``.  ``None`` for images
        that are not flat.
    :param rotation: up to this angle either way, in radians.
    :param scale: the height and the width are multiplied, each by a factor of its own from
        ``1 - scale`` to ``1 + scale``; less than 1.
    :param shear: up to this many pixels to the side for each pixel down, either way.
    :param shift: up to this many pixels either way, along each axis.
    :raises ValueError: where an amount is negative, or there is no such image.
    """

    def __init__(
        self,
        side: int | tuple[int, int] | None = None,
        *,
        rotation: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        shift: float = 0.0,
    ) -> None:
        self.amounts = {"rotation": rotation, "scale": scale, "shear": shear, "shift": shift}
        for name, amount in self.amounts.items():
            check_amount(name, amount)
        if scale >= 1:
            raise ValueError(
                f"scale must be less than 1, but got {scale!r}: sizes are multiplied by a factor "
                "from 1 - scale to 1 + scale"
            )
        _check_side(side)
        self.side = side

    def __call__(self, x: Tensor) -> Tensor:
        """Transformed copies of ``x``, of its shape, device and dtype.

        :param x: floating-point images: ``(n, height * width)`` where ``side`` is given, else
            ``(n, height, width)`` or ``(n, channels, height, width)``.
        :raises TypeError: where ``x`` does not hold floating-point numbers.
        :raises ValueError: where its shape is not one of these.
        """
        _as_images(x, self.side)
        draws = torch.rand(6, len(x), dtype=x.dtype, device=x.device) * 2 - 1
        rotation, scale, shear, shift = self.amounts.values()
        return affine(
            x,
            side=self.side,
            rotation=draws[0] * rotation,
            scale=(1 + draws[1] * scale, 1 + draws[2] * scale),
            shear=draws[3] * shear,
            shift=(draws[4] * shift, draws[5] * shift),
        )

    def __repr__(self) -> str:
        parts = [f"{name}={amount!r}" for name, amount in self.amounts.items() if amount]
        if self.side is not None:
            parts.insert(0, f"side={self.side!r}")
        return f"RandomAffine({', '.join(parts)})"


def affine(
    x: Tensor,
    *,
    side: int | tuple[int, int] | None = None,
    rotation: Amount = 0.0,
    scale: tuple[Amount, Amount] = (1.0, 1.0),
    shear: Amount = 0.0,
    shift: tuple[Amount, Amount] = (0.0, 0.0),
) -> Tensor:
    """Images that are scaled, sheared, rotated and shifted about their centre, in this order.

    Values between pixels are interpolated linearly, those from outside the image are 0.  So
    binary images turn grey: draw them anew with ``torch.bernoulli`` where they are to stay binary.

    :param x: as for :class:`RandomAffine`.
    :param side: as for :class:`RandomAffine`.
    :param rotation: in radians, counterclockwise as the image is seen, with its first row on top.
    :param scale: factors of height and width, not 0.
    :param shear: pixels to the right for each pixel down.
    :param shift: pixels down, and to the right.  Each amount is a number or one for each image,
        shape ``(n,)``.
    :returns: of the shape, device and dtype of ``x``.
    :raises TypeError: where ``x`` does not hold floating-point numbers.
    :raises ValueError: where the shape of ``x`` or of an amount does not fit.
    """
    images = _as_images(x, side)
    n, _, height, width = images.shape

    def each(name: str, amount: Amount) -> Tensor:
        if not isinstance(amount, Tensor):
            return torch.full((n,), float(amount), dtype=x.dtype, device=x.device)
        if amount.shape not in ((), (n,)):
            raise ValueError(
                f"{name} must be a number or have one for each of the {n} images, but has the "
                f"shape {tuple(amount.shape)}"
            )
        return amount.expand(n)

    for name, pair in (("scale", scale), ("shift", shift)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"{name} must be a pair, (vertical, horizontal), but got {pair!r}")
    angle, slant = each("rotation", rotation), each("shear", shear)
    tall, wide = (each("scale", factor) for factor in scale)
    down, right = (each("shift", amount) for amount in shift)
    cos, sin = angle.cos(), angle.sin()
    # Where a pixel (right, down) of the result comes from, as seen from the centre: the inverse
    # of [[cos, sin], [-sin, cos]] @ [[1, slant], [0, 1]] @ diag(wide, tall), after the shift.
    xx, xy = (cos + slant * -sin) / wide, (-sin - slant * cos) / wide
    yx, yy = sin / tall, cos / tall
    # grid_sample measures in half images
    inverse = torch.stack(
        [
            torch.stack([xx, xy * (height / width), -(xx * right + xy * down) * (2 / width)], -1),
            torch.stack([yx * (width / height), yy, -(yx * right + yy * down) * (2 / height)], -1),
        ],
        1,
    )
    grid = functional.affine_grid(inverse, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False).reshape(x.shape)


def check_amount(name: str, amount: Any) -> None:
    """Raises ``ValueError`` for what is no finite number of at least 0."""
    if not isinstance(amount, Real) or not 0 <= float(amount) < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, but got {amount!r}")


def _check_side(side: int | tuple[int, int] | None) -> None:
    sizes = () if side is None else (side,) if isinstance(side, int) else side
    if any(size < 1 for size in sizes) or len(sizes) > 2:
        raise ValueError(f"side must be a positive number or (height, width), but got {side!r}")


def _as_images(x: Tensor, side: int | tuple[int, int] | None) -> Tensor:
    """As ``(n, channels, height, width)``."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"Images must be a tensor of floating-point numbers, but got {found}: use "
            "torch.as_tensor(x).float()"
        )
    if not len(x):
        raise ValueError(f"Images must be at least one, but got the shape {tuple(x.shape)}")
    if side is None:
        if x.dim() == 3:
            return x.unsqueeze(1)
        if x.dim() == 4:
            return x
        raise ValueError(
            "Images must have the shape (n, height, width) or (n, channels, height, width), but "
            f"got {tuple(x.shape)}. For flat images give side."
        )
    _check_side(side)
    height, width = (side, side) if isinstance(side, int) else side
    if x.dim() != 2 or x.shape[1] != height * width:
        raise ValueError(
            f"Flat images of side={side!r} must have the shape (n, {height * width}), but got "
            f"{tuple(x.shape)}"
        )
    return x.reshape(-1, 1, height, width)

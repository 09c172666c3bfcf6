"""Pictures as addresses that hold the picture itself."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_corex.figures import tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Shape = tuple[int, int, int]  # channels, height, width


def image_shape(x: Tensor, told: tuple[int, ...] | None) -> Shape | None:
    """The shape of an image, ``(channels, height, width)``, or ``None`` for tables.

    :param told: ``(height, width)`` or ``(channels, height, width)``; else the shape of a datum
        tells, if it has two axes, or three with 1 or 3 channels first.
    :raises ValueError: where ``told`` is no such shape, or does not hold a datum's numbers.
    """
    if told is not None and not (
        isinstance(told, (tuple, list)) and all(isinstance(size, int) for size in told)
    ):
        raise TypeError(f"image_shape must be a tuple of 2 or 3 integers, but got {told!r}")
    shape = tuple(x.shape[1:]) if told is None else tuple(told)
    image = (1, *shape) if len(shape) == 2 else shape
    if len(image) == 3 and image[0] in (1, 3) and np.prod(image) == np.prod(x.shape[1:]):
        return image
    if told is None:
        return None
    raise ValueError(
        f"image_shape must be (height, width), or (channels, height, width) with 1 or 3 channels, "
        f"of {np.prod(x.shape[1:])} numbers in all, but got {told!r}"
    )


def film(frames: Tensor, shape: Shape, columns: int) -> tuple[str, float]:
    """Frames below each other as one PNG, and the width of a frame over its height.

    :param frames: shape ``(k, rows, ...)``; the rows of a frame are images, in ``columns``.
    """
    images = frames.reshape(*frames.shape[:2], *shape)
    empty = -images.shape[1] % columns
    images = torch.cat([images, images.new_zeros(len(images), empty, *shape)], 1)
    grid = images.unflatten(1, (-1, columns)).flatten(0, 1)
    picture = tiles(grid[:, :, 0] if shape[0] == 1 else grid)
    return png(picture), picture.shape[1] / (picture.shape[0] / len(frames))


def png(picture: np.ndarray[Any, Any]) -> str:
    """A picture of shape ``(height, width, 3)``, values in [0, 1]."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(picture), format="png")
    return _address("image/png", buffer.getvalue())


def svg(ax: Axes) -> str:
    """A matplotlib figure; the same bytes for the same figure.

    Text is text, which the browser has more fonts for than matplotlib.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    rc: Any = {"svg.hashsalt": "pyro_corex", "svg.fonttype": "none"}
    with mpl.rc_context(rc), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        ax.figure.savefig(buffer, format="svg", metadata={"Date": None})  # type: ignore[union-attr]
    return _address("image/svg+xml", buffer.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""Figures as plain functions: they take matplotlib axes (or make them) and return them.

matplotlib is imported when a figure is drawn, so that training needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACCENT = "#0072B2"
"""Okabe and Ito's blue, which colour-blind readers can tell apart."""


def image_grid(
    images: Tensor,
    *,
    ax: Axes | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Grey images in rows and columns.

    :param images: shape ``(rows, columns, height, width)``, values in [0, 1].
    :returns: the axes.
    """
    if images.dim() != 4:
        raise ValueError(
            f"images must have the shape (rows, columns, height, width), but got "
            f"{tuple(images.shape)}"
        )
    rows, columns, height, width = images.shape
    ax = _axes(ax, columns * 0.6, rows * 0.6)
    tiles = torch.nn.functional.pad(images.detach().cpu().float(), (1, 1, 1, 1), value=0.5)
    picture = tiles.permute(0, 2, 1, 3).reshape(rows * (height + 2), columns * (width + 2))
    ax.imshow(picture.numpy(), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    _ticks(ax.yaxis, row_labels, height + 2)
    _ticks(ax.xaxis, column_labels, width + 2)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


def latent_bars(
    values: Tensor, *, ax: Axes | None = None, anchors: Sequence[int] = (), title: str | None = None
) -> Axes:
    """One bar a latent, in nats, largest first; anchored latents are coloured.

    :param values: shape ``(m,)``: a KL or a mutual information of each latent.
    """
    order = values.argsort(descending=True).tolist()
    ax = _axes(ax, max(4.0, 0.12 * len(order)), 2.4)
    colours = [ACCENT if j in anchors else "0.6" for j in order]
    ax.bar(range(1, len(order) + 1), values[order].detach().cpu().numpy(), color=colours)
    ax.set_xlabel("latent, by rank")
    ax.set_ylabel("nats")
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(width + 1.0, height + 0.6), layout="constrained").subplots()


def _ticks(axis: Any, labels: Sequence[str] | None, step: int) -> None:
    if labels is None:
        axis.set_ticks([])
    else:
        axis.set_ticks([(i + 0.5) * step for i in range(len(labels))], labels=list(labels))

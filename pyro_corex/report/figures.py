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
    """Images in rows and columns.

    :param images: values in [0, 1] (others are clipped): grey ones of shape ``(rows, columns,
        height, width)``, where 1 is ink, or colour ones of shape ``(rows, columns, 3, height,
        width)``.
    :returns: the axes.
    """
    if images.dim() == 4:
        images = 1 - images.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    if images.dim() != 5 or images.shape[2] != 3:
        raise ValueError(
            "images must have the shape (rows, columns, height, width), or (rows, columns, 3, "
            f"height, width) in colour, but got {tuple(images.shape)}"
        )
    rows, columns, _, height, width = images.shape
    ax = _axes(ax, columns * 0.6, rows * 0.6)
    tiles = images.detach().cpu().float().clamp(0, 1)
    tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=0.85)
    picture = tiles.permute(0, 3, 1, 4, 2).reshape(rows * (height + 2), columns * (width + 2), 3)
    ax.imshow(picture.numpy(), interpolation="nearest")
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
    return _finish(ax, title)


def variance_distribution(
    variances: Tensor, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """How many latents have at most which variance (the paper's Fig. 7a).

    :param variances: shape ``(m,)``, of the aggregate posterior.
    """
    ax = _axes(ax, 3.4, 2.4)
    ax.ecdf(variances.detach().cpu().numpy(), color=ACCENT)
    ax.axvline(1.0, color="0.6", linestyle=":", label="variance of the prior")
    ax.set_xlabel("variance of $p(z_j)$")
    ax.set_ylabel("share of the latents")
    ax.legend(frameon=False, fontsize="small")
    return _finish(ax, title)


def variance_against_information(
    variances: Tensor,
    information: Tensor,
    *,
    ax: Axes | None = None,
    anchors: Sequence[int] = (),
    title: str | None = None,
) -> Axes:
    """One point a latent (the paper's Fig. 7b); anchored latents are coloured.

    :param variances: shape ``(m,)``, of the aggregate posterior.
    :param information: I(z_j : x) in nats, shape ``(m,)``.
    """
    if variances.shape != information.shape or variances.dim() != 1:
        raise ValueError(
            "variances and information must have the shape (m,), but have "
            f"{tuple(variances.shape)} and {tuple(information.shape)}"
        )
    ax = _axes(ax, 3.4, 2.4)
    anchored = torch.zeros(len(variances), dtype=torch.bool)
    anchored[list(anchors)] = True
    x, y = variances.detach().cpu(), information.detach().cpu()
    ax.scatter(x[~anchored], y[~anchored], s=12, color="0.6", label="free")
    if bool(anchored.any()):
        ax.scatter(x[anchored], y[anchored], s=18, color=ACCENT, label="anchored")
        ax.legend(frameon=False, fontsize="small")
    ax.set_xlabel("variance of $p(z_j)$")
    ax.set_ylabel("$I(z_j : x)$ in nats")
    return _finish(ax, title)


def _finish(ax: Axes, title: str | None) -> Axes:
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

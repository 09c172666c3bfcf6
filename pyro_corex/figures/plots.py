"""Figures as plain functions: they take matplotlib axes (or make them) and return them.

matplotlib is imported when a figure is drawn, so that training needs none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor
from pyro_corex.figures.axes import finish, literal, make_axes
from pyro_corex.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Okabe and Ito's blue, vermilion, green and purple, which colour-blind readers can tell apart."""

DASHES = ("-", "--", ":", "-.")
ACCENT = PALETTE[0]


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
    :raises ValueError: for other shapes.
    """
    picture = tiles(images)
    rows, columns, height, width = *images.shape[:2], *images.shape[-2:]
    ax = _axes(ax, columns * 0.6, rows * 0.6)
    ax.imshow(picture, interpolation="nearest")
    _ticks(ax.yaxis, row_labels, height + 2)
    _ticks(ax.xaxis, column_labels, width + 2)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


def tiles(images: Tensor) -> np.ndarray[Any, Any]:
    """The picture that :func:`image_grid` shows, with a margin of a pixel around each image.

    :param images: as :func:`image_grid` takes them.
    :returns: shape ``(rows * (height + 2), columns * (width + 2), 3)``, values in [0, 1].
    :raises TypeError: for what is no array of real numbers.
    :raises ValueError: for other shapes.

    >>> tiles(torch.zeros(2, 12, 8, 8)).shape
    (20, 120, 3)
    """
    images = as_tensor(images, "images")
    if images.dim() == 4:
        images = 1 - images.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    if images.dim() != 5 or images.shape[2] != 3:
        raise ValueError(
            "images must have the shape (rows, columns, height, width), or (rows, columns, 3, "
            f"height, width) in colour, but got {tuple(images.shape)}"
        )
    rows, columns, _, height, width = images.shape
    padded = torch.nn.functional.pad(
        images.detach().cpu().float().clamp(0, 1), (1, 1, 1, 1), value=0.85
    )
    picture = padded.permute(0, 3, 1, 4, 2).reshape(rows * (height + 2), columns * (width + 2), 3)
    return np.asarray(picture)


def latent_bars(
    values: Tensor, *, ax: Axes | None = None, anchors: Sequence[int] = (), title: str | None = None
) -> Axes:
    """One bar a latent, in nats, largest first, under its index; anchored latents are coloured.

    :param values: shape ``(m,)``: a KL or a mutual information of each latent.
    :raises ValueError: for another shape, and anchors that there are not.
    """
    values = _vector(values, "values")
    _check_anchors(anchors, len(values))
    order = values.argsort(descending=True).tolist()
    ax = _axes(ax, min(max(4.0, 0.14 * len(order)), 16.0), 2.4)
    colours = [ACCENT if j in anchors else "0.6" for j in order]
    ax.bar(range(len(order)), values[order].detach().cpu().numpy(), color=colours)
    at = range(0, len(order), math.ceil(len(order) / 110))
    ax.set_xticks(at, [str(order[i]) for i in at])
    ax.tick_params(axis="x", length=0)
    if len(order) > 20:
        ax.tick_params(axis="x", labelrotation=90, labelsize="x-small")
    ax.set_xmargin(0.01)
    return finish(ax, "latent, largest first", "nats", title=title)


def variance_distribution(
    variances: Tensor, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """How many latents have at most which variance (the paper's Fig. 7a).

    :param variances: shape ``(m,)``, of the aggregate posterior.
    :raises ValueError: for another shape.
    """
    variances = _vector(variances, "variances")
    ax = _axes(ax, 3.4, 2.4)
    ax.ecdf(variances.detach().cpu().numpy(), color=ACCENT)
    ax.axvline(1.0, color="0.6", linestyle=":", label="variance of the prior")
    labels = "variance of $p(z_j)$", "share of the latents"
    return finish(ax, *labels, title=title, legend=True)


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
    :raises ValueError: for other shapes, and anchors that there are not.
    """
    variances, information = (
        _vector(value, name)
        for value, name in ((variances, "variances"), (information, "information"))
    )
    if variances.shape != information.shape:
        raise ValueError(
            "variances and information must have the shape (m,), but have "
            f"{tuple(variances.shape)} and {tuple(information.shape)}"
        )
    _check_anchors(anchors, len(variances))
    ax = _axes(ax, 3.4, 2.4)
    anchored = torch.zeros(len(variances), dtype=torch.bool)
    anchored[list(anchors)] = True
    x, y = variances.detach().cpu(), information.detach().cpu()
    ax.scatter(x[~anchored], y[~anchored], s=12, color="0.6", label="free")
    if bool(anchored.any()):
        ax.scatter(x[anchored], y[anchored], s=18, color=ACCENT, label="anchored")
    labels = "variance of $p(z_j)$", "$I(z_j : x)$ in nats"
    return finish(ax, *labels, title=title, legend=bool(anchored.any()))


def information_plane(
    compression: Tensor,
    relevance: Tensor,
    betas: Sequence[float],
    *,
    ax: Axes | None = None,
    errors: tuple[Tensor, Tensor] | None = None,
    entropy: float | None = None,
    title: str | None = None,
) -> Axes:
    """The information plane: I(z : y) over I(z : x), a point for each beta (Alemi et al. 2017).

    :param compression: a bound on I(z : x) in nats, shape ``(n,)``: of each program the sum of
        ``terms.kl["z"]``.
    :param relevance: a bound on I(z : y) in nats, shape ``(n,)``: ``terms.relevance["y"]``.
    :param betas: the KL weights of the n programs, with which the points are labelled.
    :param errors: standard errors or deviations of both, shape ``(n,)`` each.
    :param entropy: H(y) in nats, above which no relevance lies: a line.
    :returns: the axes.
    :raises TypeError: for what is no array of real numbers.
    :raises ValueError: for other shapes.
    """
    given = {"compression": compression, "relevance": relevance, "betas": betas}
    if errors is not None:
        given |= {"errors[0]": errors[0], "errors[1]": errors[1]}
    values = {
        name: _vector(value, name, "(n,), one for each beta") for name, value in given.items()
    }
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{', '.join(shapes)} must have one shape (n,), but have {shapes}")
    order = values["betas"].argsort()
    x, y, beta, *spread = (value.detach().cpu()[order] for value in values.values())
    ax = _axes(ax, 3.6, 2.6)
    xerr, yerr = spread or (None, None)
    ax.errorbar(x, y, yerr, xerr, color=ACCENT, marker=".", label=r"$\beta$ at each point")
    ax.margins(0.1)
    for *at, weight in torch.stack((x, y, beta), 1).tolist():
        ax.annotate(f"{weight:g}", at, (5, -10), textcoords="offset points", fontsize="small")
    if entropy is not None:
        ax.axhline(entropy, color="0.6", linestyle=":", label="$H(y)$")
    labels = "$I(z : x)$ at most, in nats", "$I(z : y)$ at least, in nats"
    return finish(ax, *labels, title=title, legend=True)


def training_curves(
    history: History,
    *,
    ax: Axes | None = None,
    keys: Sequence[str] = ("objective", "elbo", "val_objective", "val_elbo"),
    title: str | None = None,
) -> Axes:
    """Quantities of the training history over the epochs, in nats per datum.

    :param history: what :func:`~pyro_corex.fit` returned.
    :param keys: which quantities; those that the history lacks are left out.
    :raises TypeError: for what is no history.
    :raises ValueError: where it has none of them.
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be what fit returned, but got {type(history).__name__}")
    found = [key for key in keys if history.epochs and key in history.epochs[-1]]
    if not found:
        known = sorted(history.epochs[-1]) if history.epochs else "no epochs"
        raise ValueError(f"The history has none of {list(keys)}, but {known}")
    ax = _axes(ax, 4.6, 2.4)
    for key, colour, dash in zip(found, itertools.cycle(PALETTE), itertools.cycle(DASHES)):
        values = [epoch.get(key, math.nan) for epoch in history.epochs]
        ax.plot(range(1, len(values) + 1), values, color=colour, linestyle=dash, label=literal(key))
    ax.locator_params(axis="x", integer=True)
    return finish(ax, "epoch", "nats per datum", title=title, legend=True)


def _vector(value: Any, name: str, shape: str = "(m,), one for each latent") -> Tensor:
    found = as_tensor(value, name)
    if found.dim() != 1 or not len(found):
        raise ValueError(f"{name} must have the shape {shape}, but got {tuple(found.shape)}")
    return found


def _check_anchors(anchors: Sequence[int], m: int) -> None:
    if any(not 0 <= j < m for j in anchors):
        raise ValueError(f"anchors must be latents from 0 to {m - 1}, but got {list(anchors)}")


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return make_axes(ax, width + 1.0, height + 0.6)  # and room for labels


def _ticks(axis: Any, labels: Sequence[str] | None, step: int) -> None:
    if labels is None:
        axis.set_ticks([])
    else:
        axis.set_ticks([(i + 0.5) * step for i in range(len(labels))], labels=list(labels))

"""Figures of a fitted :class:`~pyro_corex.CorEx`: they take axes, or make them, and return them.

matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from pyro_corex.estimator.columns import Array
from pyro_corex.figures.axes import finish, literal, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_corex.estimator.corex import CorEx

_COLOUR = "#0072B2"
_MOST_BOXES = 12


def information_map(corex: CorEx, *, ax: Axes | None = None) -> Axes:
    """A heat map of ``mis_`` in nats: latents down, columns across, those of one latent together.

    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    check_is_fitted(corex)
    m, d = corex.mis_.shape
    own = corex.mis_[np.maximum(corex.clusters_, 0), np.arange(d)]
    order = np.lexsort((-own, corex.clusters_))
    ax = make_axes(ax, max(4.0, 0.22 * d), max(1.5, 0.3 * m))
    image = ax.imshow(corex.mis_[:, order], cmap="cividis", vmin=0.0, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label="nats")
    ax.set_yticks(range(m))
    ax.set_ylabel("latent")
    _name_columns(ax, corex, order)
    return ax


def hierarchy(corex: CorEx, *, ax: Axes | None = None) -> Axes:
    """The layers as a tree: each node hangs on the node above that tells most of it.

    Lines are the wider the more is told; constant columns hang on none.

    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    check_is_fitted(corex)
    layers: list[tuple[Array, Array]] = []
    upper: Any = corex
    while upper is not None:
        layers.append((upper.mis_, upper.clusters_))
        upper = upper.upper_
    d = len(corex.clusters_)
    keys = [np.arange(d)]
    for _, parent in layers:
        keys.append(np.where(keys[-1] < 0, -1, parent[keys[-1]]))
    order = np.lexsort(keys)
    x = np.empty(d)
    x[order] = np.arange(d)
    ax = make_axes(ax, max(4.0, 0.22 * d), 1.0 + len(layers))
    for level, (mis, parent) in enumerate(layers):
        width = 0.3 + 2 * mis.max(0) / max(mis.max(), 1e-12)
        used = np.unique(parent[(parent >= 0) & np.isfinite(x)])
        above = np.full(len(mis), np.nan)
        for j in used:
            above[j] = x[(parent == j) & np.isfinite(x)].mean()
        for i, j in enumerate(parent):
            if j >= 0 and np.isfinite(x[i]):
                ax.plot([x[i], above[j]], [level, level + 1], color="0.6", lw=width[i], zorder=1)
        ax.scatter(above[used], np.full(len(used), level + 1), s=160, color=_COLOUR, zorder=2)
        for j in used:
            at = (above[j], level + 1)
            ax.annotate(str(j), at, color="w", ha="center", va="center", fontsize="small")
        x = above
    ax.set_yticks(range(1, len(layers) + 1), [f"layer {i}" for i in range(1, len(layers) + 1)])
    ax.set_ylim(-0.1, len(layers) + 0.4)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _name_columns(ax, corex, order)
    return ax


def latent_against_column(
    corex: CorEx, X: Any, latent: int, column: int | None = None, *, ax: Axes | None = None
) -> Axes:
    """A latent against a column: points, or boxes where the column has few levels.

    :param X: the table, or other rows with its columns: shape ``(N, d)``.
    :param column: its index; without it the one of which the latent tells most.
    :raises ValueError: for latents and columns that there are not.
    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    check_is_fitted(corex)
    m, d = corex.mis_.shape
    if not 0 <= latent < m:
        raise ValueError(f"latent must be one of 0 to {m - 1}, but got {latent!r}")
    i = int(corex.mis_[latent].argmax()) if column is None else column
    if not 0 <= i < d:
        raise ValueError(f"column must be one of 0 to {d - 1}, but got {column!r}")
    z, values = corex.transform(X)[:, latent], corex._read(X)[:, i]
    z, values = z[~np.isnan(values)], values[~np.isnan(values)]
    described = corex.columns_[i]
    ax = make_axes(ax, 2.6, 2.2)
    levels = np.unique(values)
    if len(levels) <= _MOST_BOXES:
        shown = described.labels or [f"{level:g}" for level in described.values]
        at = dict(zip(described.values.tolist(), shown, strict=False))
        names = [literal(at.get(level, f"{level:g}")) for level in levels.tolist()]
        boxes = ax.boxplot([z[values == level] for level in levels], patch_artist=True, sym="")
        ax.set_xticks(range(1, len(levels) + 1), names)
        for box in boxes["boxes"]:
            box.set(facecolor=_COLOUR, alpha=0.6)
        for median in boxes["medians"]:
            median.set(color="k")
    else:
        ax.scatter(values, z, s=6, alpha=0.4, color=_COLOUR, lw=0)
    return finish(ax, literal(described.name), f"latent {latent}")


def _name_columns(ax: Axes, corex: CorEx, order: Array) -> None:
    names = [literal(corex.columns_[i].name) for i in order]
    if len(names) <= 80:
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
    else:
        ax.set_xticks([])
        ax.set_xlabel("columns, by latent")

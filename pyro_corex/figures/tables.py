"""Figures of a fitted :class:`~pyro_corex.CorEx`: they take axes, or make them, and return them.

Columns are listed downwards, so that their names are read as they are written.  matplotlib is
imported when a figure is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_corex.figures.axes import finish, literal, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CorEx = Any  # the estimator, which stands above the figures

_COLOUR = "#0072B2"
_MOST_BOXES = 12
_MOST_ROWS = 80  # of a tree in which each column has a row of its own
_MOST_NAMES = 250  # of a map
_MOST_NUMBERS = 600  # that are printed into a map
_TALLEST = 20.0  # inches of a map without names
_WIDEST_NAME = 32  # letters


def information_map(corex: CorEx, *, ax: Axes | None = None) -> Axes:
    """A heat map of ``mis_`` in nats: columns down, those of one latent together, latents across.

    Of more than 250 columns those of one latent share a label, which names the one that it tells
    most of.

    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    _check_fitted(corex)
    values = corex.mis_.T
    most = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    return _map(corex, values, ax, "nats", cmap="Blues", vmin=0.0, vmax=max(most, 1e-12))


def loadings(corex: CorEx, *, ax: Axes | None = None) -> Axes:
    """A heat map of ``loadings_``: columns down, those of one latent together, latents across.

    A loading is how many standard deviations a column moves with a latent (Thurstone 1947).  Blue
    is positive and red negative.  Small maps print the loadings, those below 0.3 in grey.

    :raises ValueError: for categorical latents, which have no loadings.
    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    _check_fitted(corex)
    _check_latent(corex, "gaussian", "loadings")
    values = np.asarray(corex.loadings_)
    ax = _map(corex, values, ax, "loading", cmap="RdBu", vmin=-1.0, vmax=1.0)
    if values.size <= _MOST_NUMBERS and values.shape[1] <= 12:
        for i, row in enumerate(values[_order(corex)]):
            for j, value in enumerate(row):
                if np.isfinite(value):
                    shade = "w" if abs(value) > 0.6 else "k" if abs(value) >= 0.3 else "0.55"
                    shown = f"{value:.2f}".replace("0.", ".")
                    ax.text(j, i, shown, color=shade, ha="center", va="center", fontsize="x-small")
    return ax


def hierarchy(corex: CorEx, *, n_columns: int | None = None, ax: Axes | None = None) -> Axes:
    """The layers as a tree: each node hangs on the node above that tells most of it.

    Columns are on the left.  Lines are the wider the more is told; columns that no latent tells of
    hang on none.

    :param n_columns: how many columns of each latent to name, those first of which it tells most.
        By default all are named up to 80, and else as many as a page holds.
    :raises ValueError: for fewer than one.
    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    _check_fitted(corex)
    if n_columns is not None and (not isinstance(n_columns, int) or n_columns < 1):
        raise ValueError(f"n_columns must be an integer >= 1, but got {n_columns!r}")
    layers, upper = [], corex
    while upper is not None:
        layers.append((upper.mis_, upper.clusters_))
        upper = upper.upper_
    y, names = _rows(corex, layers, n_columns)
    width = 1.2 * len(layers) + 1.0 + 0.08 * max(map(len, names))
    ax = make_axes(ax, max(4.0, width), max(1.5, 0.21 * len(names) + 0.4))
    told = [np.nan_to_num(mis).max(0) for mis, _ in layers]
    most = max(1e-12, *(float(own.max()) for own in told))
    for level, (mis, parent) in enumerate(layers):
        widths = 0.3 + 2.5 * told[level] / most
        used = np.unique(parent[(parent >= 0) & np.isfinite(y)])
        above = np.full(len(mis), np.nan)
        for j in used:
            above[j] = np.unique(y[(parent == j) & np.isfinite(y)]).mean()
        for i, j in enumerate(parent):
            if j >= 0 and np.isfinite(y[i]):
                ax.plot([level, level + 1], [y[i], above[j]], color="0.6", lw=widths[i], zorder=1)
        ax.scatter(np.full(len(used), level + 1), above[used], s=160, color=_COLOUR, zorder=2)
        for j in used:
            at = (level + 1, above[j])
            ax.annotate(str(j), at, color="w", ha="center", va="center_baseline", fontsize="small")
        y = above
    ax.set_xticks(range(1, len(layers) + 1), [f"layer {i}" for i in range(1, len(layers) + 1)])
    ax.set_xlim(-0.05, len(layers) + 0.3)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), names, fontsize="small")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
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
    _check_fitted(corex)
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
        names = [_short(at.get(level, f"{level:g}"), 16) for level in levels.tolist()]
        boxes = ax.boxplot([z[values == level] for level in levels], patch_artist=True, sym="")
        steep = sum(map(len, names)) > 30
        ax.set_xticks(range(1, len(levels) + 1), names, rotation=90 if steep else 0)
        for box in boxes["boxes"]:
            box.set(facecolor=_COLOUR, alpha=0.6)
        for median in boxes["medians"]:
            median.set(color="k")
    else:
        ax.scatter(values, z, s=6, alpha=0.4, color=_COLOUR, lw=0)
    return finish(ax, _short(described.name), f"latent {latent}")


def scree(corex: CorEx, *, ax: Axes | None = None) -> Axes:
    """The eigenvalues of the columns' correlations, and those of noise: ``scree_``.

    Where the line of the table is above that of noise, a latent explains more than noise of the
    same size would: parallel analysis (Horn 1965).  A dotted line marks the number of latents.

    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    _check_fitted(corex)
    found, noise = corex.scree_.eigenvalues, corex.scree_.reference
    shown = min(len(found), max(20, 2 * corex.n_hidden_))
    at = np.arange(1, shown + 1)
    ax = make_axes(ax, 4.6, 2.6)
    ax.plot(at, found[:shown], color=_COLOUR, marker=".", label="this table")
    ax.plot(at, noise[:shown], color="#D55E00", linestyle="--", label="noise")
    ax.axvline(corex.n_hidden_ + 0.5, color="0.5", linestyle=":", label="latents in the model")
    ax.locator_params(axis="x", integer=True)
    return finish(ax, "eigenvalue, by rank", "size", legend=True)


def class_profiles(
    corex: CorEx, latent: int = 0, *, n_columns: int = 20, ax: Axes | None = None
) -> Axes:
    """What the columns of a categorical latent are in each class: ``class_profiles_``.

    It is the picture of latent class analysis (Lazarsfeld & Henry 1968).
    A row for each column, those first of which the latent tells most, and a band for each class,
    under its size, the share of the rows.  Levels and states are bars as long as they are probable;
    of numbers a point is the mean and a line its standard deviation to both sides, from the
    column's smallest value at the left of the band to its largest at the right.

    :param latent: which one.
    :param n_columns: how many columns at most.
    :raises ValueError: for Gaussian latents, a latent that there is not, and no columns.
    :raises sklearn.exceptions.NotFittedError: before fit.
    """
    _check_fitted(corex)
    _check_latent(corex, "categorical", "class_profiles")
    if not 0 <= latent < corex.n_hidden_:
        raise ValueError(f"latent must be one of 0 to {corex.n_hidden_ - 1}, but got {latent!r}")
    if n_columns < 1:
        raise ValueError(f"n_columns must be an integer >= 1, but got {n_columns!r}")
    shares, profiles = corex.class_sizes_[latent], corex.class_profiles_[latent]
    columns = [corex.columns_[i] for i in np.argsort(-corex.mis_[latent], kind="stable")]
    columns = [column for column in columns if column.name in profiles][:n_columns]
    names = [_short(column.name) for column in columns]
    step = 1.08
    ax = make_axes(
        ax, 0.08 * max(map(len, names), default=0) + 1.9 * len(shares), 0.34 * len(columns) + 0.7
    )
    for row, column in enumerate(columns):
        for k, own in enumerate(profiles[column.name]):
            _profile(ax, column, own, k * step, row)
    ax.set_yticks(range(len(columns)), names, fontsize="small")
    ax.set_ylim(max(len(columns), 1) - 0.5, -0.5)
    heads = [f"class {k}\n{share:.0%}" for k, share in enumerate(shares)]
    ax.set_xticks([k * step + 0.5 for k in range(len(shares))], heads, fontsize="small")
    ax.set_xlim(-0.02, len(shares) * step - step + 1.02)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


# ---------------------------------------------------------------------- of columns


def _check_fitted(corex: Any) -> None:
    from sklearn.exceptions import NotFittedError  # here, as no other figure needs it

    if not hasattr(corex, "mis_"):
        raise NotFittedError(f"corex must be a fitted CorEx, but got {corex!r}. Call fit before.")


def _check_latent(corex: CorEx, latent: str, what: str) -> None:
    if corex.latent != latent:
        raise ValueError(
            f"corex must have {latent} latents for {what}, but got latent={corex.latent!r}. "
            "information_map is for both kinds."
        )


def _short(name: object, most: int = _WIDEST_NAME) -> str:
    """A name on one line, cut where it is long."""
    text = " ".join(str(name).split())
    return literal(text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}")


def _order(corex: CorEx) -> NDArray[np.int64]:
    """Columns of one latent together, those first of which it tells most; those of none last."""
    cluster = corex.clusters_
    own = np.nan_to_num(corex.mis_[cluster, np.arange(len(cluster))])
    none = cluster < 0
    return np.lexsort((np.where(none, 0, -own), np.where(none, len(corex.mis_), cluster)))


def _map(corex: CorEx, values: Any, ax: Axes | None, label: str, **options: Any) -> Axes:
    """A heat map of values ``(d, m)``; what is not known is grey."""
    d, m = values.shape
    order = _order(corex)
    names = [_short(corex.columns_[i].name) for i in order]
    step = 0.21 if d <= _MOST_ROWS else 0.14
    height = step * d if d <= _MOST_NAMES else min(step * d, _TALLEST)
    width = 0.08 * max(map(len, names)) + max(1.2, 0.36 * min(m, 20) + 0.2 * max(m - 20, 0)) + 1.2
    ax = make_axes(ax, width, height + 0.9)
    image = ax.imshow(values[order], aspect="auto", interpolation="nearest", **options)
    ax.set_facecolor("0.85")
    share = min(1.0, 2.5 / (height + 0.9))
    ax.figure.colorbar(image, ax=ax, label=label, shrink=share, anchor=(0.0, 1.0), aspect=12)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xticks(range(m), map(str, range(m)), fontsize="small" if m <= 20 else "x-small")
    ax.set_xlabel("latent")
    ax.tick_params(length=0)
    if d <= _MOST_NAMES:
        ax.set_yticks(range(d), names, fontsize="small" if d <= _MOST_ROWS else "x-small")
        return ax
    ticks = []
    cluster = corex.clusters_[order]
    starts = np.flatnonzero(np.diff(cluster, prepend=-2))
    for start, stop in zip(starts, [*starts[1:], d], strict=True):
        ax.axhline(start - 0.5, color="w", lw=0.5)
        if stop - start >= 0.01 * d:  # else there is no room for a label
            more = f" and {stop - start - 1} more" if stop - start > 1 else ""
            ticks.append(((start + stop - 1) / 2, names[start] + more))
    ax.set_yticks([at for at, _ in ticks], [text for _, text in ticks], fontsize="small")
    return ax


def _rows(corex: CorEx, layers: Any, most: int | None) -> tuple[Any, list[str]]:
    """The rows of a tree: for each column where its line starts, and what the rows are called.

    Columns that are not named share a row.
    """
    d = len(corex.clusters_)
    keys = [np.argsort(_order(corex))]
    node = np.arange(d)
    for _, parent in layers:
        node = np.where(node < 0, -1, parent[node])
        keys.append(np.where(node < 0, 2**31, node))
    order = np.lexsort(keys)
    groups = np.split(order, 1 + np.flatnonzero(np.diff(corex.clusters_[order])))
    if most is None:
        most = d if d <= _MOST_ROWS else max(1, _MOST_ROWS // len(groups) - 1)
    y, names = np.empty(d), list[str]()
    for group in groups:
        named = group if len(group) <= most + 1 else group[:most]
        y[named] = len(names) + np.arange(len(named))
        names += [_short(corex.columns_[i].name) for i in named]
        if len(named) < len(group):
            y[group[most:]] = len(names)
            names.append(f"and {len(group) - most} more")
    return y, names


def _profile(ax: Axes, column: Any, own: Any, left: float, row: int) -> None:
    """One column in one class."""
    from matplotlib import colormaps

    if not column.n_levels:
        mean, sd = own
        width = max(column.high - column.low, 1e-12)
        a, b, c = np.clip((np.array([mean - sd, mean, mean + sd]) - column.low) / width, 0, 1)
        ax.plot([left, left + 1], [row, row], color="0.9", lw=6, zorder=0, solid_capstyle="butt")
        ax.plot([left + a, left + c], [row, row], color=_COLOUR, lw=1.5)
        ax.plot([left + b], [row], color=_COLOUR, marker="o", ms=4)
        return
    names = column.labels or [f"{value:g}" for value in column.values]
    start = 0.0
    for k, (p, name) in enumerate(zip(own, names, strict=True)):
        shade = 0.08 + 0.62 * k / max(len(names) - 1, 1)
        ax.barh(row, p, 0.7, left=left + start, color=colormaps["Blues"](shade), ec="w", lw=0.5)
        text = _short(name, 10)
        if p > 0.04 + 0.06 * len(text):
            ink = "w" if shade > 0.5 else "k"
            at = left + start + p / 2
            ax.text(at, row, text, color=ink, ha="center", va="center", fontsize="x-small")
        start += p

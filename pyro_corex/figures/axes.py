"""Axes of a figure of its own, for a function that was given none."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def make_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """``ax``, or axes of a new figure of that size, in inches."""
    if ax is not None:
        return ax
    axes: Axes = _figure_class()(figsize=(width, height), layout="constrained").subplots()
    return axes


def finish(
    ax: Axes, xlabel: str, ylabel: str, *, title: str | None = None, legend: bool = False
) -> Axes:
    """Names the axes, and takes the frame away at the top and the right."""
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize="small")
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


def literal(name: object) -> str:
    """A name as it is: a dollar sign in it begins no formula, as matplotlib would have it."""
    return str(name).replace("$", r"\$")


@cache
def _figure_class() -> Any:
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows, once, whether or not pyplot has been set up there."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    return Shown

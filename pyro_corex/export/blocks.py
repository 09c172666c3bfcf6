"""What a page is made of: sections of blocks, each of which the template knows how to write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyro_corex.export.pictures import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_NUMBER = re.compile(r"$|[-+\d.]")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    block: ClassVar[str] = "text"
    text: str
    kind: str = ""
    """"headline", "note" for what to heed, or "listing" for lines as they are."""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    block: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    block: ClassVar[str] = "items"
    sentences: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A picture, as an address that holds it."""

    block: ClassVar[str] = "picture"
    address: str
    alt: str
    caption: str
    kind: str = ""
    """"drawn" for figures, "map" and "pixels" for images of few pixels."""
    width: int = 0
    """Of a figure, in pixels; on a phone it scrolls rather than becoming much narrower."""


@dataclass(frozen=True)
class Table:
    """Rows of text, of which the first entry is the row's name."""

    block: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: str = ""
    """What it is called where it is folded away."""

    @property
    def kinds(self) -> list[str]:
        """Of each column but the first: "words" and "long" ones, or "" for numbers."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.head)
        longest = [
            max((len(cell) for cell in c if not _NUMBER.match(cell)), default=0) for c in columns
        ]
        return ["long" if n > 24 else "words" if n else "" for n in longest[1:]]


@dataclass(frozen=True)
class Bars:
    """Names, widths in percent and values."""

    block: ClassVar[str] = "bars"
    caption: str
    rows: Sequence[tuple[str, str | None, str]]


@dataclass(frozen=True)
class Slider:
    """A slider that moves a film of images, or bars."""

    block: ClassVar[str] = "slider"
    title: str
    positions: Sequence[str]
    start: int
    told: Mapping[str, Any]
    """What the script is told."""
    shown: Bars | Picture
    aspect: float = 0.0
    """Of a film: the width of a frame over its height."""


@dataclass(frozen=True)
class Pair:
    """Blocks side by side, where there is room."""

    block: ClassVar[str] = "pair"
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Section:
    """A heading, and the blocks below it."""

    title: str
    blocks: Sequence[Any]


def drawn(ax: Axes, alt: str, caption: str) -> Picture:
    """A figure."""
    width = ax.figure.get_figwidth()  # type: ignore[union-attr]
    return Picture(svg(ax), alt, caption, "drawn", round(72 * width * 4 / 3))


def nats(value: Any) -> str:
    """A value to three decimals."""
    return f"{float(value):.3f}"


def error(value: Any) -> str:
    """A standard error to two digits, or nothing."""
    return "" if value is None else f"{float(value):.2g}"

"""A gallery: cards that lead to pages, with thumbnails of the pictures that the build has made."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from matplotlib.figure import Figure
from matplotlib.image import imread

FOLDER = "_static/thumbnails"
WIDTH, HEIGHT, DPI = 3.0, 1.9, 100
FIELDS = ("page", "text", "picture", "title")


class Cards(Directive):
    """A card for each line: ``page | sentence``, or ``page | sentence | picture | title``.

    The picture is a file, or the number of one on the page, as it was executed: the last if none
    is given.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The cards; links and titles are filled in once all pages are read."""
        rows = [[part.strip() for part in line.split("|")] for line in self.content]
        return [card("", **dict(zip(FIELDS, [*row, "", ""], strict=False))) for row in rows]


class card(nodes.General, nodes.Element):  # noqa: N801
    """One of them."""


def thumbnail(path: Path | None, title: str, target: Path) -> None:
    """A small copy of a picture, or a sheet with a title where there is none."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    if path is None:
        ax.text(0.5, 0.5, title, ha="center", va="center", fontsize=14, color="#555", wrap=True)
    else:
        ax.imshow(imread(path), interpolation="antialiased")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=DPI)


def picture_of(app: Any, page: str, number: int) -> Path | None:
    """A picture of a page, if it has one."""
    found = [node["uri"] for node in app.env.get_doctree(page).findall(nodes.image)]
    paths = [Path(app.srcdir) / uri.lstrip("/") for uri in found if uri.endswith(".png")]
    paths = [path for path in paths if path.exists()]
    return paths[number] if paths else None


def fill(app: Any, doctree: nodes.document, docname: str) -> None:
    """Makes the cards of a page, and their thumbnails."""
    for node in list(doctree.findall(card)):
        page, text, picture = node["page"], node["text"], node["picture"]
        title = node["title"] or app.env.titles[page].astext()
        if picture.endswith(".png"):
            name, path = Path(picture).stem, Path(app.srcdir) / picture
        else:
            name, path = page.replace("/", "-"), picture_of(app, page, int(picture or -1))
        thumbnail(path, title, Path(app.outdir) / FOLDER / f"{name}.png")
        here = app.builder.get_relative_uri(docname, page)
        node.replace_self(
            nodes.raw(
                "",
                f'<a class="card" href="{here}"><img src="{FOLDER}/{name}.png" alt="" '
                f'loading="lazy"><b>{html.escape(title)}</b><span>{html.escape(text)}</span></a>',
                format="html",
            )
        )


def setup(app: Any) -> dict[str, bool]:
    """Adds the directive to the build."""
    app.add_node(card)
    app.add_directive("cards", Cards)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

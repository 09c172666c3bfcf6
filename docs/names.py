"""The list of all names on the first page of the API, read off the pages that document them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from sphinx.ext import autosummary

autosummary.WELL_KNOWN_ABBREVIATIONS += (" Eq.", "(Eq.", " Sec.", "(Sec.")  # end no sentence

MODULE = re.compile(r"^ *\.\. (?:currentmodule|automodule):: (\S+)")
NAME = re.compile(r"^ *\.\. auto(?:class|function|exception):: (\S+)")
HIDDEN = re.compile(r"^ +:exclude-members: (.+)")


def documented(page: str) -> list[str]:
    """The names that the source of a page documents, qualified, in its order."""
    module, found = "pyro_corex", []
    for line in page.splitlines():
        if match := MODULE.match(line):
            module = match[1]
            if "automodule" in line:
                found += [f"{module}.{name}" for name in importlib.import_module(module).__all__]
        elif match := NAME.match(line):
            name = match[1]
            found.append(name if name.startswith("pyro_corex.") else f"{module}.{name}")
        elif match := HIDDEN.match(line):
            hidden = {f"{module}.{name}" for name in match[1].split(", ")}
            found = [name for name in found if name not in hidden]
    return found


def table_of_names(source: str, folder: Path) -> str:
    """The source of the first page, with a line for each name of each page in its contents."""
    parts = []
    for page in re.findall(r"^api/(\w+)$", source, re.MULTILINE):
        text = (folder / "api" / f"{page}.md").read_text()
        title = text.partition("\n")[0].removeprefix("# ")
        names = "\n".join(f"   ~{name}" for name in documented(text))
        parts.append(
            f"## [{title}](api/{page}.md)\n\n"
            f"```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n{names}\n```\n"
        )
    return source.replace("<!-- names -->", "\n".join(parts))


def list_names(app: Any, docname: str, source: list[str]) -> None:
    """Puts the table where the page asks for it."""
    if docname == "api":
        source[0] = table_of_names(source[0], Path(app.srcdir))

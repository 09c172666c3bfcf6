"""The table of docs/reproduction.md, from what runs have left in docs/results.

    python docs/reproduction.py

``reproduction.json`` says which number of the paper a row is about, where ours is (a file of JSON
lines, one for each run; which of its lines; which field), and which command writes it.  No number
of ours is typed anywhere.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOT_RUN = "not run"


def runs(row: dict[str, Any], folder: Path = HERE) -> list[dict[str, Any]]:
    """The lines of the file that a row is made of."""
    path = folder / row["file"]
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [line for line in lines if all(line.get(k) == v for k, v in row["where"].items())]


def value(line: dict[str, Any], field: str) -> float | None:
    """A field such as ``accuracy`` or ``top_two.0``; the mean, where it is a list of numbers."""
    found: Any = line
    for key in field.split("."):
        if isinstance(found, list):
            found = found[int(key)] if int(key) < len(found) else None
        else:
            found = found.get(key)
        if found is None:
            return None
    return statistics.fmean(found) if isinstance(found, list) else float(found)


def ours(row: dict[str, Any], folder: Path = HERE) -> str:
    """Mean ± standard deviation over the runs, and their number."""
    values = [v for line in runs(row, folder) if (v := value(line, row["field"])) is not None]
    if not values:
        return NOT_RUN
    scale, digits, unit = row.get("scale", 1), row.get("digits", 2), row.get("unit", "")
    text = f"{scale * statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * statistics.stdev(values):.{digits}f}"
    runs_of = "1 run" if len(values) == 1 else f"{len(values)} seeds"
    return f"{text}{unit} ({runs_of})"


def together(text: str) -> str:
    """A number that is not torn apart, and the runs that it is from below it."""
    return " (".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in text.split(" ("))


def table(folder: Path = HERE) -> str:
    """The whole table, and the commands that its last column names, as Markdown."""
    spec = json.loads((folder / "reproduction.json").read_text())
    letters = dict(zip(spec["commands"], "abcdefghij", strict=False))
    head = ["paper", "reported there", "ours", "on what", "command"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in spec["rows"]:
        cells = [row["paper"], row["reported"], together(ours(row, folder)), row["here"]]
        lines.append(f"| {' | '.join(cells)} | {letters[row['command']]} |")
    commands = [f"- {letters[name]}: `{command}`" for name, command in spec["commands"].items()]
    return "\n".join([*lines, "", *commands])


if __name__ == "__main__":
    print(table())

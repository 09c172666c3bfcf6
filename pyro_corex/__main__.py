"""CorEx without writing Python: python -m pyro_corex fit data.csv --n-hidden 5

Explains why the columns of a table agree.  Writes a summary, tables and figures into a folder.
Figures need matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pyro_corex.estimator import CorEx, hierarchy, information_map, latent_against_column

MISSING = {"", "na", "nan", "n/a", "null", "none", "?"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m pyro_corex", description=__doc__, formatter_class=shown
    )
    commands = parser.add_subparsers(dest="command", required=True)
    what = "fit a table: a CSV file whose first line has the names"
    fit = commands.add_parser(
        "fit", help=what, description=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    fit.add_argument("data", type=Path, help="the CSV file; empty entries, NA and ? are missing")
    fit.add_argument(
        "--n-hidden", default="5", help="number of latents, 'auto', or layers such as 10,3,1"
    )
    fit.add_argument(
        "--latent",
        choices=["gaussian", "categorical"],
        default="gaussian",
        help="a column may load on all gaussian latents, and belongs to one categorical latent",
    )
    fit.add_argument("--n-states", type=int, default=2, help="of each categorical latent")
    fit.add_argument("--delimiter", default=",", help="between entries")
    fit.add_argument("--drop", default="", help="columns to leave out, such as id,name")
    fit.add_argument("--seed", type=int, default=0, help="of everything random")
    fit.add_argument("--output", type=Path, default=Path("corex"), help="the folder to write to")
    return parser.parse_args(argv)


def read(path: Path, delimiter: str, drop: Iterable[str]) -> tuple[list[str], Any]:
    """Names, and an array of numbers, or of objects where some columns are words."""
    if len(delimiter) != 1:
        raise ValueError(f"--delimiter must be one character, but got {delimiter!r}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8, but byte {error.start} is none: save it as CSV UTF-8"
        ) from None
    if len(rows) < 3:
        raise ValueError(f"{path} has {len(rows)} lines: a line of names and two rows are needed")
    names, rows = rows[0], rows[1:]
    wrong = next((i for i, row in enumerate(rows, 2) if len(row) != len(names)), None)
    if wrong:
        raise ValueError(
            f"Row {wrong} of {path} has {len(rows[wrong - 2])} entries, but there are {len(names)} "
            "names. Is --delimiter right?"
        )
    unknown = sorted(set(drop) - set(names))
    if unknown:
        raise ValueError(f"--drop names {unknown}, but the columns are {names}")
    keep = [i for i, name in enumerate(names) if name not in drop]
    if not keep:
        raise ValueError(f"--drop leaves none of the columns {names}")
    columns = [_column([row[i].strip() for row in rows]) for i in keep]
    words = any(isinstance(value, str) for column in columns for value in column)
    x = np.array(columns, dtype=object if words else float).T
    return [names[i] for i in keep], x


def _column(values: list[str]) -> list[Any]:
    """Numbers if all are, else words; None where missing."""
    known: list[Any] = [None if value.lower() in MISSING else value for value in values]
    try:
        return [None if value is None else float(value) for value in known]
    except ValueError:
        return known


def layers(text: str) -> Any:
    """What ``--n-hidden`` says."""
    if text == "auto":
        return text
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ValueError(
            f"--n-hidden must be a number, 'auto' or layers such as 10,3,1, but got {text!r}"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 2 where the input does not fit."""
    args = parse(argv)
    try:
        check_output(args.output)
        drop = [name for name in args.drop.split(",") if name]
        names, x = read(args.data, args.delimiter, drop)
        options = {"latent": args.latent, "n_states": args.n_states, "random_state": args.seed}
        corex = CorEx(layers(args.n_hidden), **options).fit(x)
        for column, name in zip(corex.columns_, names, strict=True):
            column.name = name
        write(corex, x, names, args.output)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(corex.summary())
    print(f"\nTables and figures: {args.output.resolve()}")
    return 0


def check_output(folder: Path) -> None:
    """Raises ``ValueError``, before the work, where the results could not be written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--output must be a folder, but {there} is a file: name another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--output must be a folder to write to, but {there} is read-only")


def write(corex: CorEx, x: Any, names: list[str], output: Path) -> None:
    """Writes the summary, tables and figures."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "summary.txt").write_text(corex.summary() + "\n", encoding="utf-8")
    m = range(corex.n_hidden_)
    latents = [f"latent_{j}" for j in m]
    table(output / "latents.csv", latents, corex.transform(x))
    kinds = [column.kind for column in corex.columns_]
    rows = zip(names, kinds, corex.clusters_, *corex.mis_, strict=True)
    table(output / "columns.csv", ["column", "kind", "latent", *latents], rows)
    totals = zip(m, corex.tcs_, corex.tcs_stderr_, strict=True)
    table(output / "totals.csv", ["latent", "tc_nats", "stderr"], totals)
    figures = {"information": information_map(corex), "hierarchy": hierarchy(corex)}
    figures |= {f"latent_{j}": latent_against_column(corex, x, j) for j in m}
    for name, ax in figures.items():
        ax.figure.savefig(output / f"{name}.png", dpi=150)  # type: ignore[union-attr]


def table(path: Path, header: list[str], rows: Any) -> None:
    """Writes a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())

"""CorEx without writing Python: python -m pyro_corex fit data.csv --n-hidden 5

Explains why the columns of a table agree.  Writes a summary, tables and figures into a folder.
A model that is kept (--save) scores new rows (transform) and fills their gaps (impute).  A page
(--report, or report of a kept model) has all that was found, to be sent to others.
Reading needs pandas, figures matplotlib: pip install 'pyro-corex[tables]'.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_corex.batches import check_count
from pyro_corex.estimator import CorEx, read_table
from pyro_corex.estimator.suspects import rows_with
from pyro_corex.estimator.told import as_code
from pyro_corex.export import report
from pyro_corex.export.folder import scores, write
from pyro_corex.files import check_writable


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m pyro_corex", description=__doc__, formatter_class=shown
    )
    version = vars(sys.modules["pyro_corex"])["__version__"]
    parser.add_argument("--version", action="version", version=f"pyro_corex {version}")
    commands = parser.add_subparsers(dest="command", required=True)
    _with_table(commands, "describe", "say how each column of a table is read")
    fit = _with_table(commands, "fit", "fit a table")
    fit.add_argument(
        "--n-hidden", default="auto", help="number of latents, 'auto', or layers such as 10,3,1"
    )
    fit.add_argument(
        "--latent",
        choices=["gaussian", "categorical"],
        default="gaussian",
        help="a column may load on all gaussian latents, and belongs to one categorical latent",
    )
    fit.add_argument("--n-states", default="2", help="of each categorical latent, or 'auto'")
    fit.add_argument("--seed", type=int, default=0, help="of everything random")
    fit.add_argument(
        "--output",
        type=Path,
        default=Path("corex"),
        help="the folder to write to; an earlier result is kept, and the new one is beside it",
    )
    fit.add_argument("--n-rows", type=int, help="rows behind a table of correlations")
    fit.add_argument(
        "--bootstrap", type=int, help="draws of rows for errors of loadings, classes and so on"
    )
    fit.add_argument("--save", type=Path, help="a file to keep the model in")
    fit.add_argument("--report", action="store_true", help="write a page, report.html, beside them")
    fit.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    for name, what in (
        ("transform", "give the latents of new rows"),
        ("impute", "fill the missing entries of new rows"),
        ("report", "write a page on a model and a table, such as the one that it was fitted to"),
    ):
        new = _with_table(commands, name, what, told=False)
        new.add_argument("--model", type=Path, required=True, help="what fit --save has kept")
        new.add_argument("--output", type=Path, required=True, help="the file to write")
        new.add_argument("--overwrite", action="store_true", help="replace that file")
    args = list(sys.argv[1:] if argv is None else argv)
    for i in reversed([i for i, arg in enumerate(args[:-1]) if arg == "--missing"]):
        args[i : i + 2] = [f"--missing={args[i + 1]}"]  # -99,999 looks like an option
    return parser.parse_args(args)


def _with_table(commands: Any, name: str, what: str, told: bool = True) -> argparse.ArgumentParser:
    """A command that reads a table, and is told of its columns or not."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}: text of any delimiter and encoding, Excel, "
        "Parquet, SPSS, Stata or SAS, compressed or not.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="the file")
    parser.add_argument("--delimiter", help="between entries; found if it is not given")
    parser.add_argument("--decimal", choices=[".", ","], help="where 1,234 could be either")
    parser.add_argument("--header", choices=["yes", "no"], help="whether the first line has names")
    if not told:
        return parser
    parser.add_argument("--weight", help="the column that says how much each row counts")
    parser.add_argument("--drop", default="", help="columns to leave out, such as id,name")
    parser.add_argument(
        "--missing",
        action="append",
        help="codes of missing entries, such as -99,999 or income=0; may be given again",
    )
    parser.add_argument(
        "--levels",
        action="append",
        help="words from least to most, such as low,mid,high or size=S,M,L; may be given again",
    )
    parser.add_argument(
        "--kinds",
        action="append",
        help="a column's kind, such as age=continuous; may be given again: binary, categorical, "
        "ordinal, counts or continuous",
    )
    return parser


def told(options: Sequence[str] | None, name: str) -> dict[str | None, list[str]]:
    """What ``--missing``, ``--levels`` or ``--kinds`` say by column, by None of all columns."""
    found: dict[str | None, list[str]] = {}
    for option in options or ():
        column, equals, values = option.rpartition("=")
        if not values:
            raise ValueError(f"--{name} must be values or column=values, but got {option!r}")
        found.setdefault(column if equals else None, []).extend(next(csv.reader([values])))
    return found


def read(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """The table, the same without what is dropped, and what was told of it."""
    missing, levels = told(args.missing, "missing"), told(args.levels, "levels")
    kinds = {column: own[0] for column, own in told(args.kinds, "kinds").items()}
    whole = frame = _frame(args, missing.get(None, ()))
    drop = [name for name in args.drop.split(",") if name]
    unknown = sorted(set(drop) - set(frame.columns))
    if unknown:
        raise ValueError(f"--drop names {unknown}, but the columns are {list(frame.columns)}")
    frame = frame.drop(columns=drop)
    if not frame.shape[1]:
        raise ValueError(f"--drop leaves none of the columns {drop}")
    if None in kinds:
        raise ValueError(f"--kinds must be column=kind, but got {kinds[None]!r}")
    for column in frame.columns:
        missing.setdefault(column, []).extend(missing.get(None, ()))
        if None in levels and column not in levels:
            codes = {as_code(code) for code in missing[column]}
            held = {str(word) for word in frame[column].dropna()}
            held = {word for word in held if as_code(word) not in codes}
            if held and held <= set(levels[None]):
                levels[column] = levels[None]
    options = {
        "missing": {column: own for column, own in missing.items() if column is not None and own},
        "levels": {column: own for column, own in levels.items() if column is not None},
        "kinds": kinds,
    }
    return whole, frame, {name: value for name, value in options.items() if value}


def split(args: argparse.Namespace, frame: Any) -> tuple[Any, Any]:
    """The table without the column of ``--weight``, and that column or ``None``."""
    if args.weight is None:
        return frame, None
    if args.weight not in frame.columns:
        raise ValueError(
            f"--weight names {args.weight!r}, but the columns are {list(frame.columns)}"
        )
    return frame.drop(columns=args.weight), frame[args.weight]


def _frame(args: argparse.Namespace, missing: Iterable[Any]) -> Any:
    return read_table(
        args.data,
        delimiter=args.delimiter,
        decimal=args.decimal,
        header=None if args.header is None else args.header == "yes",
        missing=missing,
    )


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


def states(text: str) -> int | str:
    """What ``--n-states`` says."""
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"--n-states must be a number or 'auto', but got {text!r}")
    return text if text == "auto" else int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 where the input does not fit."""
    args = parse(argv)
    try:
        with _said():
            {
                "fit": fit,
                "describe": describe,
                "transform": new_rows,
                "impute": new_rows,
                "report": new_rows,
            }[args.command](args)
    except (OSError, ValueError, TypeError, ImportError, csv.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _said() -> Iterator[None]:
    """Shows each warning as a sentence, once."""
    said = set[str]()

    def show(message: Any, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def describe(args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Prints how a table is read, and gives what :func:`read` does."""
    whole, frame, options = read(args)
    described = CorEx(**options).describe(split(args, frame)[0])
    for note in described.notes:
        warnings.warn(note, stacklevel=2)
    print(replace(described, notes=[f"{args.data.name}: {n}" for n in frame.attrs["notes"]]))
    sys.stdout.flush()
    return whole, frame, options


def fit(args: argparse.Namespace) -> None:
    """Fits a table, and writes what was found."""
    check_output(args.output)
    if args.save is not None:
        check_new(args.save, args.overwrite, "--save")
    if args.weight is not None and args.n_rows is not None:
        raise ValueError("--weight must be left out where --n-rows stands for the rows")
    sizes = layers(args.n_hidden)
    if args.report and args.n_rows is not None:
        raise ValueError("--report must be left out where --n-rows stands for the rows")
    if args.bootstrap is not None:
        check_count("--bootstrap", args.bootstrap, 2)
        if args.n_rows is not None:
            raise ValueError("--bootstrap must be left out where --n-rows stands for the rows")
    whole, frame, options = read(args) if args.n_rows is not None else describe(args)
    if args.n_rows is not None:
        frame = frame.select_dtypes("number")
    options |= {"latent": args.latent, "n_states": states(args.n_states), "random_state": args.seed}
    frame, weight = split(args, frame)
    corex = CorEx(sizes, **options).fit(frame, sample_weight=weight, n_rows=args.n_rows)
    if args.n_rows is not None:
        whole = frame = rows_with(frame, args.n_rows)
    if args.bootstrap is not None:
        corex.bootstrap(frame, n_draws=args.bootstrap, sample_weight=weight)
    output = args.output if args.overwrite else unused(args.output)
    write(corex, frame, output, whole)
    print(f"\n{corex.summary()}")
    print(
        "\nThe report of a VAE may show another number for the same table: it is of that program "
        "and of the data as it is given them. CorEx reads the columns as described above, and "
        "takes off what it has learned of noise."
    )
    kept = "" if output == args.output else f", beside an earlier result in {args.output}"
    if args.report:
        report(corex, frame, output / "report.html", title=args.data.name)
    print(f"\nTables and figures: {output.resolve()}{kept}")
    if args.save is not None:
        corex.save(args.save)
        print(f"The model: {args.save.resolve()}")


def new_rows(args: argparse.Namespace) -> None:
    """Writes the latents of new rows, the rows with their gaps filled, or a page on them."""
    check_new(args.output, args.overwrite, "--output")
    corex = CorEx.load(args.model)
    names = [column.name for column in corex.columns_]
    beside = frame = _frame(args, ())  # the model knows the codes of each column
    unused = {column.name for column in corex.columns_ if column.kind == "left out"}
    frame = frame.assign(**dict.fromkeys(unused - set(frame.columns)))
    lost = [name for name in names if name not in frame.columns]
    if lost:
        raise ValueError(f"{args.data} has not all columns of the model: it lacks {lost}")
    if args.command == "impute":
        corex.impute(frame[names]).to_csv(args.output, index=False)
    elif args.command == "report":
        report(corex, frame[names], args.output, title=args.data.name)
    else:
        scores(corex, frame[names], beside).to_csv(args.output, index=False)
    print(f"{len(frame)} rows: {args.output.resolve()}")


def check_new(path: Path, overwrite: bool, option: str) -> None:
    """Raises ``ValueError`` where a file cannot be written, or is there and is to be kept."""
    check_writable(path.absolute())
    if path.exists() and not overwrite:
        raise ValueError(f"{option} must be a new file, but {path} is there. Say --overwrite.")


def check_output(folder: Path) -> None:
    """Raises ``ValueError``, before the work, where the results could not be written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--output must be a folder, but {there} is a file: name another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--output must be a folder to write to, but {there} is read-only")


def unused(folder: Path) -> Path:
    """The folder, or one beside it with a number, that holds no earlier result."""
    k, found = 2, folder
    while (found / "summary.txt").exists() or (found.exists() and not found.is_dir()):
        found, k = folder.with_name(f"{folder.name}-{k}"), k + 1
    return found


if __name__ == "__main__":
    sys.exit(main())

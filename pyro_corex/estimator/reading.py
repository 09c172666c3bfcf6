"""Reading files as people have them into data frames, by pandas.

What is done to a file is noted in ``frame.attrs["notes"]``.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.numerals import (
    MISSING,
    NO_ANSWER,
    find_numerals,
    is_number,
    plain,
    read_text,
)
from pyro_corex.estimator.table import ambiguous, remarked, with_infinities
from pyro_corex.estimator.told import as_code

_READERS = {
    ".parquet": "read_parquet", ".feather": "read_feather", ".sav": "read_spss",
    ".zsav": "read_spss", ".dta": "read_stata", ".sas7bdat": "read_sas", ".xpt": "read_sas",
}  # fmt: skip
_OTHERS = {".json": "JSON", ".jsonl": "JSON", ".html": "HTML", ".htm": "HTML", ".xml": "XML",
           ".pkl": "pickle", ".rds": "R", ".rdata": "R", ".rda": "R"}  # fmt: skip
_SHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods")
_NO_FORMAT = (
    "{} is {}, which is not read: only text (CSV), Excel, Parquet, Feather, SPSS, Stata and SAS "
    "are. Read it with pandas, and give the data frame, or save that as CSV."
)
_DELIMITERS = ("\t", ";", "|", ",", " ")
_LOOK = 100  # lines in which the delimiter and the names are sought
_TOTAL = {"total", "totals", "grand total", "sum", "sums", "mean", "means", "average", "averages",
          "gesamt", "summe", "mittelwert", "total général", "moyenne", "media"}  # fmt: skip


def read_table(
    path: str | Path,
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    missing: Iterable[Any] = (),
) -> Any:
    r"""Reads a table for :class:`~pyro_corex.CorEx` from a file: text of any kind, Excel, SPSS, ...

    Text may be compressed.  Delimiter, encoding, decimal mark and thousands are found by trying;
    empty rows, columns without name and entries, titles, footers and lines of units are left out.
    Excel, Parquet, Feather, SPSS, Stata and SAS are read by what pandas needs for them.  What was
    done is in ``attrs["notes"]`` of the result, and whatever may be wrong is warned of.

    :param delimiter: between entries; ``" "`` is any number of blanks.
    :param decimal: "." or ",", where numbers such as 1,234 tell it not.
    :param header: whether the first line has the names.
    :param missing: text and numbers that stand for missing entries, as :class:`~pyro_corex.CorEx`
        takes them for all columns.
    :returns: a pandas data frame: numbers are floats, and text is as it was, without blanks around.
    :raises ValueError: for what is no table, rows that differ in length, and wrong options.
    :raises ImportError: where pandas is missing, or what it needs for the format.
    """
    path = Path(path)
    pandas = _pandas()
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1:
            raise ValueError(
                f"delimiter (--delimiter) must be one character, but got {delimiter!r}"
            )
    if decimal not in (None, ".", ","):
        raise ValueError(f"decimal (--decimal) must be '.' or ',', but got {decimal!r}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise ValueError(_NO_FORMAT.format(path, _OTHERS[suffix]))
    notes: list[str] = []
    try:
        if suffix in _READERS:
            options = {"order_categoricals": False} if suffix == ".dta" else {}
            frame = getattr(pandas, _READERS[suffix])(path, **options)
            frame.attrs["notes"] = notes
            return frame
        if suffix in _SHEETS:
            sheet = pandas.read_excel(path, header=None, dtype=object, keep_default_na=False)
            grid, likely = sheet.map(_cell).to_numpy(dtype=object), "."
        else:
            text, encoding = _decoded(path)
            if re.match(r"\s*(<[!?a-z]|\[?\s*\{)", text, re.IGNORECASE):
                raise ValueError(_NO_FORMAT.format(path, "HTML, XML or JSON"))
            notes += [f"read as {encoding}"] * (encoding not in ("utf-8", "utf-8-sig"))
            grid, delimiter = _grid(text, delimiter, path)
            likely = "," if delimiter in ("\t", ";") else "."
    except ImportError as error:
        raise ImportError(f"{path.name} needs more than pandas to be read: {error}") from None
    except (ValueError, OSError):
        raise
    except Exception as error:  # of the library that reads the format
        raise ValueError(f"{path} is no {suffix} file that can be read: {error}") from error
    codes = {as_code(code) for code in missing}
    return _typed(*_tidy(grid, path, header, notes), likely, decimal, codes, notes)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "Reading a file needs pandas, which is not installed: pip install 'pyro-corex[tables]'"
        ) from None
    return pandas


def _cell(value: Any) -> str | None:
    """A cell of a spreadsheet as text."""
    if value is None or value != value:
        return ""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else str(value)


def _decoded(path: Path) -> tuple[str, str]:
    """The text of a file that may be compressed, and its encoding."""
    from pandas.io.common import get_handle

    with get_handle(path, "rb", compression="infer", is_text=False) as file:
        raw: bytes = file.handle.read()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ["utf-16"]
    elif raw[:1000].count(b"\0") > len(raw[:1000]) // 4:
        encodings = ["utf-16-be" if raw[:1] == b"\0" else "utf-16-le"]
    else:
        encodings = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            raise ValueError(f"{path} is no text: save it as CSV UTF-8")
        return text.replace("\r\n", "\n").replace("\r", "\n"), encoding
    raise ValueError(f"{path} has an unknown encoding: save it as CSV UTF-8")


def _grid(text: str, delimiter: str | None, path: Path) -> tuple[Array, str]:
    """Text as an array of its entries, None where a row ends early, and the delimiter."""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # of Excel
        delimiter, text = delimiter or first.strip()[4], rest
    lines = [line for line in text.split("\n", 2 * _LOOK)[: 2 * _LOOK] if line.strip()][:_LOOK]
    if delimiter is None:
        widths = {sep: [len(row) for row in _rows(lines, sep)] for sep in _DELIMITERS}
        delimiter = max(_DELIMITERS, key=lambda sep: _agreement(widths[sep]))
        delimiter = delimiter if _agreement(widths[delimiter]) else ","
    try:
        rows = _rows(io.StringIO(text, newline=""), delimiter, strict=True)
    except csv.Error as error:
        raise ValueError(f"{path} is no table: {error}. Are all quotes closed?") from None
    width = max(map(len, rows), default=0)
    padded = [row + [None] * (width - len(row)) for row in rows]
    return np.array(padded, dtype=object).reshape(len(rows), width), delimiter


def _rows(lines: Iterable[str], delimiter: str, strict: bool = False) -> list[list[str]]:
    """The entries of lines; a blank delimiter is any number of them."""
    blanks = delimiter == " "
    reader = csv.reader(
        (" ".join(line.split()) for line in lines) if blanks else lines,
        delimiter=delimiter,
        skipinitialspace=not blanks,
        strict=strict,
    )
    return list(reader)


def _agreement(widths: list[int]) -> float:
    """The share of lines with as many entries as most of them have, if these are several."""
    usual = max(set(widths), key=widths.count) if widths else 0
    return widths.count(usual) / len(widths) if usual > 1 else 0.0


# ---------------------------------------------------------------------- what is no row of data


def _tidy(
    grid: Array, path: Path, header: bool | None, notes: list[str]
) -> tuple[Array, list[str]]:
    """The rows of a table of text, and names of its columns; the rest is noted."""
    text = [[None if v is None else plain(v) for v in row] for row in grid]
    grid = np.array(text, dtype=object).reshape(grid.shape)
    filled = _filled(grid)
    rows = np.flatnonzero(filled.any(1))
    if len(rows) < 2:
        raise ValueError(f"{path} has {len(rows)} lines: a line of names and a row are needed")
    count = filled[rows].sum(1)
    usual = int(np.median(count))
    start, end = 0, len(rows)
    while (
        end - start > 3
        and count[start] <= max(1, usual // 2)
        and (usual > 2 or rows[start + 1] > rows[start] + 1)
    ):
        start += 1
    while end - start > 3 and _is_footer(grid[rows[end - 1]], filled[rows[end - 1]], usual):
        end -= 1
    if start:
        notes.append(f"{start} lines above the names are left out")
    if end < len(rows):
        text = next(v for v in grid[rows[end]] if v)
        _say(f"{len(rows) - end} lines at the end are left out, from {text!r} on: "
             "they are no rows. Delete them, or put a row's name there that it has.")  # fmt: skip
    rows = rows[start:end]
    used = filled[rows].any(0)
    length = (grid[rows] != np.array(None)).sum(1)
    named = header is not False and _has_names(grid[rows][:, used], header)
    data = rows[1:] if named else rows
    if not _filled(grid[data][:, length[0] :]).any():  # delimiters at the end of lines
        length = np.minimum(length, length[0])
    body = length[1:] if named else length
    shifted = named and len(set(body)) == 1 and body[0] == length[0] + 1
    wrong = np.flatnonzero(body != length[0])[: 0 if shifted else 1]
    if len(wrong):
        raise ValueError(
            f"Row {data[wrong[0]] + 1} of {path} has {body[wrong[0]]} entries, but there are "
            f"{length[0]} {'names' if named else 'in the first row'}. Is --delimiter right?"
        )
    names = [v or "" for v in grid[rows[0]]] if named else []
    names = ["", *names[:-1]] if shifted else names
    if not named:
        names = [f"x{i}" for i in range(len(grid[0]))]
        if header is None:
            _say(f"The first line of {path.name} looks like data: its columns are called "
                 f"{names[0]!r}, {names[1]!r}, ... If it has the names, say header=True "
                 "(--header yes).")  # fmt: skip
    body = grid[data]
    while len(body) > 3 and _no_data(body):
        units = [v for v in body[0] if v]
        notes.append(f"a second line of names or units is left out: {', '.join(units[:4])}")
        body = body[1:]
    keep = _filled(body).any(0)
    keep |= np.array([bool(name) and named for name in names])
    if keep.sum() == 1:
        _say(f"{path.name} has one column, and nothing that it could depend on. Is --delimiter "
             "right?")  # fmt: skip
    if not keep.all() and named:
        notes.append(f"{int((~keep).sum())} empty columns are left out")
    names = [name or f"column {i + 1}" for i, name in enumerate(names)]
    return body[:, keep], _once([n for n, on in zip(names, keep, strict=True) if on])


def _filled(grid: Array) -> Array:
    """Which entries hold text."""
    return np.array([[bool(v) for v in row] for row in grid], dtype=bool).reshape(grid.shape)


def _is_footer(row: Array, filled: Array, usual: int) -> bool:
    """Whether a last row is a remark or holds totals."""
    words = [v for v, on in zip(row, filled, strict=True) if on]
    alone = len(words) == 1 and usual > 1
    if words[0].casefold().rstrip(":") in _TOTAL and (alone or any(map(is_number, words))):
        return True
    remark = alone and not is_number(words[0]) and bool(filled[0])
    return remark and (" " in words[0] or (usual > 2 and row[-1] is None))


def _has_names(grid: Array, told: bool | None) -> bool:
    """Whether the first row of a frame of text has the names of the columns."""
    first, rest = grid[0], grid[1 : _LOOK + 1]
    numeric = [_share_of_numbers(rest[:, i]) > 0.5 for i in range(len(grid[0]))]
    if told:
        return True
    hits = [v for v, on in zip(first, numeric, strict=True) if on and v and is_number(v)]
    if hits:
        whole = [int(v) for v in hits if v.isdigit()]
        steps = set(np.diff(whole))
        if len(whole) == len(hits) > 2 and len(steps) == 1 and steps != {0}:
            _say(f"The first line, {', '.join(hits[:4])}, ..., is taken for names. If it is data, "
                 "say header=False (--header no).")  # fmt: skip
            return True
        return False
    if any(numeric):
        return True
    return not all(v in set(rest[:, i]) for i, v in enumerate(first))


def _share_of_numbers(column: Array) -> float:
    known = [v for v in column if v and v.casefold() not in MISSING | NO_ANSWER]
    return sum(map(is_number, known)) / len(known) if known else 0.0


def _no_data(body: Array) -> bool:
    """Whether the first row has units, or more names, in place of data."""
    first, rest = body[0], body[1 : _LOOK + 1]
    known = [(i, v) for i, v in enumerate(first) if v]
    if any(v.casefold() in MISSING | NO_ANSWER or is_number(v) for _, v in known):
        return False
    shares = [_share_of_numbers(rest[:, i]) for i, _ in known]
    if max(shares, default=0.0) > 0.8:
        return True
    columns = [rest[:, i] for i, _ in known]
    often = [len(rest) >= 10 and len(set(column)) <= len(rest) / 2 for column in columns]
    return (
        len(known) > 1
        and all(often)
        and not any(v in set(column) for (_, v), column in zip(known, columns, strict=True))
    )


def _once(names: list[str]) -> list[str]:
    """Names of which each is there once."""
    found: list[str] = []
    for name in names:
        own, k = name, 2
        while own in found:
            own, k = f"{name}.{k}", k + 1
        if own != name:
            _say(f"Column {name!r} is there twice: the second is called {own!r}. If it is a copy, "
                 f"leave it out: --drop {own!r}.")  # fmt: skip
        found.append(own)
    return found


def _typed(
    grid: Array,
    names: list[str],
    likely: str,
    decimal: str | None,
    codes: set[str],
    notes: list[str],
) -> Any:
    """A frame of text as one of numbers and words."""
    import pandas

    columns = list(grid.T)
    gone = MISSING | NO_ANSWER | codes
    known = [[v for v in column if v and v.casefold() not in gone] for column in columns]
    numerals, doubtful = find_numerals(known, likely, decimal)
    data = {}
    for i, (name, column) in enumerate(zip(names, columns, strict=True)):
        text = read_text(column, numerals[i], codes)
        if i in doubtful and text.numbers:
            _say(ambiguous(name, doubtful[i], numerals[i]))
        if remarks := with_infinities(text, column):
            _say(remarked(name, remarks))
        if "counted" in text.why:
            notes.append(f"column {name!r}: {text.why}")
        data[name] = text.values
    frame = pandas.DataFrame(data)
    frame.attrs["notes"] = notes
    return frame


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=4)

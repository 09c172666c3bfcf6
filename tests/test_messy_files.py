"""Tables as people have them: each fault alone and in pairs is read right, refused or said.

A file is judged by what is read from it, without a fit: rows and columns have to be those of the
clean table.  What is not has to be named in a sentence.
"""

import gzip
import warnings
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator import read_table

N = 40
RNG = np.random.default_rng(0)
WORDS = np.array(["Strongly disagree", "Disagree", "Neutral", "Agree", "Strongly agree"])
CAUSE = RNG.standard_normal(N)


def _noisy() -> np.ndarray:
    return CAUSE + RNG.standard_normal(N)


CLEAN = pd.DataFrame(
    {
        "stress": np.digitize(_noisy(), [-1.2, -0.4, 0.4, 1.2]) + 1.0,
        "sleep": np.digitize(_noisy(), [-1.2, -0.4, 0.4, 1.2]) + 1.0,
        "height": (170 + 9 * _noisy()).round(1),
        "income": (9000 * np.exp(_noisy() / 2)).round(2),
        "mood": WORDS[np.digitize(_noisy(), [-1.2, -0.4, 0.4, 1.2])],
        "sex": np.where(_noisy() > 0, "f", "m"),
    }
)
KINDS = ("ordinal", "ordinal", "continuous", "continuous", "ordinal", "binary")
SOME = [3, 17, 30]


@dataclass
class Messy:
    """A file in the making: its entries as text, and how they are written."""

    cells: pd.DataFrame
    extra: tuple[str, ...] = ()
    """Columns that are no variables."""
    above: list[str] = field(default_factory=list)
    units: list[str] | None = None
    below: list[str] = field(default_factory=list)
    names: bool = True
    gaps: bool = False
    end: str = "\n"
    delimiter: str = ","
    encoding: str = "utf-8"
    suffix: str = ".csv"

    def with_cells(self, **columns) -> "Messy":
        return replace(self, cells=self.cells.assign(**columns))

    def with_extra(self, name: str, values) -> "Messy":
        return replace(self.with_cells(**{name: values}), extra=(*self.extra, name))

    def entries(self, column: str, what: str, rows=SOME) -> "Messy":
        own = self.cells[column].copy()
        own.iloc[rows] = what
        return self.with_cells(**{column: own})

    def write(self, folder: Path) -> Path:
        rows = self.cells.to_numpy().tolist()
        if self.units:
            rows = [[*self.units, *[""] * (len(rows[0]) - len(self.units))], *rows]
        names = [name.removesuffix("_2") for name in self.cells.columns]
        rows = [names, *rows] if self.names else rows
        if self.gaps:
            empty = [""] * (len(rows[0]) + 2)
            rows = [["", *row, ""] for row in rows]
            rows = [*rows[:4], empty, *rows[4:], empty, empty]
        lines = [self.delimiter.join(map(self.quoted, row)) for row in rows]
        text = self.end.join([*self.above, *lines, *self.below]) + self.end
        path = folder / f"t{self.suffix}"
        raw = text.encode(self.encoding)
        path.write_bytes(gzip.compress(raw) if self.suffix.endswith("gz") else raw)
        return path

    def quoted(self, entry: str) -> str:
        return f'"{entry}"' if self.delimiter in entry else entry


STEP = 4  # of all pairs, one in so many is tried; 1 takes half a minute


@cache
def start() -> Messy:
    income = [f"{v:.2f}" for v in CLEAN.income]
    cells = CLEAN.astype({"stress": int, "sleep": int}).astype(str)
    return Messy(cells.astype(object).assign(income=income))


def commas(m: Messy) -> Messy:
    height = m.cells.height.str.replace(".", ",")
    income = [v.translate(str.maketrans(".,", ",.")) for v in m.cells.income]
    return replace(m.with_cells(height=height, income=income), delimiter=";")


def thousands(m: Messy) -> Messy:
    if m.delimiter == ";":
        return m.with_cells(income=[f"{v:,.2f}".translate(str.maketrans(".,", ",."))
                                    for v in CLEAN.income])  # fmt: skip
    return m.with_cells(income=[f"{v:,.2f}" for v in CLEAN.income])


def two_marks(m: Messy) -> Messy:
    own = m.cells.height.copy()
    mark = "," if "." in own.iloc[0] else "."
    own.iloc[SOME] = [v.replace(".", mark).replace(",", mark) for v in own.iloc[SOME]]
    return m.with_cells(height=own)


DAYS = pd.date_range("2020-02-01", periods=N).strftime("%d.%m.%Y").to_list()
FAULTS = {
    "decimal commas": commas,
    "tabs": lambda m: replace(m, delimiter="\t"),
    "bars": lambda m: replace(m, delimiter="|"),
    "Windows letters": lambda m: replace(
        m.with_cells(sex=m.cells.sex.replace("m", "männlich")), encoding="cp1252"
    ),
    "UTF-16": lambda m: replace(m, encoding="utf-16"),
    "a byte order mark": lambda m: replace(m, encoding="utf-8-sig"),
    "carriage returns": lambda m: replace(m, end="\r"),
    "compressed": lambda m: replace(m, suffix=".csv.gz"),
    "blanks around": lambda m: replace(m, cells=m.cells.map(lambda v: f" {v} ")),
    "empty rows and columns": lambda m: replace(m, gaps=True),
    "a title": lambda m: replace(m, above=["Our survey of 2020", ""]),
    "a footer": lambda m: replace(m, below=["", "Source: our survey"]),
    "totals": lambda m: replace(m, below=[m.delimiter.join(["Total", "120", *[""] * 4])]),
    "an empty total": lambda m: replace(m, below=[m.delimiter.join(["Total", *[""] * 5])]),
    "an empty column": lambda m: m.with_extra("nothing", [""] * N),
    "units": lambda m: replace(m, units=["1-5", "1-5", "cm", "Euro", "", ""]),
    "no names": lambda m: replace(m, names=False),
    "thousands": thousands,
    "two decimal marks": two_marks,
    "a unit in each entry": lambda m: m.with_cells(height=m.cells.height + " cm"),
    "-99": lambda m: m.entries("stress", "-99").entries("sleep", "-99"),
    "9": lambda m: m.entries("sleep", "9"),
    "999": lambda m: m.entries("height", "999"),
    "a dot": lambda m: m.entries("height", "."),
    "no determination": lambda m: m.entries("income", "n.d."),
    "a remark": lambda m: m.entries("height", "see below"),
    "don't know": lambda m: m.entries("mood", "don't know"),
    "refused": lambda m: m.entries("sex", "refused"),
    "two spellings": lambda m: m.entries("sex", "F"),
    "identifiers": lambda m: m.with_extra("person", [f"P{7 * i}" for i in range(N)]),
    "case numbers": lambda m: m.with_extra("id", [str(9 * i % 41 + 500) for i in range(N)]),
    "row numbers": lambda m: m.with_extra("row", [str(i + 1) for i in range(N)]),
    "dates": lambda m: m.with_extra("day", DAYS),
    "e-mails": lambda m: m.with_extra("mail", [f"a{i % 9}@b.org" for i in range(N)]),
    "a name twice": lambda m: m.with_extra("stress_2", m.cells.sleep.to_list()),
    "a copy": lambda m: m.with_extra("inches", [f"{v / 2.54:.3f}" for v in CLEAN.height]),
    "a recoded copy": lambda m: m.with_extra("woman", [str(int(v == "f")) for v in CLEAN.sex]),
    "a sum": lambda m: m.with_extra("load", [f"{v:.0f}" for v in CLEAN.stress + CLEAN.sleep]),
}
SAME_PLACE = [  # pairs that undo each other
    {"decimal commas", "tabs", "bars"}, {"UTF-16", "a byte order mark", "Windows letters"},
    {"999", "a dot", "a remark", "two decimal marks", "a unit in each entry"},
    {"refused", "two spellings", "Windows letters"},
    {"-99", "9"}, {"decimal commas", "a copy"}, {"units", "no names"},
    {"refused", "a recoded copy"}, {"two spellings", "a recoded copy"},
]  # fmt: skip
ORDER = list(FAULTS)


def silently_wrong(path: Path, made: Messy) -> list[str]:
    """What of a file is neither right nor said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frame = read_table(path)
            found = CorEx().describe(frame)
        except ValueError as error:
            return [] if "column" in str(error).lower() else [f"refused: {error}"]
    assert all(w.category is UserWarning for w in caught), [str(w.message) for w in caught]
    said = " ".join([*(str(w.message) for w in caught), *found.notes])
    wrong = [] if len(frame) == N else [f"{len(frame)} rows"]
    names = list(frame.columns)
    if not made.names:
        wrong += [] if "looks like data" in said else ["names"]
    elif names[: len(KINDS)] != list(CLEAN.columns):
        wrong += [f"names {names}"]
    if len(names) != made.cells.shape[1]:
        return [*wrong, f"columns {names}"]
    for i, (name, column) in enumerate(zip(names, found.columns, strict=True)):
        if repr(name) in said or (not made.names and column.kind == "left out"):
            continue
        if i >= len(KINDS):
            wrong.append(f"{name} is taken for a variable")
        elif column.kind != KINDS[i]:
            wrong.append(f"{name} is {column.kind}")
        elif len(frame) == N:
            own, truth = frame.iloc[:, i].to_numpy(object), CLEAN.iloc[:, i].to_numpy(object)
            gaps = pd.isna(own)
            if gaps.sum() > len(SOME) or not _equal(own[~gaps], truth[~gaps]):
                wrong.append(f"{name} has other values")
    return wrong


def _equal(own, truth) -> bool:
    if isinstance(truth[0], str):
        return list(own) == [str(v).replace("männlich", "m") for v in truth] or set(own) == {
            "f", "männlich"}  # fmt: skip
    return np.allclose(own.astype(float), truth.astype(float), rtol=1e-12, atol=0)


def outcome(tmp_path: Path, *faults: str) -> list[str]:
    made = start()
    for fault in sorted(faults, key=ORDER.index):
        made = FAULTS[fault](made)
    return silently_wrong(made.write(tmp_path), made)


def test_a_clean_file_is_read_as_it_is(tmp_path):
    made = start()
    path = made.write(tmp_path)
    assert silently_wrong(path, made) == []
    assert CorEx().describe(read_table(path)).notes == []


@pytest.mark.parametrize("fault", ORDER)
def test_no_fault_alone_or_beside_another_is_silently_wrong(tmp_path, fault):
    found = {(fault,): outcome(tmp_path, fault)}
    for other in ORDER[ORDER.index(fault) + 1 :]:
        tried = (ORDER.index(fault) + ORDER.index(other)) % STEP == 0
        if tried and not any({fault, other} <= same for same in SAME_PLACE):
            found[fault, other] = outcome(tmp_path, fault, other)
    assert {pair: wrong for pair, wrong in found.items() if wrong} == {}


def test_there_are_enough_of_them():
    assert len(ORDER) + len(list(combinations(ORDER, 2))) // STEP > 150


CORRELATIONS = CLEAN.iloc[:, :4].corr()


@pytest.mark.parametrize(("text", "says"), [
    (CORRELATIONS.to_csv(), r"holds correlations of its columns, .*Give the rows"),
    (CORRELATIONS.to_csv(index=False, sep=";", decimal=","), r"holds correlations of its columns"),
    (CLEAN.iloc[:, :4].cov().to_csv(), r"holds covariances of its columns"),
    ("a,b\n1,2\n3\n4,5\n", r"Row 3 of .* has 1 entries, but there are 2 names.*--delimiter"),
    ("a,b\n1,2\n1,2,3\n4,5\n", r"Row 3 of .* has 3 entries, but there are 2 names"),
    ('a,b\n1,"2\n3,4\n5,6\n', r"is no table: .*Are all quotes closed"),
    ("a,b\n1,7\ninf,8\n3,9\n", r"contains infinity, in column 'a'.*--missing=inf"),
])  # fmt: skip
def test_what_is_refused(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=says):
        CorEx().describe(read_table(tmp_path / "t.csv"))

"""Reading files; messy ones are in tests/test_messy_files.py."""

import builtins

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator import read_table

FRAME = pd.DataFrame({"a": [1.5, 2.0, np.nan, 4.0], "b": ["x", "y", "x", None]})


def same(frame):
    pd.testing.assert_frame_equal(frame, FRAME, check_dtype=False)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.bz2", "csv.xz", "csv.zip"])
def test_text_compressed_or_not(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    FRAME.to_csv(path, index=False)
    same(read_table(path))


def test_spreadsheets(tmp_path):
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        FRAME.to_excel(book, index=False, startrow=3, startcol=2)
        book.sheets["Sheet1"]["A1"] = "Our survey"
    found = read_table(tmp_path / "t.xlsx")
    same(found)
    assert "lines above the names" in found.attrs["notes"][0]


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    FRAME.to_parquet(tmp_path / "t.parquet")
    same(read_table(tmp_path / "t.parquet"))


def test_options(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("1,234/b\n-9/x\n5,600/y\n")
    found = read_table(path, delimiter="/", header=False, decimal=",", missing=[-9])
    np.testing.assert_array_equal(found["x0"], [1.234, np.nan, 5.6])
    assert list(read_table(path, delimiter="/", header=True, decimal=".").columns) == ["1,234", "b"]
    with pytest.raises(
        ValueError, match=r"delimiter .--delimiter. must be one character, but got '--'"
    ):
        read_table(path, delimiter="--")
    with pytest.raises(ValueError, match=r"decimal .--decimal. must be '.' or ',', but got ';'"):
        read_table(path, decimal=";")


def test_row_names_of_r_and_blanks(tmp_path):
    (tmp_path / "t.dat").write_text('"a"  "b"\n"r1" 1 x\n"r2" 2  y\n"r3" 3 x\n')
    found = read_table(tmp_path / "t.dat")
    assert found.to_numpy().tolist() == [["r1", 1.0, "x"], ["r2", 2.0, "y"], ["r3", 3.0, "x"]]


def test_without_pandas(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pandas"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"needs pandas, .* pip install 'pyro-corex\[tables\]'"):
        read_table(tmp_path / "t.csv")


def test_what_is_missing_for_a_format(tmp_path):
    (tmp_path / "t.sav").write_bytes(b"")
    with pytest.raises(ImportError, match=r"t.sav needs more than pandas .*pyreadstat"):
        read_table(tmp_path / "t.sav")


def test_what_is_damaged(tmp_path):
    (tmp_path / "t.csv.xz").write_bytes(b"no xz")
    with pytest.raises(ValueError, match=r"t.csv.xz is no .xz file that can be read: Input format"):
        read_table(tmp_path / "t.csv.xz")


def test_what_is_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n" + b"1,\0\n" * 9)
    with pytest.raises(ValueError, match=r"t.csv is no text: save it as CSV UTF-8"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(("name", "text", "what"), [
    ("t.json", '[{"a": 1}]', "JSON"), ("t.html", "<table>", "HTML"), ("t.pkl", "x", "pickle"),
    ("t.csv", '\n[ {"a": 1}]', "HTML, XML or JSON"), ("t.txt", "<!doctype html>", "HTML, XML"),
])  # fmt: skip
def test_what_is_no_format_of_a_table(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"is {what}.* not read: only .*CSV.*Excel.*Stata"):
        read_table(tmp_path / name)


def test_labels_of_stata_are_words(tmp_path):
    own = pd.Categorical(["lo", "hi", "Don't know", "lo"] * 5, ["lo", "hi", "Don't know"])
    frame = pd.DataFrame({"a": own, "b": [1, 2, 9, 3] * 5})
    frame.to_stata(tmp_path / "t.dta", write_index=False, value_labels={"b": {9: "Refused"}})
    found = CorEx().describe(read_table(tmp_path / "t.dta"))
    assert [c.kind for c in found.columns] == ["categorical", "ordinal"]
    assert (found.columns[1].shown, found.columns[1].missing) == ("1, 2, 3", 5)
    assert "'a' holds \"Don't know\", which counts as an answer" in found.notes[0]


@pytest.mark.parametrize("more", [",", ",,,"])
def test_delimiters_at_the_end_of_lines(tmp_path, more):
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{v},x{more}\n" for v in (1.5, 2, 4)))
    found = read_table(tmp_path / "t.csv")
    assert found.to_dict("list") == {"a": [1.5, 2, 4], "b": ["x"] * 3}


def test_one_row(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1,5;x\n")
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"a": [1.5], "b": ["x"]}

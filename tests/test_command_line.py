"""The command line."""

import csv
import re
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot

import pyro_corex
from pyro_corex.__main__ import main, unused
from tests.estimator.tables import (
    factor_table,
)

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def write(path, header, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_fit_from_the_command_line(tmp_path, capsys):
    x, _ = factor_table(200, 2, 3, 0.5, seed=0)
    rows = [[i, *row, "yes" if row[0] > 0 else "no"] for i, row in enumerate(x.round(3))]
    rows[0][1], rows[1][7] = "NA", ""
    write(tmp_path / "t.csv", ["id", *"abcdef", "word"], rows)
    out = tmp_path / "out"
    command = [
        "fit",
        str(tmp_path / "t.csv"),
        "--n-hidden",
        "2",
        "--drop",
        "id",
        "--report",
        "--bootstrap",
        "9",
    ]
    assert main([*command, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "summary.txt").read_text(encoding="utf-8").strip() in printed
    assert (out / "description.txt").read_text(encoding="utf-8").startswith("200 rows, 7 columns")
    columns = read(out / "columns.csv")
    latents = ["latent_0", "latent_1"]
    errors = [f"{name}_stderr" for name in latents]
    assert columns[0] == ["column", "kind", "latent", *latents, *errors]
    assert [row[0] for row in columns[1:]] == [*"abcdef", "word"]
    assert columns[7][1] in ("binary", "categorical")
    groups = [row[2] for row in columns[1:]]
    assert groups[0] == groups[1] == groups[2] == groups[6]
    assert groups[3] == groups[4] == groups[5] != groups[0]
    scores = read(out / "latents.csv")
    assert scores[0] == ["id", *latents]  # what was dropped tells which row it is
    assert [row[0] for row in scores[1:]] == [str(i) for i in range(200)]
    assert len(read(out / "totals.csv")) == 3
    loadings = read(out / "loadings.csv")
    assert loadings[0] == ["column", *latents, "communality", *errors, "communality_stderr"]
    own = {row[0]: int(row[2]) for row in columns[1:]}
    for name, *found in loadings[1:]:
        values = [float(value) for value in found]
        assert max(values[:2]) == values[own[name]] > 0.5
        assert 0 < min(values[3:]) < max(values[3:]) < 0.2
    assert [row[0] for row in read(out / "correlations.csv")] == ["latent", "0", "1"]
    for name in ("information", "hierarchy", "latent_0", "latent_1"):
        assert (out / f"{name}.png").stat().st_size > 1000
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h1>t.csv</h1>" in page
    assert "What was found" in page


def test_layers_states_and_weights_from_the_command_line(tmp_path):
    x, _ = factor_table(100, 2, 3, 0.5, seed=0)
    write(tmp_path / "t.csv", "abcdefw", [[*row, 0.1 + i % 2] for i, row in enumerate(x.round(3))])
    for options, latents in (
        (["--n-hidden", "2", "--weight", "w"], 2),
        (["--n-hidden", "2,1"], 2),
        (["--n-hidden", "2", "--latent", "categorical", "--n-states", "3"], 2),
    ):
        out, drop = tmp_path / options[-1], [] if "w" in options else ["--drop", "w"]
        assert main(["fit", str(tmp_path / "t.csv"), *options, *drop, "--output", str(out)]) == 0
        assert len(read(out / "latents.csv")[0]) == latents + 1  # and the weights
        assert [row[0] for row in read(out / "columns.csv")[1:]] == list("abcdef")
    classes = read(out / "classes.csv")  # of the last
    assert classes[0] == ["latent", "class", "size", "column", "level", "value"]
    assert len(classes) == 1 + 6 * 3 * 2
    assert {row[4] for row in classes[1:]} == {"mean", "standard deviation"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n", [], "has 1 lines: a line of names and a row are needed"),
        ("a,b\n1,2\n", [], "1 sample.* while a minimum of 2 is required"),
        ("a,b\n1,2\n3\n4,5\n", [], "Row 3 of .* has 1 entries, but there are 2 names"),
        ("a,b\n1,2\n3,4\n", ["--weight", "c"], r"--weight names 'c', but the columns are"),
        ("a,b\n1,2\n2,1\n", ["--weight", "b", "--n-rows", "9"], "--weight must be left out"),
        ("a,b\n1,2\n3,4\n", ["--drop", "c"], r"--drop names \['c'\], but the columns are"),
        ("a,b\n1,2\n1,2\n", [], "All 2 columns are constant"),
        ("a,b\n1,2\n3,4\n", ["--n-hidden", "two"], "--n-hidden must be a number"),
        ("a,b\n1,2\n3,4\n", ["--output", __file__], "--output must be a folder, but .* is a file"),
        ("a,b\n1,2\n3,4\n", ["--output", f"{__file__}/in"], "--output must be a folder"),
        ("a,b\n1,2\n3,4\n", ["--report", "--n-rows", "9"], "--report must be left out where"),
        ("a,b\n1,2\n2,1\n", ["--bootstrap", "9", "--n-rows", "9"], "--bootstrap must be left"),
        ("a,b\n1,2\n3,4\n", ["--bootstrap", "1"], "--bootstrap must be an integer >= 2, but got 1"),
        (None, [], "there is no file"),
    ],
)
def test_what_the_command_line_refuses(tmp_path, capsys, text, options, message):
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    assert main(["fit", str(tmp_path / "t.csv"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")

    assert re.search(message, error)


def test_a_model_is_kept_and_scores_new_rows(tmp_path, capsys):
    x, _ = factor_table(60, 2, 3, 0.5, seed=0)
    rows = x.round(3).tolist()
    rows[0][2] = -99
    write(tmp_path / "t.csv", [*"abcdef", "id"], [[*row, f"P{i}"] for i, row in enumerate(rows)])
    write(tmp_path / "new.csv", "fedcba", [row[::-1] for row in rows[:5]])
    command = ["fit", str(tmp_path / "t.csv"), "--n-hidden", "2", "--missing", "-99,-98"]
    kept = ["--output", str(tmp_path / "out"), "--save", str(tmp_path / "m")]
    assert main([*command, *kept]) == 0
    told = capsys.readouterr()
    assert "c       continuous  1 (2%)" in told.out
    assert told.err.count("'id' is left out") == 1
    new = [str(tmp_path / "new.csv"), "--model", str(tmp_path / "m"), "--output"]
    assert main(["transform", *new, str(tmp_path / "z.csv")]) == 0
    scores = read(tmp_path / "out" / "latents.csv")
    assert [row[:1] for row in scores[:3]] == [["id"], ["P0"], ["P1"]]
    assert read(tmp_path / "z.csv") == [row[1:] for row in scores[:6]]
    assert main(["impute", *new, str(tmp_path / "filled.csv")]) == 0
    filled = read(tmp_path / "filled.csv")
    assert [row[0] for row in filled[1:]] == [str(row[0]) for row in rows[:5]]
    assert -4 < float(filled[1][2]) < 4
    assert main(["report", *new, str(tmp_path / "page.html")]) == 0
    assert "<h1>new.csv</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["impute", *new, str(tmp_path / "filled.csv")]) == 2
    assert "--output must be a new file" in capsys.readouterr().err
    write(tmp_path / "new.csv", "fedcba", [rows[3][::-1]])  # one person
    assert main(["transform", *new, str(tmp_path / "z.csv"), "--overwrite"]) == 0
    (own,) = read(tmp_path / "z.csv")[1:]
    assert [float(v) for v in own] == pytest.approx([float(v) for v in scores[4][1:]])
    assert main(["impute", *new, str(tmp_path / "filled.csv"), "--overwrite"]) == 0
    assert [float(v) for v in read(tmp_path / "filled.csv")[1][:6]] == rows[3]
    write(tmp_path / "new.csv", "abc", [[1, 2, 3]] * 4)
    assert main(["transform", *new, str(tmp_path / "y.csv")]) == 2
    assert "it lacks ['d', 'e', 'f']" in capsys.readouterr().err


def test_an_earlier_result_is_kept(tmp_path, capsys):
    assert unused(tmp_path / "a") == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.txt").touch()
    assert unused(tmp_path / "a") == tmp_path / "a-3"


def test_what_is_told_of_columns(tmp_path, capsys):
    text = "size;w\n" + "".join(
        f"{s};{w}\n" for s, w in zip("ABCAB9" * 3, "xyzzyx" * 3, strict=True)
    )
    (tmp_path / "t.csv").write_text(text)
    command = ["describe", str(tmp_path / "t.csv"), "--levels", "B,A,C", "--missing", "size=9"]
    assert main([*command, "--kinds", "w=categorical"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [
        "size",
        "ordinal",
        "3",
        "(17%)",
        "B,",
        "A,",
        "C",
        "words,",
        "whose",
        "order",
        "was",
        "told",
    ]
    assert lines[3].split() == ["w", "categorical", "0", "x,", "y,", "z", "as", "you", "said"]


@pytest.mark.parametrize(("options", "says"), [
    (["--kinds", "counts"], "--kinds must be column=kind, but got 'counts'"),
    (["--kinds", "z=counts"], "kinds names column 'z', but the table has 'a', 'b'"),
    (["--missing", "a="], "--missing must be values or column=values, but got 'a='"),
    (["--header", "no"], "column"),
])  # fmt: skip
def test_what_is_told_wrong(tmp_path, capsys, options, says):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n5,7\n")
    assert main(["describe", str(tmp_path / "t.csv"), *options]) == (2 if options[1] != "no" else 0)
    told = capsys.readouterr()
    assert says in told.err + told.out


def test_a_table_that_is_no_utf8(tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes("größe;b\n1,5;2\n3;4\n2;9\n".encode("latin-1"))
    assert main(["describe", str(tmp_path / "t.csv")]) == 0
    told = capsys.readouterr()
    assert "größe   continuous  0        1.5 to 3" in told.out
    assert "t.csv: read as cp1252" in told.out
    assert told.err == ""


def test_a_full_disk_is_told_in_a_sentence(tmp_path, capsys, monkeypatch):
    x, _ = factor_table(60, 1, 3, 0.5, seed=0)
    write(tmp_path / "t.csv", "abc", x.round(3))

    def full(*_, **__):
        raise OSError(28, "No space left on device", "latents.csv")

    monkeypatch.setattr("pandas.DataFrame.to_csv", full)
    out = ["--output", str(tmp_path / "out")]
    assert main(["fit", str(tmp_path / "t.csv"), "--n-hidden", "1", *out]) == 2
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"pyro_corex {pyro_corex.__version__}\n"
    cited = Path(__file__).parents[1].joinpath("CITATION.cff").read_text()
    assert f"\nversion: {pyro_corex.__version__}\n" in cited

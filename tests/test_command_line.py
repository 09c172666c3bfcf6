"""The command line."""

import csv
import re

import matplotlib as mpl
import pytest
from matplotlib import pyplot

from pyro_corex.__main__ import main
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
    command = ["fit", str(tmp_path / "t.csv"), "--n-hidden", "2", "--drop", "id"]
    assert main([*command, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "summary.txt").read_text(encoding="utf-8").strip() in printed
    columns = read(out / "columns.csv")
    assert columns[0] == ["column", "kind", "latent", "latent_0", "latent_1"]
    assert [row[0] for row in columns[1:]] == [*"abcdef", "word"]
    assert columns[7][1] in ("binary", "categorical")
    groups = [row[2] for row in columns[1:]]
    assert groups[0] == groups[1] == groups[2] == groups[6]
    assert groups[3] == groups[4] == groups[5] != groups[0]
    assert len(read(out / "latents.csv")) == 201
    assert len(read(out / "totals.csv")) == 3
    for name in ("information", "hierarchy", "latent_0", "latent_1"):
        assert (out / f"{name}.png").stat().st_size > 1000


def test_layers_and_states_from_the_command_line(tmp_path):
    x, _ = factor_table(100, 2, 3, 0.5, seed=0)
    write(tmp_path / "t.csv", "abcdef", x.round(3))
    for options, latents in (
        (["--n-hidden", "2,1"], 2),
        (["--n-hidden", "2", "--latent", "categorical", "--n-states", "3"], 2),
    ):
        out = tmp_path / options[-1]
        assert main(["fit", str(tmp_path / "t.csv"), *options, "--output", str(out)]) == 0
        assert len(read(out / "latents.csv")[0]) == latents


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", [], "has 2 lines: a line of names and two rows are needed"),
        ("a,b\n1,2\n3\n4,5\n", [], "Row 3 of .* has 1 entries, but there are 2 names"),
        ("a,b\n1,2\n3,4\n", ["--drop", "c"], r"--drop names \['c'\], but the columns are"),
        ("a,b\n1,2\n1,2\n", [], "All 2 columns are constant"),
        ("a,b\n1,2\n3,4\n", ["--n-hidden", "two"], "--n-hidden must be a number"),
        ("a,b\n1,2\n3,4\n", ["--output", __file__], "--output must be a folder, but .* is a file"),
        ("a,b\n1,2\n3,4\n", ["--output", f"{__file__}/in"], "--output must be a folder"),
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

    monkeypatch.setattr("pyro_corex.__main__.table", full)
    out = ["--output", str(tmp_path / "out")]
    assert main(["fit", str(tmp_path / "t.csv"), "--n-hidden", "1", *out]) == 2
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err

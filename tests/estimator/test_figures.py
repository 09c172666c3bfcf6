"""Figures, the summary and the command line."""

import csv

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from pyro_corex import CorEx
from pyro_corex.__main__ import main
from pyro_corex.estimator import hierarchy, information_map, latent_against_column
from tests.estimator.tables import factor_table, survey

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def fitted():
    x, _ = factor_table(500, 2, 3, 0.5, seed=0)
    frame = pd.DataFrame(x[:, [0, 3, 1, 4, 2, 5]], columns=list("aAbBcC"))
    return CorEx((2, 1), random_state=0).fit(frame), frame


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_the_map_puts_columns_of_a_latent_side_by_side(fitted):
    corex, _ = fitted
    ax = information_map(corex)
    names = ticks(ax.xaxis)
    assert sorted(names) == sorted("aAbBcC")
    assert len({name.isupper() for name in names[:3]}) == 1
    shown = ax.images[0].get_array()
    assert shown.shape == (2, 6)
    order = [list("aAbBcC").index(name) for name in names]
    np.testing.assert_array_equal(shown, corex.mis_[:, order])


def test_the_tree_hangs_each_column_on_its_latent(fitted):
    corex, _ = fitted
    ax = hierarchy(corex)
    assert len(ax.lines) == 6 + 2  # columns to latents, latents to the top
    assert ticks(ax.yaxis) == ["layer 1", "layer 2"]
    names = ticks(ax.xaxis)
    for line in ax.lines[:6]:
        assert line.get_ydata().tolist() == [0, 1]
    ends = {}
    for line in ax.lines[:6]:
        start, end = line.get_xdata()
        ends.setdefault(end, set()).add(names[int(start)].isupper())
    assert [len(kinds) for kinds in ends.values()] == [1, 1]


def test_a_latent_against_its_best_column(fitted):
    corex, frame = fitted
    ax = latent_against_column(corex, frame, 0)
    best = int(corex.mis_[0].argmax())
    assert ax.get_xlabel() == "aAbBcC"[best]
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], frame.iloc[:, best])
    np.testing.assert_allclose(points[:, 1], corex.transform(frame)[:, 0])


def test_boxes_for_levels_and_axes_that_are_given():
    answers, _ = survey(300, 1, 6, seed=0)
    answers[0, 0] = np.nan
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0).fit(answers)
    _, ax = pyplot.subplots()
    assert latent_against_column(corex, answers, 0, 0, ax=ax) is ax
    assert ticks(ax.xaxis) == ["1", "2", "3", "4", "5"]
    for draw in (information_map, hierarchy):
        _, own = pyplot.subplots()
        assert draw(corex, ax=own) is own


def test_many_columns_are_not_named():
    x, _ = factor_table(200, 2, 45, 0.5, seed=0)
    ax = information_map(CorEx(2, random_state=0).fit(x))
    assert ticks(ax.xaxis) == []
    assert ax.get_xlabel() == "columns, by latent"


def test_the_summary_names_what_matters(fitted):
    corex, _ = fitted
    text = corex.summary(n_columns=2)
    assert "500 rows and 6 columns (6 continuous)" in text
    assert f"{corex.tc_:.2f}" in text
    assert "By layer" in text
    assert "and 1 more" in text
    first = next(line for line in text.splitlines() if line.startswith("  0:"))
    best = "aAbBcC"[int(np.where(corex.clusters_ == 0, corex.mis_[0], -1).argmax())]
    assert f"nats. {best} (" in first


def test_the_summary_tells_of_a_style():
    answers, _ = survey(1000, 2, 8, seed=0)
    corex = CorEx(2, random_state=0, max_iter=20, tol=10.0).fit(answers)
    assert f"A style of answering (agreeing with everything): {corex.style_tc_:.2f}" in (
        corex.summary()
    )


# ---------------------------------------------------------------------- the command line


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
        (None, [], "there is no file"),
    ],
)
def test_what_the_command_line_refuses(tmp_path, capsys, text, options, message):
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    assert main(["fit", str(tmp_path / "t.csv"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    import re

    assert re.search(message, error)

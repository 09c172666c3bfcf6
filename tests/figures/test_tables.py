"""Figures of a fitted estimator."""

import copy

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from pyro_corex import CorEx
from pyro_corex.estimator import hierarchy, information_map, latent_against_column
from tests.estimator.tables import (
    factor_table,
    survey,
)

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


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


def test_names_with_dollar_signs_are_drawn_as_they_are(fitted):
    """Two of them would be a formula to matplotlib, and an error where it cannot be read."""
    corex = copy.deepcopy(fitted[0])
    corex.columns_[0].name = r"cost_$ in US$ 5^"
    for ax in (information_map(corex), hierarchy(corex)):
        drawn = [label for label in ax.get_xticklabels() if "cost" in label.get_text()]
        ax.figure.canvas.draw()
        assert [label.get_text() for label in drawn] == [r"cost_\$ in US\$ 5^"]

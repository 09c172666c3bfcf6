"""Figures of a fitted estimator."""

import copy
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas
import pytest
from matplotlib import pyplot

from pyro_corex import CorEx
from pyro_corex.estimator.columns import Column
from pyro_corex.figures import (
    class_profiles,
    hierarchy,
    information_map,
    latent_against_column,
    loadings,
    scree,
)
from tests.estimator.tables import survey

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
    names = ticks(ax.yaxis)
    assert sorted(names) == sorted("aAbBcC")
    assert len({name.isupper() for name in names[:3]}) == 1
    order = [list("aAbBcC").index(name) for name in names]
    np.testing.assert_array_equal(ax.images[0].get_array(), corex.mis_.T[order])
    assert (np.diff(corex.mis_.max(0)[order[:3]]) <= 0).all()


def test_the_tree_hangs_each_column_on_its_latent():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal((400, 2)) + rng.standard_normal((400, 1))  # both share a part
    x = cause.repeat(3, 1)[:, [0, 3, 1, 4, 2, 5]] + 0.7 * rng.standard_normal((400, 6))
    corex = CorEx((2, 1), random_state=0).fit(pandas.DataFrame(x, columns=list("aAbBcC")))
    ax = hierarchy(corex)
    assert len(ax.lines) == 6 + 2  # columns to latents, latents to the top
    assert ticks(ax.xaxis) == ["layer 1", "layer 2"]
    names = ticks(ax.yaxis)
    for line in ax.lines[:6]:
        assert line.get_xdata().tolist() == [0, 1]
    ends = {}
    for line in ax.lines[:6]:
        start, end = line.get_ydata()
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


@pytest.fixture(scope="module")
def wide():
    """300 columns in three groups, of which one has only two."""
    corex = CorEx(3)
    cluster = np.repeat([0, 1, 2, -1], [150, 100, 2, 48])
    corex.mis_ = np.where(cluster == np.arange(3)[:, None], np.linspace(0.1, 1, 300), 0.01)
    corex.mis_[:, 299] = np.nan
    corex.clusters_, corex.upper_, corex.n_hidden_ = cluster, None, 3
    corex.columns_ = [SimpleNamespace(name=f"a long name that goes on, {i}") for i in range(300)]
    return corex


def test_a_tree_of_many_columns_names_those_of_which_most_is_told(wide):
    ax = hierarchy(wide)
    names = ticks(ax.yaxis)
    assert names[0] == "a long name that goes on, 149"
    assert [name for name in names if name.startswith("and ")] == [
        "and 131 more", "and 81 more", "and 29 more",
    ]  # fmt: skip
    assert len(ax.lines) == 150 + 100 + 2  # those of no latent hang on none
    assert len(ticks(hierarchy(wide, n_columns=1).yaxis)) == 2 + 2 + 2 + 2
    width, height = ax.figure.get_size_inches()
    assert 3 < height / 0.21 / len(names) * 3 < 4
    assert width < 9


def test_a_map_of_many_columns_names_groups(wide):
    assert ticks(information_map(wide).yaxis) == [
        "a long name that goes on, 149 and 149 more",
        "a long name that goes on, 249 and 99 more",
        "a long name that goes on, 252 and 47 more",
    ]


def test_loadings_are_printed_and_what_is_unknown_is_left_out(fitted):
    corex = copy.copy(fitted[0])
    corex.loadings_ = np.array([[0.9, -0.2], [0.1, 0.7], [0.8, 0], [np.nan, 0.6], [-1, 0], [0, 0]])
    ax = loadings(corex)
    at = {name: i for i, name in enumerate(ticks(ax.yaxis))}
    shown = {text.get_position(): text.get_text() for text in ax.texts}
    assert len(shown) == 11
    assert shown[0, at["a"]] == ".90"
    assert shown[1, at["a"]] == "-.20"
    assert shown[0, at["c"]] == "-1.00"
    with pytest.raises(ValueError, match="corex must have gaussian latents for loadings"):
        loadings(corex.set_params(latent="categorical"))


def test_names_with_dollar_signs_are_drawn_as_they_are(fitted):
    """Two of them would be a formula to matplotlib, and an error where it cannot be read."""
    corex = copy.deepcopy(fitted[0])
    corex.columns_[0].name = r"cost_$ in US$ 5^"
    for ax in (information_map(corex), hierarchy(corex)):
        drawn = [label for label in ax.get_yticklabels() if "cost" in label.get_text()]
        ax.figure.canvas.draw()
        assert [label.get_text() for label in drawn] == [r"cost_\$ in US\$ 5^"]


def test_a_scree_has_the_eigenvalues_and_those_of_noise(fitted):
    corex = copy.copy(fitted[0])
    found, noise = np.array([3.0, 1.4, 0.5, 0.1]), np.array([1.5, 1.2, 1.0, 0.8])
    corex.scree_ = SimpleNamespace(eigenvalues=found, reference=noise)
    ax = scree(corex)
    for line, values in zip(ax.lines[:2], (found, noise), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([[1, 2, 3, 4], values], 1))
    assert ax.lines[2].get_xdata()[0] == 2.5  # between the second, which is a latent, and the third


def test_profiles_are_as_long_as_levels_are_probable():
    corex = CorEx(1, latent="categorical")
    corex.mis_, corex.n_hidden_ = np.array([[0.1, 0.5, 0.3]]), 1
    corex.columns_ = [
        Column("age", "continuous", low=20.0, high=60.0),
        Column("rank $", "ordinal", values=np.array([1.0, 2.0, 3.0])),
        Column("colour", "categorical", values=np.arange(2.0), labels=["red", "blue"]),
    ]
    corex.class_sizes_ = [np.array([0.75, 0.25])]
    corex.class_profiles_ = [{
        "age": np.array([[30.0, 4.0], [58.0, 8.0]]),
        "rank $": np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]),
        "colour": np.array([[0.9, 0.1], [0.5, 0.5]]),
    }]  # fmt: skip
    ax = class_profiles(corex)
    assert ticks(ax.yaxis) == [r"rank \$", "colour", "age"]
    assert ticks(ax.xaxis) == ["class 0\n75%", "class 1\n25%"]
    bars = [bar.get_width() for bar in ax.patches]
    assert bars == pytest.approx([0.2, 0.3, 0.5, 1, 0, 0, 0.9, 0.1, 0.5, 0.5])
    starts = [bar.get_x() for bar in ax.patches]
    assert starts[:4] == pytest.approx([0, 0.2, 0.5, 1.08])
    _, spread, mean, _, clipped, _ = (line.get_xdata() for line in ax.lines)
    np.testing.assert_allclose(mean, [0.25])
    np.testing.assert_allclose(spread, [0.15, 0.35])
    np.testing.assert_allclose(clipped, [1.08 + 0.75, 2.08])
    assert [text.get_text() for text in ax.texts] == [*list("1231"), "red", "red", "blue"]
    assert ticks(class_profiles(corex, n_columns=1).yaxis) == [r"rank \$"]

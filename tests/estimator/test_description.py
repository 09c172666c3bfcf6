"""How columns are described."""

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.description import describe_again

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": [*RNG.integers(18, 80, 38).tolist(), 99, 99],
        "size": ["S", "M", "L", "refused"] * 10,
        "mood": ["blue", "red", "tan", None, "red"] * 8,
        "who": [f"P{i}" for i in range(40)],
    }
)


def test_a_table_of_columns_is_printed():
    found = CorEx(missing=["refused"]).describe(FRAME)
    assert str(found).splitlines()[:6] == [
        "40 rows, 4 columns",
        "column  kind         missing   values          why",
        "age     continuous   0         18 to 99        numbers",
        "size    ordinal      10 (25%)  S, M, L         words of a known order",
        "mood    categorical  8 (20%)   blue, red, tan  "
        "words; if they have an order, say levels=[...]",
        "who     left out     0                         "
        "40 different words in 40 rows, as names, identifiers or comments are",
    ]
    assert [note[:35] for note in found.notes] == [
        "Column 'who' is left out: it holds ", "Column 'age' holds 99 in 2 of 40 row"[:35],
    ]  # fmt: skip


def test_what_is_told_is_kept():
    kinds = {"age": "counts", "who": "categorical"}
    found = CorEx(kinds=kinds, levels={"mood": ["blue", "red", "tan"]}).describe(FRAME)
    assert [c.kind for c in found.columns] == ["counts", "ordinal", "ordinal", "categorical"]
    assert [c.why for c in found.columns[::3]] == ["as you said"] * 2


def test_describing_fits_nothing_and_fit_says_the_same():
    frame = FRAME.assign(age=FRAME.age % 5, **{"size": RNG.normal(size=40)})
    corex = CorEx(1, max_iter=5, tol=10.0)
    found = corex.describe(frame)
    assert not hasattr(corex, "columns_")
    with pytest.warns(UserWarning, match=r"'who' is left out"):
        corex.fit(frame)
    assert [c.kind for c in corex.columns_] == [c.kind for c in found.columns]
    assert corex.clusters_[3] == -1
    z = corex.transform(frame)
    np.testing.assert_array_equal(z, corex.transform(frame.assign(who="nobody")))
    filled = corex.impute(frame.set_axis(frame.index + 7))
    assert (filled.index[0], filled["who"].tolist()) == (7, frame["who"].tolist())
    assert not filled["mood"].isna().any()


def test_polars_frames_are_read_as_those_of_pandas():
    polars = pytest.importorskip("polars")
    held = FRAME[["age", "mood"]].astype(object)
    frame = polars.DataFrame(held.where(held.notna(), None).to_dict("list"))
    assert str(CorEx().describe(frame)) == str(CorEx().describe(FRAME[["age", "mood"]]))
    frame = frame.with_columns(
        frame["age"].cast(float) % 7, who=polars.Series(FRAME["who"].to_list())
    )
    with pytest.warns(UserWarning, match=r"'who' is left out"):
        filled = CorEx(1, max_iter=5, tol=10.0).fit(frame).impute(frame)
    assert isinstance(filled, polars.DataFrame)
    assert filled["who"].to_list() == FRAME["who"].to_list()
    assert filled["mood"].null_count() == 0


def test_a_fold_keeps_the_normal_scores_of_all_rows_and_standardises_them():
    x = np.exp(2 * RNG.standard_normal((200, 1)))
    corex = CorEx(1, cv=None, random_state=0).fit(np.column_stack([x, RNG.standard_normal(200)]))
    (skewed, normal) = corex.columns_
    rows = np.column_stack([x[:90, 0], RNG.normal(5, 3, 90)])
    again = describe_again([skewed, normal], rows)
    own = skewed.encode(rows[:, 0])
    np.testing.assert_allclose(again[0].encode(rows[:, 0]), (own - own.mean()) / own.std())
    assert again[1].loc == pytest.approx(rows[:, 1].mean())
    assert again[1].scale == pytest.approx(rows[:, 1].std())


def test_values_that_are_not_among_the_rows_looked_at_are_of_the_column(monkeypatch):
    monkeypatch.setattr("pyro_corex.estimator.description._LOOK", 200)
    x = np.random.default_rng(0).standard_normal((5000, 3))
    x[:, 2] = 0.0
    x[::200, 2] = np.linspace(0.1, 0.9, 25)  # one of them in 200 rows
    assert [c.kind for c in CorEx(1).describe(x).columns] == ["continuous"] * 3


def test_an_empty_last_row_of_rare_numbers_is_no_row_of_means():
    x = np.zeros((2000, 4))
    x[:8] = np.random.default_rng(0).random((8, 4))  # means of about 0.002
    assert not any("last row" in note for note in CorEx(1).describe(x).notes)
    x[-1] = x[:-1].mean(0)
    assert any("holds the means of the rows" in note for note in CorEx(1).describe(x).notes)

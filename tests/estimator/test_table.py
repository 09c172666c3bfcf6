"""Reading tables, and what their columns are found to be."""

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from tests.estimator.tables import (
    erased_copies,
    factor_table,
)

X, _ = factor_table(100, 2, 3, 0.5, seed=0)

D, _ = erased_copies(100, 2, 3, 3, 0.2, seed=0)

FRAME = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "word": ["yes", "no"] * 50})


def with_value(value):
    x = X.copy()
    x[3, 2] = value
    return x


TABLES = [
    (with_value(np.inf), r"contains infinity"),
    (X[:1], r"minimum of 2 is required"),
    (X[:, 0], r"must be a table of shape .* but got the shape .100,"),
    (np.ones((10, 3)), r"All 3 columns are constant"),
    (np.column_stack([X, np.full(100, np.nan)]), r"'x6' has no observed value: all of its 100"),
    (FRAME.iloc[:1], r"Found array with 1 sample"),
    (FRAME.assign(a=np.inf), r"contains infinity"),
]


@pytest.mark.parametrize(("table", "message"), TABLES)
def test_tables_that_do_not_fit(table, message):
    with pytest.raises(ValueError, match=message):
        CorEx(2).fit(table)


def test_too_many_words_are_no_category():
    frame = pd.DataFrame({"town": [f"person {i % 120}" for i in range(150)], "a": np.arange(150.0)})
    with pytest.raises(ValueError, match=r"'town' has 120 distinct values.*Drop it"):
        CorEx(1).describe(frame)


def test_a_frame_of_mixed_columns_is_read_by_kind():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(400)

    def noisy(scale=0.6):
        return z + scale * rng.standard_normal(400)

    frame = pd.DataFrame(
        {
            "flag": noisy() > 0,
            "level": np.digitize(noisy(), [-1, 0, 1]),
            "word": np.array(["low", "mid", "high"])[np.digitize(noisy(), [-0.5, 0.5])],
            "grade": pd.Categorical.from_codes(
                np.digitize(noisy(), [-0.5, 0.5]), ["C", "B", "A"], ordered=True
            ),
            "visits": rng.poisson(np.exp(2.5 + 0.7 * noisy(0.1))),
            "size": noisy(),
            "income": np.exp(2 * noisy()),
            "same": 1.0,
        }
    )
    frame["flag"] = frame["flag"].astype(float)
    frame.loc[::10, "word"] = None
    frame.loc[::7, "size"] = np.nan
    corex = CorEx(1, random_state=0, max_iter=100, cv=None).fit(frame)
    kinds = {column.name: column.kind for column in corex.columns_}
    assert kinds == {
        "flag": "binary", "level": "ordinal", "word": "ordinal", "grade": "ordinal",
        "visits": "counts", "size": "continuous", "income": "continuous", "same": "constant",
    }  # fmt: skip
    assert corex.columns_[6].knots is not None  # heavy tails are taken by ranks
    assert corex.columns_[5].knots is None
    assert corex.clusters_.tolist() == [0] * 7 + [-1]
    assert abs(np.corrcoef(corex.transform(frame)[:, 0], z)[0, 1]) > 0.85
    assert np.all(corex.mis_[0, :7] > 0.1)
    assert corex.mis_[0, 7] == 0
    filled = corex.impute(frame)
    assert isinstance(filled, pd.DataFrame)
    assert not filled.isna().any().any()
    assert set(filled["word"]) == {"low", "mid", "high"}
    rows = corex.sample(50, random_state=0)
    assert set(rows["word"]) <= {"low", "mid", "high"}
    assert set(rows["grade"]) <= {"A", "B", "C"}
    assert (rows["same"] == 1).all()
    assert (rows["visits"] == rows["visits"].round()).all()


def test_kinds_can_be_told():
    answers, _ = erased_copies(200, 2, 3, 3, 0.2, seed=0)
    assert {c.kind for c in CorEx(1, max_iter=5).fit(answers).columns_} == {"ordinal"}
    told = CorEx(1, kinds={0: "categorical", -1: "counts"}, max_iter=5).fit(answers)
    assert [c.kind for c in told.columns_] == ["categorical", *["ordinal"] * 4, "counts"]
    assert {c.kind for c in CorEx(1, kinds="continuous").fit(answers).columns_} == {"continuous"}


def test_words_where_numbers_were_and_the_other_way_round():
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0).fit(FRAME)
    with pytest.raises(ValueError, match=r"'word' held words in fit, but .* holds only numbers"):
        corex.transform(FRAME.assign(word=1.0))
    with pytest.raises(ValueError, match=r"'a' held numbers in fit, but here it holds words"):
        corex.transform(FRAME.assign(a="many"))
    with pytest.warns(UserWarning, match=r"'word' holds states that it had not in fit"):
        corex.transform(FRAME.assign(word="perhaps"))


def test_sparse_columns_of_pandas_are_read_as_dense_ones():
    pandas = pytest.importorskip("pandas")
    x, _ = factor_table(60, 1, 3, 0.5, seed=0)
    dense = pandas.DataFrame((x > 0).astype(float), columns=list("abc"))
    sparse = dense.astype({"a": pandas.SparseDtype("float", 0.0)})
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0, cv=None)
    found = [corex.fit(each).tc_ for each in (dense, sparse)]
    assert found[0] == found[1]


def test_words_that_are_all_missing_in_new_rows():
    pandas = pytest.importorskip("pandas")
    x, _ = factor_table(80, 1, 3, 0.5, seed=0)
    table = pandas.DataFrame(x, columns=list("abc"))
    table["c"] = np.where(x[:, 2] > 0, "yes", "no")
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0, cv=None).fit(table)
    one, two = table.iloc[:1].copy(), table.iloc[:2].copy()
    one["c"], two.loc[0, "c"] = None, None
    np.testing.assert_allclose(corex.transform(one)[0], corex.transform(two)[0])


def test_dates_in_an_array_of_objects_are_left_out_as_those_of_a_frame_are():
    frame = pd.DataFrame(X[:30, :3], columns=["x0", "x1", "x2"])
    frame["x3"] = pd.date_range("2020-01-01", periods=30)
    found = []
    for table in (frame, frame.to_numpy()):
        with pytest.warns(UserWarning, match="^Column 'x3' is left out: it holds dates or times"):
            found.append(CorEx(1, random_state=0).fit(table))
    assert found[0].tc_ == found[1].tc_
    assert found[1].clusters_[3] == -1

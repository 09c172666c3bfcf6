"""What may be given as a table."""

import pandas as pd
import pytest

from pyro_corex import CorEx
from tests.estimator.tables import factor_table

X, _ = factor_table(100, 2, 3, 0.5, seed=0)

FRAME = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "word": ["yes", "no"] * 50})


def kinds(table, **options):
    return [(c.kind, c.shown, c.missing) for c in CorEx(**options).describe(table).columns]


def test_sparse_columns_of_pandas_are_read_as_dense_ones():
    pandas = pytest.importorskip("pandas")
    x, _ = factor_table(60, 1, 3, 0.5, seed=0)
    dense = pandas.DataFrame((x > 0).astype(float), columns=list("abc"))
    sparse = dense.astype({"a": pandas.SparseDtype("float", 0.0)})
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0, cv=None)
    found = [corex.fit(each).tc_ for each in (dense, sparse)]
    assert found[0] == found[1]


def test_dates_in_an_array_of_objects_are_left_out_as_those_of_a_frame_are():
    frame = pd.DataFrame(X[:30, :3], columns=["x0", "x1", "x2"])
    frame["x3"] = pd.date_range("2020-01-01", periods=30)
    found = []
    for table in (frame, frame.to_numpy()):
        with pytest.warns(UserWarning, match="^Column 'x3' is left out: it holds dates or times"):
            found.append(CorEx(1, random_state=0).fit(table))
    assert found[0].tc_ == found[1].tc_
    assert found[1].clusters_[3] == -1


def test_periods_intervals_and_other_objects():
    bands = pd.arrays.IntervalArray(pd.cut(X[:, 0], [-9, 0, 1, 9]))
    months = pd.period_range("2020-01", periods=100, freq="M")
    frame = pd.DataFrame({"a": bands, "b": X[:, 1], "m": months})
    assert [kind for kind, *_ in kinds(frame)] == ["ordinal", "continuous", "left out"]
    assert kinds(frame)[0][1] == "(-9, 0], (0, 1], (1, 9]"
    with pytest.raises(TypeError, match=r"'a' must hold numbers or words, but holds list, such as"):
        kinds(pd.DataFrame({"a": [[1, 2]] * 20, "b": X[:20, 0]}))


def test_tables_of_arrow():
    arrow = pytest.importorskip("pyarrow")
    frame = FRAME.assign(word=pd.Categorical(FRAME.word))
    assert kinds(arrow.Table.from_pandas(frame)) == kinds(frame)


def test_frames_of_polars_with_dates_and_an_order():
    polars = pytest.importorskip("polars")
    days = pd.date_range("2020-01-01", periods=100).date.tolist()
    words = [["zzz", "other", "small"][k % 3] for k in range(100)]
    own = polars.Series(words, dtype=polars.Enum(["zzz", "other", "small"]))
    frame = polars.DataFrame({"a": X[:, 0], "day": days, "word": own})
    assert [found[:2] for found in kinds(frame)[1:]] == [
        ("left out", ""), ("ordinal", "zzz, other, small"),
    ]  # fmt: skip


def test_columns_are_named_as_the_frame_has_them():
    names = pd.MultiIndex.from_product([["x", "y"], [1, 2, 3]])
    found = CorEx(kinds={("y", 1): "continuous"}).describe(pd.DataFrame(X, columns=names))
    assert [c.name for c in found.columns if c.why == "as you said"] == ["('y', 1)"]
    found = CorEx(kinds={3: "continuous"}).describe(pd.DataFrame(X, columns=range(1, 7)))
    assert [c.name for c in found.columns if c.why == "as you said"] == ["3"]

"""Reading tables, and what their columns are found to be."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

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
    (with_value(np.inf), r"contains infinity, in column 'x2'.*missing=\[np.inf, -np.inf\]"),
    (csr_matrix(with_value(-np.inf)), r"contains infinity, in column 'x2'"),
    (X[:1], r"minimum of 2 is required"),
    (X[:, 0], r"must be a table of shape .* but got the shape .100,"),
    (np.ones((10, 3)), r"All 3 columns are constant"),
    (np.full((9, 3), np.nan), r"All 3 columns are constant or left out"),
    (FRAME.iloc[:1], r"Found array with 1 sample"),
    (FRAME.assign(a=np.inf), r"contains infinity, in column 'a'"),
    (FRAME.assign(a=["-Inf", "2.5"] * 5 + ["7"] * 90), r"contains infinity, in column 'a'"),
]


@pytest.mark.filterwarnings(
    "ignore:Columns 'x0', 'x1', 'x2' hold no value in any row, and are left out"
)
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
    with pytest.raises(
        ValueError, match=r"'word' held words in fit, but .* holds only numbers, such as 1"
    ):
        corex.transform(FRAME.assign(word=1.0))
    with pytest.raises(ValueError, match=r"'a' held numbers in fit, but here it holds words"):
        corex.transform(FRAME.assign(a="many"))
    with pytest.warns(UserWarning, match=r"'word' holds states that it had not in fit"):
        corex.transform(FRAME.assign(word="perhaps"))


def test_words_that_are_all_missing_in_new_rows():
    pandas = pytest.importorskip("pandas")
    x, _ = factor_table(80, 1, 3, 0.5, seed=0)
    table = pandas.DataFrame(x, columns=list("abc"))
    table["c"] = np.where(x[:, 2] > 0, "yes", "no")
    corex = CorEx(1, random_state=0, max_iter=20, tol=10.0, cv=None).fit(table)
    one, two = table.iloc[:1].copy(), table.iloc[:2].copy()
    one["c"], two.loc[0, "c"] = None, None
    np.testing.assert_allclose(corex.transform(one)[0], corex.transform(two)[0])


def kinds(table, **options):
    return [(c.kind, c.shown, c.missing) for c in CorEx(**options).describe(table).columns]


CODES = np.digitize(X[:, 0], [-0.5, 0.5]) + 1
THREE = ("1, 2, 3", 0)


@pytest.mark.parametrize(
    "beside", [CODES, X[:, 1], X[:, 1].astype("float32"), X[:, 1] > 0, FRAME.word]
)
def test_categories_of_integers_are_read_alike_beside_all_columns(beside):
    for ordered in (False, True):
        own = pd.Categorical(CODES, [1, 2, 3], ordered=ordered)
        found = kinds(pd.DataFrame({"a": own, "b": beside}))
        assert found[0] == ("ordinal" if ordered else "categorical", *THREE)


@pytest.mark.parametrize(("states", "own", "new", "same"), [
    ([1, 2, 3], [1, 2, 3], [1.0, 3.0], [1, 3]),
    ([1, 2, 3], [1, 2, 3], ["2", "3.0"], [2, 3]),
    (None, ["0", "1", "3+"], [1.0, 0.0], ["1", "0"]),
    (None, ["0", "1", "3+"], ["1", None], ["1", None]),
    (None, ["True", "False"], [1, 0], ["True", "False"]),
    (None, ["True", "False"], ["TRUE", "false"], ["True", "False"]),
    (None, ["True", "False"], [False, True], ["False", "True"]),
    (None, ["1.0", "2.0", "x", "y", "z"], [2, 1], ["2.0", "1.0"]),
])  # fmt: skip
def test_new_entries_are_the_states_that_they_name(states, own, new, same):
    def table(entries):
        column = pd.Categorical(entries, states) if states and entries is held else entries
        return pd.DataFrame({"a": column, "b": np.resize(X[:, 1], len(entries))})

    held = [own[k % len(own)] for k in range(30)]
    corex = CorEx(1, random_state=0, max_iter=5, tol=10.0, cv=None).fit(table(held))
    np.testing.assert_array_equal(corex.transform(table(new)), corex.transform(table(same)))


def test_new_entries_that_are_no_state_are_missing():
    frame = FRAME.assign(a=np.digitize(X[:, 0], [-1, 0, 1]), word=["0", "3+"] * 50)
    corex = CorEx(1, random_state=0, max_iter=5, tol=10.0, cv=None).fit(frame)
    new = frame.iloc[:2].astype(object)
    with pytest.warns(UserWarning, match=r"'word' holds states that it had not in fit, such as 7"):
        z = corex.transform(new.assign(word=7))
    np.testing.assert_array_equal(z, corex.transform(new.assign(word=None)))
    with pytest.warns(
        UserWarning, match=r"'a' holds text that it had not .*such as \"don't know\""
    ):
        z = corex.transform(new.assign(a="don't know"))
    np.testing.assert_array_equal(z, corex.transform(new.assign(a=np.nan)))
    for text in ("1.0", "much"):  # numbers that are text, too, are of another form
        with pytest.raises(
            ValueError, match=f"'a' held numbers in fit, .* words, such as '{text}'"
        ):
            corex.transform(new.assign(a=text))
    filled = corex.impute(new.assign(word=[0.0, np.nan]))
    assert [float(filled.word.iloc[0]), filled.a.tolist()] == [0.0, new.a.tolist()]


def test_an_ordered_category_that_is_no_answer_is_missing():
    words = ["none", "faint", "bright", "Don't know"]
    own = pd.Categorical([words[k % 4] for k in range(100)], words, ordered=True)
    described = CorEx().describe(pd.DataFrame({"a": own, "b": X[:, 0]}))
    assert kinds(FRAME.assign(a=own))[0] == ("ordinal", "none, faint, bright", 25)
    assert "'a' has an order, of which \"Don't know\" can be no step" in described.notes[0]
    told = kinds(FRAME.assign(a=own), levels={"a": words[::-1]})
    assert told[0] == ("ordinal", "Don't know, bright, faint, none", 0)


@pytest.mark.parametrize("all_columns", [False, True])
def test_a_word_that_is_named_as_a_level_is_an_answer(all_columns):
    words = ["Don't know", "never", "rarely", "often", "-"]
    frame = FRAME.assign(a=[words[k % 5] for k in range(100)])
    assert kinds(frame)[0] == ("ordinal", "never, rarely, often", 40)
    levels = words if all_columns else {"a": words}
    assert kinds(frame, levels=levels)[0] == ("ordinal", ", ".join(words), 0)


def test_a_column_without_a_value_is_left_out():
    frame = FRAME.assign(empty=np.nan)
    for table in (frame, frame[["a", "b", "empty"]]):
        with pytest.warns(UserWarning, match=r"'empty' holds no value in any row, and is left"):
            corex = CorEx(1, random_state=0, max_iter=5, tol=10.0, cv=None).fit(table)
        z = corex.transform(table)
        np.testing.assert_array_equal(z, corex.transform(table.assign(empty=3.0)))
        assert corex.impute(table)["empty"].isna().all()


def test_infinite_entries_that_are_told_to_be_missing():
    for own in ([1.5, np.inf, 2.5, -np.inf], ["1.5", "inf", "2.5", "-Inf"]):
        frame = pd.DataFrame({"a": own * 5, "b": X[:20, 0]})
        assert kinds(frame, missing=[np.inf, -np.inf])[0] == ("binary", "1.5, 2.5", 10)

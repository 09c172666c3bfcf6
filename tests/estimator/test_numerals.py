"""Text that is missing, a number, or a word with an order."""

import numpy as np
import pandas as pd
import pytest

from pyro_corex import CorEx
from pyro_corex.estimator.numerals import Numerals, find_numerals, read_text


@pytest.mark.parametrize(("decimal", "thousands", "texts", "values"), [
    (".", "", ["1", "-2.5", ".5", "3e2", "0", "007", "1,5"], [1, -2.5, 0.5, 300, 0, None, None]),
    (",", ".", ["1.234,5", "12.500", "950", "1.23", "0.123"], [1234.5, 12500, 950, None, None]),
    (".", ",", ["1,234", "1,234,567.8", "12,34"], [1234, 1234567.8, None]),
    (",", " ", ["12 345,5", "1 2"], [12345.5, None]),
])  # fmt: skip
def test_numbers_as_they_are_written(decimal, thousands, texts, values):
    found = Numerals(decimal, thousands).read(texts)
    np.testing.assert_array_equal(found, np.array(values, dtype=float))


def test_how_numbers_are_written_is_found_from_all_columns():
    told = [["1,5", "2,25"], ["1.234", "950"], ["a", "b"]]
    found, doubtful = find_numerals(told)
    assert found[0].decimal == found[1].decimal == ","
    assert (found[1].thousands, doubtful) == (".", {})
    found, doubtful = find_numerals([["1,234", "5,100"]])
    assert (found[0].read(["1,234"])[0], doubtful) == (1234, {0: "1,234"})
    found, doubtful = find_numerals([["1,234", "5,100"]], decimal=",")
    assert (found[0].read(["1,234"])[0], doubtful) == (1.234, {})


@pytest.mark.parametrize(("texts", "values"), [
    (["$5.00", "($1,234.00)", "-$3.50", "$-2.00"], [5, -1234, -3.5, -2]),
    (["120", "(35)", "0"], [120, -35, 0]),
    (["(1)", "(2)"], [None, None]),
    (["1.0D+03", "2.5d-01", "4"], [1000, 0.25, 4]),
])  # fmt: skip
def test_signs_and_exponents_as_accounts_and_fortran_write_them(texts, values):
    found, _ = find_numerals([texts])
    column = read_text(np.array(texts, dtype=object), found[0])
    assert column.numbers == (None not in values)
    if column.numbers:
        np.testing.assert_allclose(column.values, np.array(values, dtype=float))


@pytest.mark.parametrize(("texts", "order"), [
    (["+", "-", "+", "", "–"], ["-", "+"]),
    (["−", "+-", "+", "++", "—"], ["-", "+-", "+", "++"]),
    (["-", "1+", "2+"], ["-", "1+", "2+"]),
    (["-", "1", "3+"], ["1", "3+"]),
    (["None", "1", "3+", "refused"], ["None", "1", "3+"]),
    (["none", "1", "2", "3"], ["none", "1", "2", "3"]),
    (["none", "low", "high"], ["none", "low", "high"]),
    (["none", "agree", "disagree"], ["disagree", "agree"]),
    (["1 - no", "2 - yes", "99 - refused"], ["1 - no", "2 - yes"]),
    (["0 - none", "1 - one", "2 - two"], ["0 - none", "1 - one", "2 - two"]),
])  # fmt: skip
def test_words_that_are_missing_or_the_first_step(texts, order):
    text = read_text(np.array(texts, dtype=object), Numerals())
    assert text.order == order
    assert {v for v in text.values if v is not None} == set(order)


def test_a_column_of_minus_alone_holds_answers():  # as new rows may
    assert read_text(np.array(["-", "", "-"], dtype=object), Numerals()).values[0] == "-"
    assert read_text(np.array(["-", "", "a"], dtype=object), Numerals()).values[0] is None


def test_none_beside_numbers_is_told_of():
    frame = pd.DataFrame(
        {
            "drinks": ["none", "1", "2", "3"] * 10,
            "weight": ["none", *map(str, np.linspace(50.5, 90, 39).round(2))],
            "marker": ["+", "-", "-", "+"] * 10,
        }
    )
    described = CorEx().describe(frame)
    assert [column.kind for column in described.columns] == ["ordinal", "continuous", "binary"]
    assert [column.missing for column in described.columns] == [0, 1, 0]
    first, second = sorted(described.notes)
    assert "Column 'drinks' holds 'none', which counts as an answer" in first
    assert "Column 'weight' holds numbers, but also 'none': that counts as missing" in second


def test_a_column_of_text():
    numbers = read_text(np.array(["5 kg", "n.d.", "-", "7 kg", "6 kg"], dtype=object), Numerals())
    np.testing.assert_array_equal(numbers.values, [5, np.nan, np.nan, 7, 6])
    assert "'n.d.' counted as missing" in numbers.why
    scale = read_text(np.array(["Agree", "don't know", "Disagree"], dtype=object), Numerals())
    assert (scale.order, scale.values.tolist()) == (
        ["Disagree", "Agree"],
        ["Agree", None, "Disagree"],
    )
    words = read_text(
        np.array(["red", "refused", "blue", "RED"], dtype=object), Numerals(), {"blue"}
    )
    assert (words.values[2], words.answers, words.order) == (None, ["refused"], [])
    mixed = read_text(np.array(["1", "2", "3", "see below"], dtype=object), Numerals())
    assert (mixed.numbers, mixed.remarks) == (True, ["see below"])

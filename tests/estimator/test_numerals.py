"""Text that is missing, a number, or a word with an order."""

import numpy as np
import pytest

from pyro_corex.estimator.numerals import Numerals, find_numerals, known_order, read_text


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


@pytest.mark.parametrize("order", [
    ["Strongly disagree", "Disagree", "neither agree nor disagree", "Agree", "Strongly Agree"],
    ["never", "rarely", "sometimes", "often", "always"],
    ["1 (not at all)", "2", "3", "7 - very much"],
    ["<18", "18-24", "25-34", "65+"],
    ["Under 18", "18 to 24", "25 to 64", "65 and over"],
    ["<$10,000", "$10,000-$20,000", "$20,000-$100,000", ">$100,000"],
    ["up to 1.000 €", "1.001-2.500 €", "über 2.500 €"],
    ["<0.5%", "0.5-1%", "1-2.5%", ">2.5%"],
    ["0", "1-9", "10-500", "500-1k", "1k-20k", "20k-1m", ">1m"],
    ["1 child", "2 children", "3 or more children"],
    ["less than 30 min", "30-60 min", "1-2 hours", "2 hours or more"],
    ["less than 6 months", "6-12 months", "1-2 years", "more than 2 years"],
    ["1 never", "2 rarely", "3. often"],
    ["low", "medium", "high"],
])  # fmt: skip
def test_words_whose_order_is_known(order):
    assert known_order(sorted(order)) == order


@pytest.mark.parametrize(
    "words",
    [
        ["low", "red"],
        ["rarely", "seldom"],
        ["01", "02"],
        ["1a", "1b"],
        ["one"],
        ["1.500-2", "2.5-3"],  # a point between thousands, or a decimal one
        ["1.5.2020", "2.5.2020"],
        ["6 Monate", "1 Jahr"],  # units whose sizes are not known
        ["5 miles", "3 km"],
    ],
)
def test_words_whose_order_is_not(words):
    assert known_order(words) == []


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

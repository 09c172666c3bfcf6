"""What a user tells of columns."""

import pytest

from pyro_corex.estimator.told import find_column, read_levels, read_missing


def test_codes_of_missing_entries():
    assert read_missing([-99, "Refused", 1.5], ["a", "b"]) == {
        i: {"-99", "refused", "1.5"} for i in range(2)
    }
    assert read_missing({"b": "-99.0", 0: [9]}, ["a", "b"]) == {1: {"-99"}, 0: {"9"}}
    assert read_missing(None, ["a"]) == {}


def test_levels():
    assert read_levels({"b": ["lo", " hi"]}, ["a", "b"]) == {1: ["lo", "hi"]}
    assert read_levels(["lo", "hi"], ["a"]) == {None: ["lo", "hi"]}


def test_columns_by_name_and_index():
    assert (find_column("b", ["a", "b"], "kinds"), find_column(-1, ["a"] * 3, "kinds")) == (1, 2)
    with pytest.raises(ValueError, match=r"kinds names column 'd', but the table has 'a', 'b'"):
        find_column("d", ["a", "b"], "kinds")

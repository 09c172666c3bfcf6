"""The record of an epoch."""

from types import SimpleNamespace

import pytest
import torch

from pyro_corex.training.history import Record


def noted(record, size, **totals):
    """Adds a step of ``size`` data with these terms."""
    keys = {"x": ("reconstruction", "x"), "z": ("kl", "z"), "mine": ("regularizer", "mine")}
    last = {keys[name]: torch.tensor(value) for name, value in totals.items()}
    loss = -size * (totals["x"] - totals["z"])
    record.add(torch.tensor(loss), objective(last, size))


def objective(last, size):
    """What a record takes of an objective: terms, and their sums over data, plain and weighted."""
    sums = {key: (value * size, 2 * value * size) for key, value in last.items()}
    return SimpleNamespace(
        last_totals=last, last_num_data=size, last_batch_size=size, last_sums=sums
    )


@pytest.fixture
def record():
    record = Record()
    noted(record, 30.0, x=-2.0, z=1.0, mine=4.0)
    noted(record, 10.0, x=-4.0, z=3.0, mine=0.0)
    return record


def test_averages_are_over_data(record):
    assert (len(record), record.unread) == (2, 2)
    assert record.read() is None
    assert record.unread == 0
    found = record.averages(record.totals())
    assert found == pytest.approx({"objective": -4.0, "elbo": -4.0, "kl_z": 1.5, "mine": 3.0})
    assert record.losses().tolist() == [90.0, 70.0]


def test_averages_of_two_processes(record):
    other = Record()
    noted(other, 40.0, x=-1.0, z=0.5, mine=1.0)
    for each in (record, other):
        each.read()
    found = record.averages(record.totals() + other.totals())
    assert found == pytest.approx({"objective": -2.75, "elbo": -2.75, "kl_z": 1.0, "mine": 2.0})


@pytest.mark.parametrize(
    ("totals", "match"),
    [
        ({"x": float("nan")}, "the reconstruction of site 'x' is NaN"),
        ({"z": float("inf")}, "the KL of site 'z' is infinite"),
        ({"mine": float("nan")}, "the regularizer 'mine' is NaN"),
    ],
)
def test_it_finds_the_first_step_that_is_not_finite(record, totals, match):
    record.read()
    noted(record, 10.0, x=-1.0, z=1.0, mine=0.0)
    noted(record, 10.0, **{"x": -1.0, "z": 1.0, "mine": 0.0, **totals})
    assert record.read() == (3, match)


def test_a_weighted_sum_that_is_not_finite(record):
    last = {("kl", "z"): torch.tensor(1.0)}
    record.read()
    other = Record()
    other.add(torch.tensor(float("inf")), objective(last, 1.0))
    assert other.read() == (0, "its terms are finite, but their weighted sum is not")


def test_what_was_read_is_data(record):
    record.read()
    again = Record(**record.state_dict())
    assert again.averages(again.totals()) == record.averages(record.totals())
    assert again.sums() == record.sums()


def test_sums_over_data_are_plain_and_weighted(record):
    record.read()
    kl = 30.0 * 1.0 + 10.0 * 3.0
    assert [float(each) for each in record.sums()[1]] == [kl, 2 * kl]

"""Arguments as rows of data and columns that can be moved."""

from collections import UserDict
from dataclasses import dataclass

import torch

from pyro_corex.objective.arguments import Argument, Note, Swap, map_tensors, tensors

X = torch.arange(12.0).reshape(4, 3)


def mask(*bits):
    return torch.tensor(bits, dtype=torch.bool)


def test_rows_are_the_first_axis_that_has_their_number():
    assert Argument(X, {4}, None).columns.tolist() == X.tolist()
    assert Argument(X, {3}, None).columns.tolist() == X.T.tolist()
    assert Argument(X.reshape(4, 3, 1), {4}, None).columns.shape == (4, 3)
    assert Argument(X[:, 0], {4}, None).columns.shape == (4, 1)
    for leaf in (X, torch.tensor(1.0), X[:1]):
        assert not Argument(leaf, {1, 7}, None).by_datum


def test_columns_are_moved_on_by_one_row():
    argument = Argument(X, {4}, None)
    moved = argument.moved(mask(1, 0, 0))
    assert moved[:, 0].tolist() == [9.0, 0.0, 3.0, 6.0]
    assert torch.equal(moved[:, 1:], X[:, 1:])
    turned = Argument(X.T, {4}, None)
    assert torch.equal(turned.with_columns(turned.moved(turned.all)), X.T.roll(1, 1))


def test_what_is_the_same_for_all_rows_is_that_of_other_data():
    x = X.clone()
    x[:, 1] = 5.0
    argument = Argument(x, {4}, torch.tensor([-1.0, -2.0, -3.0]))
    assert argument.moved(argument.all)[:, 1].tolist() == [-2.0] * 4
    assert argument.moved(argument.all)[:, 0].tolist() == [9.0, 0.0, 3.0, 6.0]
    labels = Argument(torch.ones(4, dtype=torch.long), {4}, torch.tensor([2.0]))
    assert labels.moved(labels.all).tolist() == [[2]] * 4


def test_columns_that_are_observed():
    observed = {"a": X[:, [2, 1]].double(), "b": torch.ones(4, 1)}
    x = torch.cat([X, torch.ones(4, 1)], 1)
    assert Argument(x, {4}, None).among(observed).tolist() == [-1, 1, 0, -1]  # no constants


class Named(UserDict):
    """A mapping of a type of its own."""


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    name: str


def test_tensors_are_mapped_wherever_they_are():
    given = ({"a": [X, "text"]}, (X,), Named(a=X), Batch(X, "name"), Batch, None, 3)
    found = map_tensors(lambda x: x + 1, given)
    assert torch.equal(found[0]["a"][0], X + 1)
    assert torch.equal(found[1][0], X + 1)
    assert isinstance(found[2], Named)
    assert torch.equal(found[2]["a"], X + 1)
    assert torch.equal(found[3].x, X + 1)
    assert (found[0]["a"][1], found[3].name, *found[4:]) == ("text", "name", Batch, None, 3)
    for each in tensors(given):
        assert each is X
    assert len(tensors(given)) == 4


HELD = torch.arange(4.0)


def test_tensors_that_operations_are_given_and_none_has_made():
    with Note(ignore=[X]) as note:
        y = X + HELD[:, None]
        y = torch.cat([y, torch.ones(4, 1), y.new_zeros(4, 1)], 1)
        y[:, 0] = HELD
        torch.stack((y, y)).sum(0).max(1)
    assert len(note.found) == 1
    assert note.found[0] is HELD


def test_tensors_are_swapped_wherever_they_are_used():
    swap = Swap({id(HELD): HELD + 1})
    with swap:
        y = X + HELD[:, None]
        z = torch.stack((HELD, HELD))
    assert torch.equal(y, X + torch.arange(1.0, 5.0)[:, None])
    assert torch.equal(z, torch.arange(1.0, 5.0).expand(2, 4))
    assert torch.equal(swap.within({"a": HELD})["a"], HELD + 1)
    assert torch.equal(HELD, torch.arange(4.0))

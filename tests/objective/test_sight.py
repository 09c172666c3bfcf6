"""What the model is told beside what is observed, and its entropy."""

import pytest
import torch

from pyro_corex.objective.sight import Sight, Told, conditional


def mask(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_several_batches_together():
    one = Sight("", "own", (Told("y", 1, mask(1, 0)),))
    two = Sight("a problem", "", (Told("y", 1, mask(0, 1)), Told("a", 0, mask(1))))
    joined = Sight.join([Sight(), one, two])
    assert joined[:2] == ("a problem", "own")
    assert [(each.name, each.place, each.columns.tolist()) for each in joined.told] == [
        ("a", 0, [True]),
        ("y", 1, [True, True]),
    ]
    assert joined.y == "a and y"


def test_reasons():
    assert Sight().unexplained == ""
    assert Sight(own="own").unexplained == "own"
    told = Sight(own="own", told=(Told("'y'", 0, mask(1)),)).unexplained
    assert told.startswith("The model is conditional on y = 'y': its densities")
    assert "tc_bound takes H(y) off" in told
    assert "Make y an observed site" in conditional("'y'")


def test_the_distinct_values_of_several_tensors():
    a, b = torch.arange(80) % 2, torch.arange(80) // 40
    given = {0: torch.stack([a * 0.5, torch.randn(80)], 1), 3: b[:, None]}
    sight = Sight(told=(Told("a", 0, mask(1, 0)), Told("b", 3, mask(1))))
    code = sight.values(given, 80)
    assert code.shape == (80, 1)
    want = (2 * a + b).unique(return_inverse=True)[1]
    pairs = {(int(c), int(w)) for c, w in zip(code[:, 0], want, strict=True)}
    assert len(pairs) == len({w for _, w in pairs}) == 4
    assert Sight().values(given, 80) is None


def test_too_many_values_and_values_that_are_not_known():
    sight = Sight(told=(Told("a", 0, mask(1)),))
    few = {0: (torch.arange(30) % 4)[:, None]}
    with pytest.raises(
        ValueError, match="y has 4 distinct values in 30 data, and at most one in 10"
    ):
        sight.values(few, 30)
    for given in ({}, {0: torch.zeros(7, 1)}):
        with pytest.raises(ValueError, match=r"conditional on y = a: .*30 distinct.*observed site"):
            sight.values(given, 30)

"""A number and its standard error."""

import pytest
import torch

from pyro_corex.information import Estimate


def test_a_number():
    found = Estimate(2.0, 0.5)
    assert found.estimate == 2.0
    assert found.interval == pytest.approx((1.02, 2.98))
    assert repr(found) == "2 ± 0.5 nats"
    assert repr(Estimate(0.25, 0.1, unit="")) == "0.25 ± 0.1"
    told = Estimate(1 / 3, 0.01, kind="binary", correction="Miller-Madow")
    assert repr(told) == "Estimate(0.33333 ± 0.01 nats, kind='binary', correction='Miller-Madow')"


def test_tensors():
    scalar = Estimate(torch.tensor(2.0), torch.tensor(0.5))
    assert scalar.estimate == 2.0
    assert isinstance(scalar.estimate, float)
    assert repr(scalar) == "2 ± 0.5 nats"
    several = Estimate(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0]))
    low, high = several.interval
    torch.testing.assert_close(low, torch.tensor([0.02, 0.04]))
    torch.testing.assert_close(high, torch.tensor([1.98, 3.96]))
    assert repr(several) == "2 values in nats, sum 3"
    assert repr(Estimate(torch.ones(3), torch.ones(3), unit="")) == "3 values, sum 3"
    with pytest.raises((RuntimeError, ValueError)):
        _ = several.estimate


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        Estimate(2.0, 0.5).value = 3.0

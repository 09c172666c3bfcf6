import pytest
import torch

from pyro_corex.datasets import Neighbours


def test_neighbours_are_the_nearest_of_the_others():
    x = torch.randn(50, 2, 3)
    near = Neighbours(x, n=3)
    distances = (x[:, None] - x).flatten(2).norm(dim=-1)
    wanted = distances.argsort(1)[:, 1:4]  # the first is the datum itself
    drawn = torch.stack([near(x) for _ in range(60)])
    at = (drawn[:, :, None] == x).flatten(3).all(-1).int().argmax(-1)
    for i in range(50):
        assert set(at[:, i].tolist()) == set(wanted[i].tolist())


def test_errors():
    with pytest.raises(ValueError, match="less than the number of data, 3, but got 3"):
        Neighbours(torch.zeros(3, 2), n=3)
    with pytest.raises(ValueError, match=r"of the shape \(2,\), but got \(1,\)"):
        Neighbours(torch.zeros(3, 2), n=1)(torch.zeros(3, 1))

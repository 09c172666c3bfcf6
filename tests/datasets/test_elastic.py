"""Random elastic deformations."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_corex.datasets import RandomAffine, RandomElastic


def test_nothing_is_moved_by_nothing():
    x = torch.rand(3, 2, 6, 9, dtype=torch.float64)
    assert_close(RandomElastic(amount=0.0)(x), x)


def test_pixels_move_by_the_amount_that_is_said():
    """On a ramp a value tells where it came from; far from the edges all of it is there."""
    torch.manual_seed(0)
    ramp = torch.arange(64.0, dtype=torch.float64).expand(500, 64, 64)
    for axis, x in (("right", ramp), ("down", ramp.mT)):
        moved = RandomElastic(amount=1.5, points=2)(x.contiguous())[:, 1, 1] - x[0, 1, 1]
        # near a corner the pixel follows the corner's point; 500 draws, values cut at the edge
        inner = moved[moved.abs() < 1]
        share = math.erf(1 / (1.5 * math.sqrt(2)))
        assert abs(len(inner) / 500 - share) < 3 * math.sqrt(share * (1 - share) / 500), axis


def test_a_flat_image_is_bent_as_one_that_is_not():
    x = torch.rand(4, 5, 7)
    torch.manual_seed(3)
    flat = RandomElastic((5, 7))(x.flatten(1))
    torch.manual_seed(3)
    assert_close(flat.view(4, 5, 7), RandomElastic()(x))


def test_binary_images_stay_probabilities_and_each_has_a_move_of_its_own():
    x = torch.ones(200, 784)
    x[:, ::3] = 0.0
    bent = RandomElastic(28, amount=3.0)(x)
    assert bent.min() >= 0
    assert bent.max() <= 1
    assert not torch.equal(bent[0], bent[1])


def test_repr():
    assert repr(RandomElastic(28)) == "RandomElastic(side=28, amount=1.0, points=5)"


@pytest.mark.parametrize("amount", [-1.0, math.inf, "much"])
def test_an_amount_out_of_range_is_refused(amount):
    with pytest.raises(ValueError, match="amount must be a finite number >= 0"):
        RandomElastic(amount=amount)


def test_one_point_is_refused():
    with pytest.raises(ValueError, match="points must be an integer >= 2"):
        RandomElastic(points=1)


@pytest.mark.parametrize("transform", [RandomAffine(4), RandomElastic(4)])
def test_no_image_is_refused(transform):
    with pytest.raises(ValueError, match=r"at least one, but got the shape \(0, 16\)"):
        transform(torch.ones(0, 16))

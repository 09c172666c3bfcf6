"""Generators with known truth."""

import itertools
import math

import pytest
import torch

from pyro_corex.datasets import layered, linear_gaussian, noisy_coins
from pyro_corex.information import (
    discrete_total_correlation,
    gaussian_total_correlation,
    total_correlation,
)


@pytest.mark.parametrize("groups", [False, True])
def test_linear_gaussian(groups):
    data = linear_gaussian(20_000, 12, 3, noise=0.5, groups=groups, seed=1)
    assert data.x.shape == (20_000, 12)
    assert data.latents[0].shape == (20_000, 3)
    found = total_correlation(data.x)
    assert abs(float(found.value) - data.total_correlation) < 4 * float(found.stderr)
    again = linear_gaussian(20_000, 12, 3, noise=0.5, groups=groups, seed=1)
    assert torch.equal(data.x, again.x)
    other = linear_gaussian(20_000, 12, 3, noise=0.5, groups=groups, seed=1, sample_seed=5)
    assert other.total_correlation == data.total_correlation
    assert not torch.equal(other.x, data.x)


@pytest.mark.parametrize("groups", [False, True])
def test_the_total_correlation_is_that_of_the_covariance(groups):
    d, m, seed = 40, 7, 3
    data = linear_gaussian(5, d, m, noise=0.5, groups=groups, seed=seed)
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(d, m, generator=g, dtype=torch.float64) / m**0.5
    if groups:
        own = torch.arange(d)[:, None] % m == torch.arange(m)
        w = torch.where(own, torch.where(w < 0, -1.0, 1.0), 0.0).double()
    scale = 0.5 * 1.5 ** (torch.rand(d, generator=g, dtype=torch.float64) * 2 - 1)
    exact = gaussian_total_correlation(w @ w.T + scale.square().diag())
    assert data.total_correlation == pytest.approx(float(exact), rel=1e-12)


def test_every_dimension_of_a_group_loads_on_its_latent():
    data = linear_gaussian(5000, 6, 3, noise=0.1, groups=True)
    correlation = torch.corrcoef(torch.cat([data.x, data.latents[0]], 1).T)[:6, 6:].abs()
    assert torch.equal(correlation.argmax(1), torch.arange(6) % 3)


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.5])
def test_noisy_coins(flip):
    table = torch.zeros([2] * 4)
    for heads in (0, 1):
        for bits in itertools.product((0, 1), repeat=4):
            wrong = sum(b != heads for b in bits)
            table[bits] += 0.5 * flip**wrong * (1 - flip) ** (4 - wrong)
    data = noisy_coins(4000, 3, 4, flip=flip)
    assert data.x.shape == (4000, 12)
    assert set(data.x.unique().tolist()) == {0.0, 1.0}
    assert data.total_correlation == pytest.approx(3 * float(discrete_total_correlation(table)),
                                                   abs=1e-5)  # fmt: skip
    wrong = data.x.view(4000, 3, 4) != data.latents[0].unsqueeze(-1)
    assert float(wrong.float().mean()) == pytest.approx(flip, abs=0.01)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_layered(depth):
    data = layered(20_000, depth, branching=2, seed=depth)
    assert data.x.shape == (20_000, 16)
    assert [z.shape[1] for z in data.latents] == [8, 4, 2][:depth]
    found = total_correlation(data.x)
    assert abs(float(found.value) - data.total_correlation) < 4 * float(found.stderr)
    # only the layer on top is independent
    for level, z in enumerate(data.latents, 1):
        inside = total_correlation(z)
        dependent = float(inside.value) > 10 * float(inside.stderr) + 0.01
        assert dependent == (level < depth)


def test_deeper_data_depend_more():
    tcs = [layered(10, depth).total_correlation for depth in (1, 2, 3)]
    assert tcs == sorted(tcs)
    pair = -0.5 * math.log(1 - 0.64**2)  # siblings are correlated by 0.8 * 0.8 at one remove
    assert layered(10, 1, tops=1, branching=2, max_depth=1).total_correlation == pytest.approx(
        -0.5 * math.log(1 - 0.8**2)
    )
    assert pair < tcs[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_gaussian(0, 3, 1), "n must be an integer >= 1, but got 0"),
        (lambda: linear_gaussian(5, 3, 4), "m must be at most d"),
        (lambda: linear_gaussian(5, 3, 1, noise=0.0), "noise must be > 0"),
        (lambda: noisy_coins(5, 2, 0), "copies must be an integer >= 1"),
        (lambda: noisy_coins(5, 2, 2, flip=1.5), "flip must be a probability"),
        (lambda: layered(5, 4), "depth must be at most max_depth=3, but got 4"),
        (lambda: layered(5, 0), "depth must be an integer >= 1"),
        (lambda: layered(5, 1, correlation=1.0), "correlation must be between 0 and 1"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()

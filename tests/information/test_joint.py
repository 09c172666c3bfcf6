import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_corex.information import AggregatePosterior


def two_groups(n, generator):
    """Latents that are independent within each of two groups: TC(z) is what the groups make."""
    group = torch.randint(2, (n, 1), generator=generator).double() * 8 - 4
    loc = group + 0.6 * torch.randn(n, 3, generator=generator, dtype=torch.double)
    return loc, torch.full_like(loc, 0.8)


def test_the_gaussian_case_is_that_of_the_moments(generator):
    """One component has the moments of the aggregate, and keeps the TC(z) of a Gaussian."""
    covariance = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, -0.3], [0.0, -0.3, 0.8]])
    noise = 0.25
    within = MultivariateNormal(torch.ones(3), covariance - noise * torch.eye(3))
    loc = torch.randn(4_000, 3, generator=generator) @ within.scale_tril.T + 1
    joint = AggregatePosterior(loc, torch.full_like(loc, noise**0.5)).fit_joint(1)
    tril = joint.mixture.scale_tril[0]
    torch.testing.assert_close(tril @ tril.T, covariance, rtol=0, atol=0.1)
    kept = 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance))
    assert abs(joint.gain.value - kept) < 4 * joint.gain.stderr + 0.02
    z = joint.sample(4_000, generator)
    torch.testing.assert_close(torch.cov(z.T), covariance, rtol=0, atol=0.15)
    normal = MultivariateNormal(joint.mixture.loc[0], scale_tril=tril)
    torch.testing.assert_close(joint.log_prob(z), normal.log_prob(z))


def test_the_number_of_components_is_that_of_the_groups(generator):
    loc, scale = two_groups(3_000, generator)
    joint = AggregatePosterior(loc, scale).fit_joint((1, 2))
    assert joint.mixture.weights.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    # the groups are told by each latent: three of them share 2 ln 2, up to draws that are unclear
    assert joint.gain.value == pytest.approx(2 * math.log(2), abs=4 * joint.gain.stderr + 0.02)
    same = joint.sample(500, generator).sign()
    assert (same[:, 0] == same[:, 1]).double().mean() > 0.99
    assert repr(joint).startswith("JointDensity(3 latents, 2 components, keeps 1.3")


def test_the_draws_are_those_of_the_seed(generator):
    post = AggregatePosterior(*two_groups(100, generator))
    state = torch.get_rng_state()
    first, second, other = (post.fit_joint(2, seed=seed).mixture.loc for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_density_that_is_worse_than_the_product_warns(generator):
    """Independent latents that no Gaussian is like."""
    loc = 2.0 * torch.randint(2, (400, 4), generator=generator) - 1
    with pytest.warns(UserWarning, match=r"further .* than the product of the marginals \(-"):
        joint = AggregatePosterior(loc, torch.full_like(loc, 0.05)).fit_joint(1)
    # a Gaussian of variance 1 in place of two narrow ones
    narrow = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.05**2)
    want = 4 * (narrow - 0.5 * math.log(2 * math.pi * math.e * 1.0025))
    assert joint.gain.value == pytest.approx(want, abs=0.3)

"""TC(z) as an interval: it contains the truth, and closes where the data suffice."""

import math
import re

import pytest
import torch
from torch.testing import assert_close

import pyro_corex.information as info
from pyro_corex.information import bracket

FEW = "ignore:TC.z. can be bounded from above only loosely"


def gaussian(n, m, rho, scale, seed):
    """Encodings of Gaussian data with one correlation, and TC(z) of their distribution."""
    generator = torch.Generator().manual_seed(seed)
    cov = torch.full((m, m), rho, dtype=torch.double).fill_diagonal_(1.0)
    x = torch.randn(n, m, generator=generator, dtype=torch.double) @ torch.linalg.cholesky(cov).T
    whole = cov + scale**2 * torch.eye(m, dtype=torch.double)
    truth = float(info.gaussian_total_correlation(whole))
    return x, torch.full_like(x, scale), truth


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_independent_latents_far_above_the_cap(dtype):
    """The old estimate, the sum of the I(z_j:x) less ln N, is the upper end only."""
    loc, scale, _ = gaussian(1000, 20, 0.0, 0.3, 0)
    with pytest.warns(UserWarning, match=r"within one nat of ln N = 6\.91"):
        found = info.aggregate_total_correlation(loc.to(dtype), scale.to(dtype))
    information = 10 * math.log(1 + 1 / 0.09)
    assert found.lower == 0.0
    assert found.held_out.value > -0.3
    assert found.multi_sample.value == pytest.approx(information - math.log(1000), abs=1.0)
    assert found.open


@pytest.mark.parametrize(
    ("n", "m", "rho", "scale", "width"),
    [(400, 2, 0.8, 1.0, 0.3), (1500, 2, 0.8, 0.5, 0.25), (1500, 3, 0.0, 1.0, 0.2)],
)
def test_it_closes_where_the_data_suffice(n, m, rho, scale, width):
    for seed in range(3):
        loc, scales, truth = gaussian(n, m, rho, scale, seed)
        found = info.aggregate_total_correlation(loc, scales, seed=seed)
        assert truth in found
        assert found.upper - found.lower < width
        assert not found.open


@pytest.mark.filterwarnings(FEW)
def test_the_lower_end_stays_near_where_the_upper_cannot():
    loc, scale, truth = gaussian(3000, 20, 0.5, 0.3, 1)
    found = info.aggregate_total_correlation(loc, scale)
    assert truth in found
    assert found.upper > truth + 5  # of I(x:z) = 20 nats, ln N = 8
    assert 0.85 * truth < found.held_out.value < truth + 3 * found.held_out.stderr


@pytest.mark.filterwarnings(FEW)
def test_latents_that_share_a_cluster():
    """Five clusters, within which latents are independent: the truth by sampling the density."""
    generator = torch.Generator().manual_seed(0)
    centre = 3 * torch.randn(5, 6, generator=generator, dtype=torch.double)
    which = torch.randint(5, (3000,), generator=generator)
    loc = centre[which] + 0.3 * torch.randn(3000, 6, generator=generator, dtype=torch.double)
    spread = math.hypot(0.3, 0.4)
    z = centre[torch.randint(5, (100_000,), generator=generator)]
    z = z + spread * torch.randn(z.shape, generator=generator, dtype=torch.double)
    log = torch.distributions.Normal(centre, spread).log_prob(z[:, None])  # (S, 5, 6)
    joint, single = (part.logsumexp(1) - math.log(5) for part in (log.sum(2), log))
    truth = float((joint - single.sum(1)).mean())
    found = info.aggregate_total_correlation(loc, torch.full_like(loc, 0.4))
    assert truth in found
    assert found.held_out.value == pytest.approx(truth, rel=0.03)


def test_discrete_latents():
    """Two latents with three states; against their joint probabilities."""
    logits = torch.randn(100_000, 1, 3, generator=torch.Generator().manual_seed(0))
    probs = torch.cat([logits, 0.5 * logits], 1).mul(2.0).softmax(-1)
    truth = float(info.discrete_total_correlation(
        torch.einsum("ni,nj->ij", probs[:, 0], probs[:, 1]) / len(probs)
    ))  # fmt: skip
    for seed in range(5):
        found = info.aggregate_total_correlation(probs[2000 * seed :][:2000], seed=seed)
        assert truth in found
        assert found.upper - found.lower < 0.15


def test_turned_latents_have_another_tc():
    """Independent ones, turned so that they correlate by 0.6."""
    loc, scale, _ = gaussian(3000, 2, 0.0, 0.7, 0)
    turn = torch.tensor([[1.0, 0.6], [0.0, 0.8]], dtype=torch.double)
    found = info.aggregate_total_correlation(loc, scale, turn=turn)
    assert -0.5 * math.log(1 - 0.6**2) in found
    assert found.upper - found.lower < 0.25
    assert 0.0 in info.aggregate_total_correlation(loc, scale)
    back = torch.linalg.inv(turn)  # they are the latents that were turned
    again = info.aggregate_total_correlation(loc, scale, turn=turn @ back)
    assert again.held_out.value == pytest.approx(
        info.aggregate_total_correlation(loc, scale).held_out.value, abs=1e-6
    )


def test_a_table_of_few_states_is_summed_over():
    """It is TC of the table, less what a datum says of itself, and closer than draws are."""
    probs = torch.rand(4000, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    probs[:, 1] += 2 * probs[:, 0]
    probs /= probs.sum(2, keepdim=True)
    joint = torch.einsum("ni,nj->ij", probs[:, 0], probs[:, 1]) / len(probs)
    truth = float(info.discrete_total_correlation(joint))
    found = info.aggregate_total_correlation(probs)
    assert found.held_out.value < truth < found.multi_sample.value
    assert found.multi_sample.value - found.held_out.value < 4 / 4000
    assert found.held_out.stderr < 0.2 * truth
    alone = torch.eye(3).repeat(4, 1)[:, None].expand(12, 1, 3)
    assert 0.0 in info.aggregate_total_correlation(alone)


def test_copies_of_a_coin():
    coins = torch.randint(2, (1000, 1), generator=torch.Generator().manual_seed(0))
    probs = torch.nn.functional.one_hot(coins.expand(1000, 9), 2).double()
    found = info.aggregate_total_correlation(probs)
    assert 8 * math.log(2) in found
    assert found.upper - found.lower < 0.1


def test_a_single_latent_depends_on_nothing():
    loc, scale, _ = gaussian(1000, 1, 0.0, 0.5, 0)
    found = info.aggregate_total_correlation(loc, scale)
    assert 0.0 in found
    assert found.upper < 0.02


def test_without_a_datum_is_the_direct_sum():
    loc, scale, _ = gaussian(40, 3, 0.5, 0.4, 0)
    source = torch.arange(0, 40, 2)
    z = loc[source] + 0.1
    found = bracket._gaussian(z, loc, scale, source)
    log = torch.distributions.Normal(loc, scale).log_prob(z[:, None])  # (20, 40, 3)
    assert_close(found.joint, log.sum(2).logsumexp(1) - math.log(40))
    log[torch.arange(20), source] = -math.inf
    assert_close(bracket._others(found.joint, found.own.sum(1), 40),
                 log.sum(2).logsumexp(1) - math.log(39))  # fmt: skip
    assert_close(bracket._others(found.marginal, found.own, 40), log.logsumexp(1) - math.log(39))


def test_a_datum_that_is_alone_has_no_others():
    whole = torch.tensor([-3.0, -3.0], dtype=torch.double)
    own = whole + math.log(10) - torch.tensor([0.0, 1e-3], dtype=torch.double)
    assert float(bracket._others(whole, own, 10)[0]) == -math.inf
    assert float(bracket._others(whole, own, 10)[1]) > -math.inf


def test_draws_follow_the_seed_only():
    loc, scale, _ = gaussian(300, 2, 0.8, 1.0, 0)
    state = torch.get_rng_state()
    found = [info.aggregate_total_correlation(loc, scale, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] != found[2]


def test_how_it_is_shown():
    low, high = info.Estimate(1.0, 0.1), info.Estimate(1.5, 0.2)
    found = bracket._bracket(low, high, False)
    assert (found.lower, found.upper) == pytest.approx((0.7, 2.1))
    assert f"{found:.2f}" == "0.70 to 2.10"
    assert repr(found) == (
        "Bracket(0.7 to 2.1 nats: at least 1 ± 0.1 nats by a held-out joint density, at most "
        "1.5 ± 0.2 nats by the aggregate of the data)"
    )
    assert bracket._bracket(info.Estimate(-1.0, 0.1), info.Estimate(-0.9, 0.1), False).upper == 0.0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((torch.zeros(3, 2), torch.ones(3, 2)), "at least 4 draws and 4 data, but got 1024 and 3"),
        ((torch.zeros(9, 2), torch.ones(9, 1)), "loc and scale must have the same shape"),
        ((torch.zeros(9, 2), torch.zeros(9, 2)), "scale is a standard deviation"),
        ((torch.zeros(9, 2),), re.escape("probabilities must have shape (N, m, K)")),
    ],
)
def test_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        info.aggregate_total_correlation(*arguments)


@pytest.mark.parametrize("turn", [torch.ones(2, 2), torch.eye(3)])
def test_refuses_what_is_no_turn(turn):
    with pytest.raises(ValueError, match=r"turn must be an invertible matrix \(2, 2\) for these 2"):
        info.aggregate_total_correlation(torch.zeros(9, 2), torch.ones(9, 2), turn=turn)

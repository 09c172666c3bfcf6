import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal
from torch.testing import assert_close

from pyro_corex import information as info


def pairs(z, loc, scale):
    return Normal(loc, scale).log_prob(z[:, None])


def exact(z, loc, scale):
    """ln p(z) - sum_j ln p(z_j) of every draw, over all data."""
    n = len(loc)
    log_density = pairs(z, loc, scale)
    joint = log_density.sum(2).logsumexp(1) - math.log(n)
    return joint - (log_density.logsumexp(1) - math.log(n)).sum(1)


def encoders(n, m, generator, scale=0.7):
    """Correlated, so that there is a TC(z); with one draw from each."""
    common = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    loc = common + 0.5 * torch.randn(n, m, generator=generator, dtype=torch.float64)
    scale = torch.full_like(loc, scale)
    z = loc + scale * torch.randn(n, m, generator=generator, dtype=torch.float64)
    return z, loc, scale


def column_for_diagonal(log_density, n_data):
    """The known mistake: 1/N in the first column of the weights, and not on their diagonal."""
    weight = info.batch_log_weight(log_density, n_data)
    others, own = weight[0, 1].clone(), weight[0, 0].clone()
    weight.fill_(others)
    weight[:, 0] = own
    joint = (log_density.sum(2) + weight).logsumexp(1)
    return (joint - (log_density + weight[:, :, None]).logsumexp(1).sum(1)).mean()


def test_gaussian_closed_form():
    got = info.gaussian_total_correlation(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    assert got.item() == pytest.approx(-0.5 * math.log(1 - 0.36), rel=1e-6)
    diagonal = torch.diag_embed(torch.tensor([[1.0, 4.0], [1e-6, 1e6]], dtype=torch.float64))
    torch.testing.assert_close(
        info.gaussian_total_correlation(diagonal), torch.zeros(2, dtype=torch.float64)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**31), st.floats(0.01, 100))
def test_gaussian_is_non_negative_and_ignores_scales_and_order(d, seed, factor):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(d, d + 2, generator=g, dtype=torch.float64)
    cov = a @ a.T
    value = info.gaussian_total_correlation(cov)
    assert value >= 0
    stretch = torch.rand(d, generator=g, dtype=torch.float64) * factor + 0.1
    order = torch.randperm(d, generator=g)
    other = info.gaussian_total_correlation((stretch[:, None] * cov * stretch)[order][:, order])
    torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("cov", "match"),
    [
        (torch.ones(2, 3), r"shape \(..., d, d\).*torch.cov"),
        (torch.ones(2), r"shape \(..., d, d\)"),
        (torch.full((2, 2), math.nan), "must be finite"),
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "symmetric"),
        (torch.ones(2, 2), "positive definite"),
    ],
)
def test_gaussian_refuses(cov, match):
    with pytest.raises(ValueError, match=match):
        info.gaussian_total_correlation(cov)


def test_discrete_by_hand():
    copies = torch.zeros(2, 2, 2)
    copies[0, 0, 0] = copies[1, 1, 1] = 0.5
    assert info.discrete_total_correlation(copies).item() == pytest.approx(2 * math.log(2))
    counts = torch.tensor([[3, 1], [1, 3]])
    want = 2 * math.log(2) - math.log(8) + 6 / 8 * math.log(3)
    assert info.discrete_total_correlation(counts).item() == pytest.approx(want, rel=1e-6)
    assert info.discrete_total_correlation(torch.tensor([0.3, 0.7])).item() == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**31))
def test_discrete_is_non_negative_and_zero_for_products(sizes, seed):
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(sizes, generator=g, dtype=torch.float64) + 1e-3
    assert info.discrete_total_correlation(table) >= 0
    product = torch.ones((), dtype=torch.float64)
    for size in sizes:
        product = product[..., None] * (torch.rand(size, generator=g, dtype=torch.float64) + 0.01)
    assert info.discrete_total_correlation(product).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (torch.zeros(0), "empty"),
        (torch.tensor([math.nan]), "must be finite"),
        (torch.tensor([-0.1, 1.1]), "non-negative"),
        (torch.zeros(2, 2), "not all zero"),
    ],
)
def test_discrete_refuses(table, match):
    with pytest.raises(ValueError, match=match):
        info.discrete_total_correlation(table)


def test_sample_of_a_gaussian_is_unbiased_and_knows_its_error(generator):
    cov = 0.5 * torch.ones(4, 4, dtype=torch.float64) + 0.5 * torch.eye(4, dtype=torch.float64)
    factor = torch.linalg.cholesky(cov)
    estimates = []
    for _ in range(400):
        x = torch.randn(60, 4, generator=generator, dtype=torch.float64) @ factor.T
        estimates.append(info.total_correlation(x))
    value = torch.stack([e.value for e in estimates])
    want = info.gaussian_total_correlation(cov).item()
    assert abs(value.mean().item() - want) < 3 * value.std().item() / 20
    stderr = torch.stack([e.stderr for e in estimates]).mean().item()
    assert stderr == pytest.approx(value.std().item(), rel=0.1)
    assert estimates[0].correction == "Wishart (digamma)"


def test_sample_of_discrete_data(generator):
    coin = torch.randint(2, (20_000, 1), generator=generator)
    noisy = coin ^ (torch.rand(20_000, 3, generator=generator) < 0.1).long()
    table = torch.zeros(2, 2, 2, dtype=torch.float64)
    for hidden in (0, 1):
        p = torch.tensor([0.9, 0.1] if hidden == 0 else [0.1, 0.9], dtype=torch.float64)
        table += 0.5 * p[:, None, None] * p[:, None] * p
    got = info.total_correlation(noisy, "discrete")
    want = info.discrete_total_correlation(table).item()
    assert abs(got.value.item() - want) < 3 * got.stderr.item()
    assert 0.003 < got.stderr.item() < 0.01
    assert got.correction == "Miller-Madow"


@pytest.mark.parametrize(
    ("x", "kind", "match"),
    [
        (torch.zeros(3), "gaussian", r"shape \(N, d\)"),
        (torch.zeros(0, 3), "discrete", "empty"),
        (torch.full((9, 1), math.nan), "gaussian", "must be finite"),
        (torch.zeros(3, 2), "knn", 'must be "gaussian" or "discrete".*\'knn\''),
        (torch.zeros(3, 2), "gaussian", "needs more than 3 data, but x has 3"),
        (torch.zeros(9, 2), "gaussian", "constant dimensions"),
        (torch.arange(9.0)[:, None].expand(9, 2), "gaussian", "positive definite"),
    ],
)
def test_sample_refuses(x, kind, match):
    with pytest.raises(ValueError, match=match):
        info.total_correlation(x, kind)


# ---------------------------------------------------------------------- of draws, for training


def correlated(m, rho):
    cov = torch.full((m, m), rho, dtype=torch.double)
    return cov.fill_diagonal_(1.0)


@pytest.mark.parametrize(("n", "m", "rho"), [(64, 5, 0.0), (64, 5, 0.8), (100, 20, 0.5)])
def test_draws_of_a_gaussian_have_its_tc_and_gradient_without_bias(generator, n, m, rho):
    """Of x + s eps: against the closed form and its derivative in ln s, over 300 batches."""
    cov, log_scale = correlated(m, rho), torch.tensor(math.log(0.5), dtype=torch.double)
    log_scale.requires_grad_(True)
    whole = cov + (2 * log_scale).exp() * torch.eye(m, dtype=torch.double)
    want = info.gaussian_total_correlation(whole)
    slope = torch.autograd.grad(want, log_scale)[0]
    want = want.detach()
    factor = torch.linalg.cholesky(cov)
    values, slopes = [], []
    for _ in range(300):
        x, noise = (torch.randn(n, m, generator=generator, dtype=torch.double) for _ in "ab")
        value = info.sample_total_correlation(x @ factor.T + log_scale.exp() * noise)
        values.append(float(value.detach()))
        slopes.append(float(torch.autograd.grad(value, log_scale)[0]))
    for found, truth in ((values, want), (slopes, slope)):
        found = torch.tensor(found)
        error = float(found.std()) / math.sqrt(300)
        assert abs(float(found.mean()) - float(truth)) < 3.5 * error
        assert error < 0.04


def test_draws_fewer_than_four_a_latent_are_shrunk(generator):
    z = torch.randn(10, 8, generator=generator, dtype=torch.double)
    share = 8 / 18
    corr = torch.corrcoef(z.T) * (1 - share) + share * torch.eye(8, dtype=torch.double)
    assert_close(info.sample_total_correlation(z), -0.5 * torch.logdet(corr))


def test_draws_that_are_hopeless_are_no_error(generator):
    z = torch.randn(50, 2, generator=generator).repeat(1, 2)  # copies: TC is infinite
    assert 10 < float(info.sample_total_correlation(z)) < 50
    constant = torch.cat([z, torch.ones(50, 1)], 1)
    assert float(info.sample_total_correlation(constant)) < 50
    assert float(info.sample_total_correlation(z[:1])) == 0.0
    assert float(info.sample_total_correlation(z[:, :1])) == 0.0
    with pytest.raises(ValueError, match="z must have shape"):
        info.sample_total_correlation(z[0])


def test_draws_in_half_precision_and_under_autocast(generator):
    z = torch.randn(500, 3, generator=generator)
    z[:, 1] += z[:, 0]
    want = info.sample_total_correlation(z)
    with torch.autocast("cpu"):
        assert_close(info.sample_total_correlation(z), want, rtol=1e-6, atol=0)
    assert_close(info.sample_total_correlation(z.bfloat16()), want, rtol=0.02, atol=0)


# ---------------------------------------------------------------------- of a minibatch


def test_stratified_densities_are_unbiased_over_all_batches(generator):
    """The mean over every batch that holds datum 0, of p(z_0), is exact to rounding."""
    z, loc, scale = encoders(7, 2, generator)
    density = pairs(z, loc, scale).sum(2).exp()[0]
    batches = [torch.tensor([0, *rest]) for rest in itertools.combinations(range(1, 7), 3)]
    weight = info.batch_log_weight(torch.zeros(4, dtype=torch.float64), 7).exp()[0]
    got = torch.stack([(weight * density[batch]).sum() for batch in batches]).mean()
    torch.testing.assert_close(got, density.mean(), rtol=1e-13, atol=0)
    # the mutant's weights, with another datum in the first column, are far off
    got = torch.stack([(weight * density[batch.flip(0)]).sum() for batch in batches]).mean()
    assert abs(got / density.mean() - 1) > 0.1


def test_stratified_weights_count_every_datum_once():
    for n, batch in ((100, 100), (100, 7), (2, 2)):
        weight = info.batch_log_weight(torch.zeros(batch, dtype=torch.float64), n).exp()
        torch.testing.assert_close(weight.sum(1), torch.ones(batch, dtype=torch.float64))
        torch.testing.assert_close(
            weight.diagonal(), torch.full((batch,), 1 / n, dtype=torch.float64)
        )


def test_stratified_over_random_batches_is_the_full_data_value(generator):
    # the joint density is mostly each draw's own datum, which the mutant gets wrong
    z, loc, scale = encoders(400, 10, generator, scale=0.3)
    want = exact(z, loc, scale).mean().item()
    good, wrong = [], []
    for i in range(400):
        batch = torch.randperm(400, generator=generator)[:200]
        log_density = pairs(z[batch], loc[batch], scale[batch])
        good.append(info.pairwise_total_correlation(log_density, 400))
        if i < 50:
            wrong.append(column_for_diagonal(log_density, 400))
    good, wrong = torch.stack(good), torch.stack(wrong)
    stderr = good.std().item() / 20
    assert stderr < 0.016
    assert abs(good.mean().item() - want) < 3 * stderr
    assert abs(wrong.mean().item() - want) > 20 * stderr  # the mutant is caught


def test_minibatch_of_all_data_is_exact(generator):
    z, loc, scale = encoders(60, 4, generator)
    got = info.minibatch_total_correlation(z, loc, scale, 60)
    torch.testing.assert_close(got, exact(z, loc, scale).mean())
    # weighted: 1/N^2 for 1/N, so that the value is (m - 1) ln N too large
    got = info.minibatch_total_correlation(z, loc, scale, 60, "weighted")
    torch.testing.assert_close(got, exact(z, loc, scale).mean() + 3 * math.log(60))


def test_weighted_by_hand(generator):
    z, loc, scale = encoders(8, 2, generator)
    density = pairs(z, loc, scale).exp()
    joint, marginal = density.prod(2).sum(1) / (8 * 50), density.sum(1) / (8 * 50)
    want = (joint.log() - marginal.log().sum(1)).mean()
    got = info.minibatch_total_correlation(z, loc, scale, 50, method="weighted")
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("method", ["stratified", "weighted"])
def test_minibatch_gradients(generator, method):
    z, loc, scale = (x[:4].clone().requires_grad_() for x in encoders(9, 2, generator))
    assert torch.autograd.gradcheck(
        lambda *a: info.minibatch_total_correlation(*a, 9, method), (z, loc, scale)
    )


@pytest.mark.parametrize("method", ["stratified", "weighted"])
def test_minibatch_in_float32_with_densities_that_underflow(generator, method):
    z, loc, scale = encoders(32, 64, generator, scale=0.01)
    want = info.minibatch_total_correlation(z, loc, scale, 10**6, method)
    z, loc, scale = (x.float().requires_grad_() for x in (z, loc, scale))
    got = info.minibatch_total_correlation(z, loc, scale, 10**6, method)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0)
    got.backward()
    assert all(bool(x.grad.isfinite().all()) for x in (z, loc, scale))


def test_pairwise_for_discrete_latents(generator):
    probs = torch.rand(20, 2, 3, generator=generator, dtype=torch.float64).softmax(2)
    state = torch.randint(3, (20, 2), generator=generator)
    log_density = probs.log()[:, torch.arange(2), state].transpose(0, 1)
    got = info.pairwise_total_correlation(log_density, 20)
    joint = torch.einsum("ni,nj->ij", probs[:, 0], probs[:, 1]) / 20
    ratio = joint.log() - joint.sum(1, keepdim=True).log() - joint.sum(0).log()
    torch.testing.assert_close(got, ratio[state[:, 0], state[:, 1]].mean())


def test_minibatch_runs_without_reading_the_device():
    x = torch.ones(4, 3, device="meta", requires_grad=True)
    for method in ("stratified", "weighted"):
        info.minibatch_total_correlation(x, x, x, 10, method).backward()
    assert x.grad.device.type == "meta"


def test_minibatch_refuses():
    x = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"same shape \(B, m\)"):
        info.minibatch_total_correlation(x, x, x[:, :1], 10)
    with pytest.raises(ValueError, match=r"same shape \(B, m\)"):
        info.minibatch_total_correlation(x[0], x[0], x[0], 10)
    with pytest.raises(ValueError, match="at least 2 data, but got 1"):
        info.minibatch_total_correlation(x[:1], x[:1], x[:1], 10)
    with pytest.raises(ValueError, match="n_data = 3 is less than the batch of 4"):
        info.minibatch_total_correlation(x, x, x, 3)
    with pytest.raises(ValueError, match='"stratified" or "weighted", but got \'mss\''):
        info.minibatch_total_correlation(x, x, x, 10, "mss")
    with pytest.raises(ValueError, match=r"shape \(B, B, m\), but got \(4, 3\)"):
        info.pairwise_total_correlation(x, 10)
    with pytest.raises(ValueError, match=r"shape \(B, B, m\), but got \(4, 3, 1\)"):
        info.pairwise_total_correlation(x[:, :, None], 10)


@pytest.mark.parametrize("method", ["stratified", "weighted"])
@pytest.mark.parametrize("elements", [1, 1 << 16])
def test_gaussian_pairs_in_blocks_are_the_general_way(generator, monkeypatch, method, elements):
    monkeypatch.setattr("pyro_corex.information.pairwise._PAIRS", elements)
    z = torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    loc = torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    scale = (torch.rand(7, 3, generator=generator, dtype=torch.float64) + 0.05).requires_grad_()
    density = torch.distributions.Normal(loc, scale).log_prob(z[:, None])
    want = info.pairwise_total_correlation(density, 50, method)
    got = info.minibatch_total_correlation(z, loc, scale, 50, method)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(3 * value, (z, loc, scale)) for value in (got, want)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_discrete_refuses_rows_that_hardly_repeat(generator):
    x = torch.randn(100, 4, generator=generator)
    with pytest.raises(ValueError, match=r"100 of the 100 rows of x are distinct.*coarser"):
        info.total_correlation(x, kind="discrete")


def test_discrete_knows_that_rows_are_unseen(generator):
    """Independent columns: TC = 0, though a third of the rows occur once."""
    for _ in range(20):
        x = torch.randint(8, (160, 2), generator=generator).double()
        got = info.total_correlation(x, kind="discrete")
        assert float(got.value) < 3 * float(got.stderr)

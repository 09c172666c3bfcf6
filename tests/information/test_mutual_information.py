import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal

from pyro_corex import information as info
from pyro_corex.information import cells, scale_space
from pyro_corex.information.mutual_information import aggregate_entropy

near_cap = pytest.mark.filterwarnings("ignore:I.z_j . x. of")


def random_encoder(seed):
    """One of six sorts of encoder, (N,) each: collapsed, clustered, mixed in scale, ..."""
    g = torch.Generator().manual_seed(seed)
    n = int(torch.randint(2, 90, (), generator=g))

    def normal():
        return torch.randn(n, generator=g, dtype=torch.float64)

    def uniform(size=n):
        return torch.rand(size, generator=g, dtype=torch.float64)

    common = 10 ** (-4 + 5 * uniform(1))
    return [
        lambda: (1e-3 * normal(), 1 + 1e-3 * normal()),
        lambda: (normal(), 10 ** (-4 + 5 * uniform())),
        lambda: ((5 * uniform()).floor() * 10 ** (3 * uniform(1)), common.expand(n)),
        lambda: (normal(), common * (1 + 0.3 * uniform())),
        lambda: (100 * normal(), torch.where(uniform() < 0.5, 1e-4, 10.0)),
        lambda: (
            1.7 * (3 * uniform()).floor(),
            10 ** (uniform(1) - 1) * 2 ** ((2 * uniform()).floor() * 2 * uniform(1)),
        ),
    ][seed % 6]()


@near_cap
def test_gaussian_agrees_with_quadrature_on_100_encoders(quadrature):
    errors, stderr_errors = [], []
    for seed in range(100):
        dtype = (torch.float64, torch.float32)[seed // 6 % 2]
        loc, scale = (x.to(dtype) for x in random_encoder(seed))
        kl = quadrature(loc, scale)
        got = info.gaussian_mutual_information_estimate(loc[:, None], scale[:, None])
        errors.append(abs(got.value.item() - kl.mean()))
        stderr_errors.append(abs(got.stderr.item() - kl.std(ddof=1) / math.sqrt(len(kl))))
    assert max(errors) < 2e-5  # measured: 9.0e-6
    assert max(stderr_errors) < 4e-6  # measured: 1.7e-6


@near_cap
def test_gaussian_extremes():
    n = 100
    apart = torch.arange(n, dtype=torch.float64)[:, None]
    for spread in (1e-300, 1e-12, 1.0, 1e12):
        got = info.gaussian_mutual_information(
            apart * spread, torch.full_like(apart, 0.01 * spread)
        )
        assert got.item() == pytest.approx(math.log(n), abs=1e-5)
    same = torch.zeros(n, 1)
    assert info.gaussian_mutual_information(same, torch.ones(n, 1)).item() < 1e-6
    assert info.gaussian_mutual_information(torch.ones(1, 2), torch.ones(1, 2)).tolist() == [0, 0]
    # far below the resolvable dynamic range: still isolated, still ln N
    tiny = info.gaussian_mutual_information(apart, torch.full_like(apart, 1e-200))
    assert tiny.item() == pytest.approx(math.log(n), abs=1e-5)


@near_cap
@pytest.mark.parametrize("group_keys", [1, 1 << 16])
def test_the_ways_of_finding_occupied_cells_agree(monkeypatch, generator, group_keys):
    loc = torch.randn(500, 7, generator=generator, dtype=torch.float64)
    scale = 10 ** (2 * torch.rand(500, 7, generator=generator, dtype=torch.float64) - 2)
    loc[:, 3], scale[:, 3] = 1e6 * loc[:, 3], 1e-3  # more cells than data: sorted keys
    want = info.gaussian_mutual_information_estimate(loc, scale)
    monkeypatch.setattr(scale_space, "GROUP_KEYS", group_keys)
    monkeypatch.setattr(cells, "GROUP_KEYS", group_keys)
    monkeypatch.setitem(cells._TILE_ELEMENTS, "cpu", 64)
    got = info.gaussian_mutual_information_estimate(loc, scale)
    torch.testing.assert_close(got.value, want.value, rtol=0, atol=1e-12)
    torch.testing.assert_close(got.stderr, want.stderr, rtol=0, atol=1e-12)


def test_groups_side_by_side_give_the_same(monkeypatch, generator):
    loc = torch.randn(300, 130, generator=generator)
    scale = torch.full_like(loc, 0.5)
    want = info.gaussian_mutual_information(loc, scale)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(info.gaussian_mutual_information(loc, scale), want)


def test_gaussian_closed_form(generator):
    # z = x + noise, x standard normal: ln(1 + 1/s^2) / 2, up to sampling
    loc = torch.randn(100_000, 3, generator=generator)
    scale = torch.tensor([0.1, 1.0, 3.0]).expand_as(loc)
    got = info.gaussian_mutual_information_estimate(loc, scale)
    want = 0.5 * torch.log1p(scale[0] ** -2)
    assert bool(((got.value - want).abs() < 3 * got.stderr + 1e-4).all())
    assert got.stderr.max() < 0.003


def test_stderr_is_the_spread_over_data_sets(generator):
    loc = torch.randn(200 * 400, generator=generator).view(200, 400)  # 400 data sets of 200
    got = info.gaussian_mutual_information_estimate(loc, torch.full_like(loc, 0.5))
    assert got.stderr.mean().item() == pytest.approx(got.value.std().item(), rel=0.1)
    assert torch.equal(
        info.gaussian_mutual_information_estimate(
            loc[:, :2], torch.full_like(loc[:, :2], 0.5)
        ).stderr,
        got.stderr[:2],
    )


encoders = st.tuples(st.integers(2, 40), st.integers(0, 2**31), st.floats(-3, 1), st.floats(0, 3))


def draw(encoder):
    n, seed, level, spread = encoder
    g = torch.Generator().manual_seed(seed)
    loc = torch.randn(n, 2, generator=g, dtype=torch.float64)
    rate = level + spread * (torch.rand(n, 2, generator=g, dtype=torch.float64) - 0.5)
    return loc, 10**rate, g


@near_cap
@settings(max_examples=50, deadline=None)
@given(encoders, st.floats(-1e3, 1e3), st.floats(0.01, 100), st.booleans())
def test_gaussian_properties(encoder, shift, factor, mirrored):
    loc, scale, g = draw(encoder)
    value = info.gaussian_mutual_information(loc, scale)
    assert bool(((value >= 0) & (value <= math.log(len(loc)))).all())
    # permuting the data changes nothing but the order of summation
    order = torch.randperm(len(loc), generator=g)
    other = info.gaussian_mutual_information(loc[order], scale[order])
    torch.testing.assert_close(other, value, rtol=0, atol=1e-9)
    # nor does an affine map of a latent, but for the rounding of its cells' positions
    sign = -1 if mirrored else 1
    other = info.gaussian_mutual_information(sign * factor * loc + shift, factor * scale)
    torch.testing.assert_close(other, value, rtol=0, atol=2e-4)  # twice the largest error


@near_cap
@settings(max_examples=30, deadline=None)
@given(encoders)
def test_bounded_by_the_kl_to_any_prior(encoder):
    loc, scale, _ = draw(encoder)
    kl = torch.distributions.kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).mean(0)
    assert bool((info.gaussian_mutual_information(loc, scale) <= kl + 1e-4).all())


def test_leaves_inputs_threads_and_gradients_alone(generator):
    loc = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    scale = torch.full_like(loc, 0.7).requires_grad_()
    before = loc.clone(), scale.detach().clone()
    value = info.gaussian_mutual_information_estimate(loc, scale).value
    assert torch.equal(loc, before[0])
    assert torch.equal(scale.detach(), before[1])
    assert not value.requires_grad
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        again = info.gaussian_mutual_information_estimate(loc.clone(), scale.clone()).value
    assert torch.equal(again, value)
    half = info.gaussian_mutual_information(loc.half(), scale.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), value, rtol=2e-3, atol=0)


def test_non_contiguous_and_strided_inputs(generator):
    loc = torch.randn(6, 400, generator=generator)
    scale = torch.rand(6, 1, generator=generator).expand(6, 400) + 0.1
    got = info.gaussian_mutual_information(loc.T[::2], scale.T[::2])
    want = info.gaussian_mutual_information(loc.T[::2].contiguous(), scale.T[::2].contiguous())
    assert torch.equal(got, want)


def test_aggregate_entropy_of_one_and_of_two():
    scale = torch.tensor([[0.3, 2.0]], dtype=torch.float64)
    got = aggregate_entropy(torch.zeros_like(scale), scale)
    torch.testing.assert_close(got, Normal(0.0, scale[0]).entropy(), rtol=0, atol=1e-5)
    two = aggregate_entropy(torch.tensor([[0.0], [50.0]]), torch.ones(2, 1))
    assert two.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + math.log(2), abs=1e-5)
    assert aggregate_entropy(torch.zeros(2, 1).half(), torch.ones(2, 1).half()).dtype == torch.half


def test_warns_near_the_cap_once():
    loc = torch.arange(50.0)[:, None].expand(50, 3)
    message = r"3 of 3 latents is within 0.5 nats of its cap ln N = 3.91"
    with pytest.warns(UserWarning, match=message) as seen:
        info.gaussian_mutual_information(loc, torch.full((50, 3), 1e-3))
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info.gaussian_mutual_information(loc, torch.full((50, 3), 10.0))


@pytest.mark.parametrize(
    ("loc", "scale", "error", "match"),
    [
        (torch.zeros(3), torch.ones(3), ValueError, r"shape \(N, m\).*x\[:, None\]"),
        (torch.zeros(3, 2), torch.ones(3, 1), ValueError, "same shape.*expand_as"),
        (torch.zeros(0, 2), torch.ones(0, 2), ValueError, "at least 1 data and one latent"),
        (torch.zeros(2, 0), torch.ones(2, 0), ValueError, "at least 1 data and one latent"),
        (torch.zeros(2, 1).long(), torch.ones(2, 1), TypeError, "loc must have a floating dtype"),
        (torch.zeros(2, 1), torch.ones(2, 1).double(), ValueError, "share dtype and device"),
        (torch.tensor([[0.0], [math.nan]]), torch.ones(2, 1), ValueError, "loc must be finite"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [math.inf]]), ValueError, "scale must be finite"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [math.nan]]), ValueError, "scale must be finite"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), ValueError, "must be positive.*softplus"),
        (torch.zeros(2, 1), -torch.ones(2, 1), ValueError, "must be positive"),
    ],
)
def test_gaussian_refuses(loc, scale, error, match):
    for function in (info.gaussian_mutual_information, aggregate_entropy):
        with pytest.raises(error, match=match):
            function(loc, scale)


def test_stderr_needs_two_data():
    with pytest.raises(ValueError, match="at least 2 data"):
        info.gaussian_mutual_information_estimate(torch.zeros(1, 1), torch.ones(1, 1))


def test_categorical_by_hand(generator):
    logits = torch.randn(40, 3, 4, generator=generator, dtype=torch.float64)
    p = logits.softmax(2)
    mean = p.mean(0)
    kl = (p * (p.log() - mean.log())).sum(2)
    got = info.categorical_mutual_information_estimate(p)
    torch.testing.assert_close(got.value, kl.mean(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(got.stderr, kl.std(0) / math.sqrt(40), rtol=0, atol=1e-14)
    torch.testing.assert_close(info.categorical_mutual_information(logits=logits), got.value)


def test_categorical_deterministic_code_is_its_entropy():
    code = torch.arange(30) % 3
    p = torch.nn.functional.one_hot(code, 3).double()[:, None]
    assert info.categorical_mutual_information(p).item() == pytest.approx(math.log(3), abs=1e-14)
    logits = p.log()  # -inf where p is 0
    assert info.categorical_mutual_information(logits=logits).item() == pytest.approx(math.log(3))
    assert info.categorical_mutual_information(torch.ones(5, 2, 1)).tolist() == [0, 0]
    assert math.isnan(info.categorical_mutual_information_estimate(torch.ones(1, 1, 1)).stderr)


def test_categorical_warns_when_the_data_are_the_cap():
    with pytest.warns(UserWarning, match="2 of 2 latents is within 0.5"):
        info.categorical_mutual_information(torch.eye(4)[:, None].expand(4, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "either probs or logits"),
        ({"probs": torch.ones(1, 1, 1), "logits": torch.ones(1, 1, 1)}, "either probs or logits"),
        ({"probs": torch.ones(3, 1)}, r"shape \(N, m, K\).*probs\[:, None\]"),
        ({"logits": torch.ones(3, 1)}, r"shape \(N, m, K\)"),
        ({"logits": torch.tensor(0.0)}, r"shape \(N, m, K\)"),
        ({"probs": torch.ones(0, 1, 2)}, "empty"),
        ({"probs": torch.full((2, 1, 2), math.nan)}, "must be finite"),
        ({"probs": torch.ones(2, 1, 2)}, "sum to 1.*softmax"),
        ({"probs": torch.tensor([[[1.5, -0.5]]])}, "non-negative"),
        ({"logits": torch.full((2, 1, 2), math.nan)}, "logits must not be NaN"),
    ],
)
def test_categorical_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        info.categorical_mutual_information(**arguments)


def test_sampled_agrees_with_quadrature(generator):
    loc = torch.randn(2000, 2, generator=generator)
    scale = torch.full_like(loc, 0.5)
    z = loc + scale * torch.randn(loc.shape, generator=generator)
    got = info.sampled_mutual_information(
        lambda s, t: Normal(loc[t], scale[t]).log_prob(z[s, None]), 2000, 2
    )
    want = info.gaussian_mutual_information(loc, scale)
    assert bool(((got.value - want).abs() < 3 * got.stderr).all())
    assert got.stderr.max() < 0.025


def test_sampled_for_another_encoder(generator):
    p = torch.rand(3000, 2, generator=generator)
    z = torch.bernoulli(p, generator=generator)
    got = info.sampled_mutual_information(
        lambda s, t: Bernoulli(p[t]).log_prob(z[s, None]), 3000, 2
    )
    want = info.categorical_mutual_information(torch.stack([1 - p, p], 2))
    assert bool(((got.value - want).abs() < 3 * got.stderr).all())


def test_sampled_refuses():
    with pytest.raises(ValueError, match="at least 2 data and 1 latent"):
        info.sampled_mutual_information(lambda s, t: torch.zeros(1, 1, 1), 1, 1)
    with pytest.raises(ValueError, match=r"shape \(5, 5, 3\).*but got \(5, 5, 2\)"):
        info.sampled_mutual_information(lambda s, t: torch.zeros(5, 5, 2), 5, 3)


def test_cost_is_linear_in_data_and_latents(monkeypatch, generator):
    """The number of blocks follows the scales and not N; the rest is per element."""
    seen = []
    original = scale_space._tree

    def spy(frame, own):
        seen.append(own.numel())
        return original(frame, own)

    monkeypatch.setattr(scale_space, "_tree", spy)
    blocks = []
    for n in (2_000, 20_000):
        seen.clear()
        loc = torch.rand(n, 4, generator=generator)
        info.gaussian_mutual_information(loc, torch.full_like(loc, 0.05))
        blocks.append(np.sum(seen))
    assert blocks[1] <= blocks[0] + 8

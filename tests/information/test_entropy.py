import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pyro_corex import information as info

# (SciPy's distribution, largest bias at N = 1,000, and at N = 10,000)
CONTINUOUS = [
    (stats.norm(), 2e-3, 1e-3),
    (stats.uniform(), 5e-4, 2e-4),
    (stats.expon(), 3e-3, 1.5e-3),
    (stats.laplace(), 3e-3, 1.5e-3),
]


def sample(distribution, n, d, seed=0):
    draws = distribution.rvs((n, d), random_state=np.random.default_rng(seed))
    return torch.from_numpy(draws)


@pytest.mark.parametrize("distribution", [row[0] for row in CONTINUOUS], ids=lambda d: d.dist.name)
@pytest.mark.parametrize(("n", "d"), [(1_000, 2_000), (10_000, 200)])
def test_continuous_is_nearly_unbiased_and_knows_its_error(distribution, n, d):
    limit = next(row[1 if n == 1_000 else 2] for row in CONTINUOUS if row[0] is distribution)
    got = info.entropy_estimate(sample(distribution, n, d), "continuous")
    spread = got.value.std().item()
    bias = got.value.mean().item() - float(distribution.entropy())
    assert abs(bias) < limit + 3 * spread / math.sqrt(d)
    assert got.stderr.mean().item() == pytest.approx(spread, rel=0.15)
    assert got.kind == "continuous"
    assert got.correction == "spacings (digamma)"


def by_hand(x):
    """The equation of entropy_estimate, in loops, for one cluster of data without ties."""
    x, n, harmonic = np.sort(x), len(x), lambda k: sum(1 / j for j in range(1, k))

    def window(m):
        total = harmonic(n + 1)
        for i in range(n):
            low, high = max(i - m, 0), min(i + m, n - 1)
            total += (math.log(x[high] - x[low]) - harmonic(high - low)) / n
        return total

    return 2 * window(2) - window(4)


def test_continuous_matches_the_equation():
    x = sample(stats.uniform(), 50, 1)
    got = info.marginal_entropy(x, "continuous").item()
    assert got == pytest.approx(by_hand(x[:, 0].numpy()), abs=1e-12)


def test_clusters_are_estimated_apart():
    """H = sum_k p_k (H_k - ln p_k), with the Miller-Madow correction of the shares p_k."""
    parts = [sample(stats.uniform(), n, 1, seed=n)[:, 0].numpy() for n in (50, 30, 20)]
    x = np.concatenate([part + 9 * k for k, part in enumerate(parts)])
    want = sum(len(p) / 100 * (by_hand(p) - math.log(len(p) / 100)) for p in parts) + 2 / 200
    got = info.marginal_entropy(torch.from_numpy(x)[:, None], "continuous").item()
    assert got == pytest.approx(want, abs=1e-12)


CLUSTERS = [  # flat or Gaussian clusters: shares, left ends or means, widths
    (stats.uniform, [0.5, 0.5], [0, 3], [1, 1]),
    (stats.uniform, [0.1, 0.2, 0.3, 0.4], [0, 1e4, 2e4, 3e4], [1, 30, 0.01, 1]),
    (stats.norm, [0.25] * 4, [0, 12, 24, 36], [1] * 4),
    (stats.norm, [0.1, 0.9], [0, 1e4], [1, 0.01]),
    (stats.norm, [1 / 50] * 50, [1e4 * k for k in range(50)], [1] * 50),
]


@pytest.mark.parametrize(("family", "share", "loc", "scale"), CLUSTERS)
@pytest.mark.parametrize(("n", "d"), [(1_000, 200), (10_000, 40)])
def test_gaps_between_clusters_do_not_raise_it(family, share, loc, scale, n, d):
    rng = np.random.default_rng(0)
    share, loc, scale = np.array(share), np.array(loc), np.array(scale)
    k = rng.choice(len(share), (n, d), p=share)
    unit = family().rvs((n, d), random_state=rng)
    got = info.entropy_estimate(torch.from_numpy(loc[k] + scale[k] * unit), "continuous")
    want = float((share * (family().entropy() + np.log(scale) - np.log(share))).sum())
    # compared at the same data, which leaves the bias
    information = -(family().logpdf(unit) - np.log(scale)[k] + np.log(share)[k])
    bias = got.value.numpy() - information.mean(0)
    error = bias.std() / math.sqrt(d)
    assert -(1 + len(share)) / n - 3 * error < bias.mean() < 0.5 / n + 3 * error
    assert ((got.value - want) / got.stderr).max() < 5


def test_what_narrow_windows_cannot_resolve_is_in_the_error():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(50, size=(200, 40)) * 1e3 + rng.random((200, 40)))
    got = info.entropy_estimate(x, "continuous")
    assert got.value.mean() > math.log(50)  # four data to the cluster
    assert ((got.value - math.log(50)) / got.stderr).max() < 3


@pytest.mark.parametrize("per_cell", [0.1, 0.5, 1.5])
def test_rounding_hardly_matters_below_the_limit_of_ties(per_cell):
    x, n = sample(stats.norm(), 2_000, 40), 2_000
    grid = per_cell / (n * 0.4)
    rounded = info.entropy_estimate((x / grid).round() * grid, "continuous")
    exact = info.entropy_estimate(x, "continuous")
    assert ((rounded.value - exact.value).abs() / exact.stderr).mean() < 1


def test_many_values_are_never_put_too_high():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(60, (200, 500), generator=g).double()
    got = info.entropy_estimate(x, "categorical")
    assert ((got.value - math.log(60)) / got.stderr).max() < 3
    coin = info.entropy_estimate(torch.tensor([[0.0], [1.0]]).repeat(50, 1), "binary")
    assert float(coin.value - math.log(2)) < float(coin.stderr)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100))
def test_continuous_under_affine_maps_and_permutations(n, seed, shift, factor):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g, dtype=torch.float64)
    value = info.marginal_entropy(x, "continuous")
    moved = info.marginal_entropy(-factor * x[torch.randperm(n, generator=g)] + shift, "continuous")
    torch.testing.assert_close(moved, value + math.log(factor), rtol=0, atol=1e-7)


@pytest.mark.parametrize("p", [0.5, 0.2, 0.05])
def test_binary_is_nearly_unbiased_and_knows_its_error(p, generator):
    n, d = 500, 20_000
    x = (torch.rand(n, d, generator=generator) < p).double()
    got = info.entropy_estimate(x, "binary")
    want = float(stats.bernoulli(p).entropy())
    spread = got.value.std().item()
    assert abs(got.value.mean().item() - want) < 2 / n**2 / p + 3 * spread / math.sqrt(d)
    if p < 0.5:  # at a half the slope of the entropy is 0, and its error of second order
        assert got.stderr.mean().item() == pytest.approx(spread, rel=0.05)
    assert got.correction == "Miller-Madow"


def test_binary_and_categorical_agree(generator):
    x = torch.rand(300, 5, generator=generator) < torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    binary = info.entropy_estimate(x.double(), "binary")
    categorical = info.entropy_estimate(x.double(), "categorical")
    torch.testing.assert_close(binary.value, categorical.value, rtol=0, atol=1e-12)
    torch.testing.assert_close(binary.stderr, categorical.stderr, rtol=0, atol=1e-12)
    assert binary.value[0] == 0  # a constant, without correction
    assert binary.stderr[[0, 4]].tolist() == [0, 0]


def test_categorical_by_hand():
    x = torch.tensor([[2, 7], [2, 8], [5, 7], [9, 7]])
    want = [1.5 * math.log(2) + 2 / 8, math.log(4) - 0.75 * math.log(3) + 1 / 8]
    got = info.entropy_estimate(x, "categorical")
    torch.testing.assert_close(got.value, torch.tensor(want))
    p = [torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.75, 0.25])]
    spread = [float((q * (q.log() + (q * -q.log()).sum()) ** 2).sum()) for q in p]
    second = torch.tensor([2, 1]) / (2 * 4**2)  # of -chi² / 2N, where the slope is 0
    torch.testing.assert_close(got.stderr, (torch.tensor(spread) / 4 + second).sqrt())


def test_categorical_is_nearly_unbiased(generator):
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    x = weights.expand(4_000, 4).multinomial(400, replacement=True, generator=generator).T
    got = info.entropy_estimate(x, "categorical")
    want = -(weights * weights.log()).sum().item()
    spread = got.value.std().item()
    assert abs(got.value.mean().item() - want) < 1e-4 + 3 * spread / math.sqrt(4_000)
    assert got.stderr.mean().item() == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (torch.tensor([[0.0], [1.0]]), "binary"),
        (torch.tensor([[False], [True]]), "binary"),
        (torch.tensor([[0, 3], [1, 1]]), "categorical"),
        (torch.arange(100.0)[:, None] % 10 / 255, "categorical"),
        (torch.arange(100.0)[:, None], "continuous"),
    ],
)
def test_auto_decides_and_says_so(x, kind, caplog):
    with caplog.at_level(logging.INFO, logger="pyro_corex.information.entropy"):
        got = info.entropy_estimate(x)
    assert got.kind == kind
    assert f"taken as {kind}" in caplog.text
    torch.testing.assert_close(info.marginal_entropy(x), info.marginal_entropy(x, kind))


def test_dtype_follows_the_input():
    assert info.marginal_entropy(torch.randn(9, 2, dtype=torch.float64)).dtype == torch.float64
    assert info.marginal_entropy(torch.randint(3, (9, 2))).dtype == torch.get_default_dtype()
    assert info.marginal_entropy(torch.randn(9, 2).half(), "categorical").dtype == torch.half
    x = torch.randn(9, 2, requires_grad=True)
    assert not info.marginal_entropy(x, "continuous").requires_grad


@pytest.mark.parametrize(
    ("x", "kind", "match"),
    [
        (torch.zeros(3), "auto", r"shape \(N, d\).*got shape \(3,\).*flatten"),
        (torch.zeros(3, 2, 2), "auto", r"flatten a datum's dimensions with x.flatten\(1\)"),
        (torch.zeros(0, 2), "auto", r"empty: got shape \(0, 2\)"),
        (torch.zeros(2, 0), "auto", "empty"),
        (torch.tensor([[math.nan], [1.0]]), "auto", "1 of its 2 entries are NaN or infinite"),
        (torch.tensor([[math.inf], [1.0]]), "binary", "must be finite"),
        (torch.zeros(1, 2), "auto", "at least 2; is x transposed"),
        (torch.zeros(2, 2), "gaussian", "kind must be one of auto, binary.*got 'gaussian'"),
        (torch.tensor([[0.5], [1.0]]), "binary", "1 of 2 entries are neither; binarise"),
        (torch.tensor([[0], [2]]), "binary", "zeros and ones"),
        (torch.zeros(50, 2), "continuous", "2 of 2 dimensions have atoms.*dequantise"),
        (torch.arange(100.0)[:, None] // 3, "continuous", "mostly tied values"),
        (torch.arange(100.0)[:, None].clamp(min=20), "continuous", "1 of 1 dimensions have atoms"),
        (torch.arange(100.0)[:, None].clamp(min=3), "continuous", "1 of 1 dimensions have atoms"),
        (torch.randn(2000, 1) + 1e6, "continuous", "centre them before they are converted"),
        (
            torch.stack([torch.arange(100.0), torch.arange(100.0) % 2], 1),
            "auto",
            "1 of 2 dimensions with ten or more",
        ),
    ],
)
def test_refuses(x, kind, match):
    with pytest.raises(ValueError, match=match):
        info.marginal_entropy(x, kind)


def test_estimate_tells():
    got = info.entropy_estimate(torch.tensor([[0.0], [1.0]]))
    assert repr(got) == ("Estimate(0.94315 ± 0.35 nats, kind='binary', correction='Miller-Madow')")
    got = info.entropy_estimate(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert "2 values in nats, sum 0.94315" in repr(got)
    with pytest.raises(AttributeError):
        got.kind = "other"

"""A mean over data plus their entropies, and its standard error."""

import math

import pytest
import torch

from pyro_corex import information as info
from pyro_corex.information.entropy import mean_with_entropies, summed_surprisal


@pytest.mark.parametrize("kind", ["binary", "categorical", "continuous"])
def test_surprisals_average_to_the_entropies(kind):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=g)
    x = {"binary": (x > 0.5).float(), "categorical": x.round(), "continuous": x}[kind]
    total, excess, drift, noise = summed_surprisal(x, kind)
    assert total.shape == (4000,)
    assert total.dtype == torch.float64
    entropy = info.marginal_entropy(x.double(), kind).sum()
    assert float(total.mean()) == pytest.approx(float(entropy), abs=0.005)
    assert float(excess) < 0  # neighbours share their spacings; frequencies lack a slope
    assert abs(float(drift)) <= 4 * math.sqrt(float(noise))


@pytest.mark.parametrize("kind", ["binary", "categorical", "continuous"])
def test_surprisals_are_each_datum_s_own(kind):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 1, generator=g)
    p = {
        "binary": (lambda v: torch.where(v > 0, 0.5, 0.5)),
        "categorical": None,
        "continuous": lambda v: torch.exp(-0.5 * v**2) / math.sqrt(2 * math.pi),
    }[kind]
    if kind == "categorical":
        x = (x > 1).float() + 1
        share = (x == 2).double().mean()
        want = -torch.where(x == 2, share, 1 - share).log()
    else:
        x = (x > 0).float() if kind == "binary" else x
        want = -p(x.double()).log()
    found = summed_surprisal(x, kind).total
    order = torch.randperm(5000, generator=g)
    permuted = summed_surprisal(x[order], kind).total
    torch.testing.assert_close(permuted, found[order])
    assert float((found - want[:, 0]).abs().mean()) < (0.32 if kind == "continuous" else 0.02)
    assert (
        torch.corrcoef(torch.stack([found, want[:, 0].double()]))[0, 1] > 0.85 or kind == "binary"
    )


def test_blocks_of_columns_make_no_difference(monkeypatch):
    x = torch.randn(100, 7, generator=torch.Generator().manual_seed(0))
    whole = summed_surprisal(x, "continuous")
    monkeypatch.setattr("pyro_corex.information.entropy._ELEMENTS", 200)
    blocks = summed_surprisal(x, "continuous")
    torch.testing.assert_close(blocks, whole)


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_standard_error_is_the_spread_over_data_sets(kind):
    """The entropies cancel most of the noise of the mean; neither alone would tell."""
    g = torch.Generator().manual_seed(0)
    n, d, found = 1000, 5, []
    for _ in range(100):
        z = torch.randn(n, 1, generator=g, dtype=torch.float64)
        x = z + 0.7 * torch.randn(n, d, generator=g, dtype=torch.float64)
        if kind == "binary":
            x = (x > 0.3).double()
            rows = (x * 2 ** torch.arange(d)).sum(1).long()
            p = rows.bincount(minlength=2**d) / n
            log_p = p[rows].log()
        else:
            cov = torch.ones(d, d) + 0.49 * torch.eye(d)
            log_p = torch.distributions.MultivariateNormal(
                torch.zeros(d, dtype=torch.float64), cov.double()
            ).log_prob(x)
        found.append(info.mean_with_entropies(log_p, [(x, kind, 1.0)]))
    value = torch.stack([e.value for e in found])
    stderr = torch.stack([e.stderr for e in found]).mean()
    assert float(stderr) == pytest.approx(float(value.std()), rel=0.25)
    alone = info.entropy_estimate(x, kind).stderr.square().sum().sqrt()
    assert float(alone) > 0
    if kind == "continuous":
        truth = float(info.gaussian_total_correlation(cov.double()))
        assert float(value.mean()) == pytest.approx(truth, abs=0.03)


def test_a_sign_takes_entropies_off():
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(500, 2, generator=g), torch.randn(500, generator=g)
    both = info.mean_with_entropies(t, [(x, "continuous", 1.0), (x, "continuous", -1.0)])
    assert float(both.value) == pytest.approx(float(t.double().mean()), abs=1e-6)


def test_errors():
    x = torch.randn(10, 2)
    with pytest.raises(ValueError, match=r"shape \(N,\) with N >= 2, but got \(10, 2\)"):
        info.mean_with_entropies(x, [])
    with pytest.raises(ValueError, match="is of 9 data, but the entropies are of 10"):
        info.mean_with_entropies(x[:9, 0], [(x, "continuous", 1.0)])


def test_bits_are_counted_as_categories_are():
    """One of them is the same for all data."""
    x = torch.cat([torch.bernoulli(torch.tensor([[0.1, 0.5, 0.9]] * 300)), torch.ones(300, 1)], 1)
    binary, categorical = (summed_surprisal(x, kind) for kind in ("binary", "categorical"))
    for one, other in zip(binary, categorical, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_entropies_that_are_known_are_not_computed_again():
    x, known = torch.randn(200, 3), {}
    first = mean_with_entropies(x[:, 0], [(x, "continuous", 1.0)], known)
    (data, total, influence) = known[id(x), "continuous"]
    assert data is x
    known[id(x), "continuous"] = x, total + 1.0, influence
    again = mean_with_entropies(x[:, 0], [(x, "continuous", 1.0)], known)
    assert float(again.value) == pytest.approx(float(first.value) + 1.0)
    assert float(again.stderr) == float(first.stderr)

"""The linear AnchorVAE in closed form."""

import math

import pytest
import torch

from pyro_corex.information import lead_weight, linear_optimum

SPECTRUM = [4.0, 2.0, 1.0, 0.3, 0.02]
WEIGHTS = [1.0, 0.5, 1.0, 0.25]


def data(spectrum, n=400):
    """Whose covariance has this spectrum exactly."""
    x = torch.randn(n, len(spectrum), dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q * n**0.5  # uncorrelated, of variance 1
    rotation = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum)).double()).Q
    return x * torch.tensor(spectrum).double().sqrt() @ rotation


def objective(x, scale, weights, up, noise, down):
    """Expected reconstruction and weighted KL of linear programs, in closed form."""
    z = x @ up.T
    error = (x - z @ down.T).square().sum(1).mean() + (noise.exp() ** 2 * down.square()).sum()
    d = x.shape[1]
    reconstruction = -d / 2 * math.log(2 * math.pi * scale**2) - error / (2 * scale**2)
    kl = 0.5 * (z.square().mean(0) + (2 * noise).exp() - 1) - noise
    return reconstruction, kl


@pytest.mark.parametrize("weights", [WEIGHTS, [1.0] * 4, [0.5] * 2 + [1.0] * 4])
def test_gradient_descent_finds_it(weights):
    """From random weights, on the expectations that sampling would only estimate."""
    x, scale, m = data(SPECTRUM), 0.3, len(weights)
    found = linear_optimum(x, scale, weights)
    w = torch.tensor(weights).double()
    up, down = (0.3 * torch.randn(m, 5).double() for _ in range(2))
    parts = [up.requires_grad_(), torch.zeros(m).double().requires_grad_()]
    parts.append(down.T.contiguous().requires_grad_())
    options = {"max_iter": 3000, "tolerance_grad": 1e-10, "tolerance_change": 0}
    optimiser = torch.optim.LBFGS(parts, line_search_fn="strong_wolfe", **options)

    def loss():
        optimiser.zero_grad()
        reconstruction, kl = objective(x, scale, w, *parts)
        value = -(reconstruction - (w * kl).sum())
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        reconstruction, kl = objective(x, scale, w, *parts)
    right = torch.zeros(m).double()  # among equal weights in any order
    for each in sorted(set(weights)):
        same = w == each
        right[same] = found.information[same].sort(descending=True).values
        kl = kl.masked_scatter(same, kl[same].sort(descending=True).values)
    torch.testing.assert_close(kl, right, rtol=0, atol=1e-4)
    assert float(reconstruction - kl.sum()) == pytest.approx(found.elbo, abs=1e-4)


def test_numbers_by_hand():
    found = linear_optimum(data(SPECTRUM), 0.5, WEIGHTS)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([1.0, 2.0, 0.3, 4.0]).double())
    by_hand = [math.log(v / (w * 0.25)) / 2 for v, w in zip([1, 2, 0.3, 4], WEIGHTS, strict=True)]
    torch.testing.assert_close(found.information, torch.tensor(by_hand).double())
    kept = [1 - w * 0.25 / v for v, w in zip([1, 2, 0.3, 4], WEIGHTS, strict=True)]
    torch.testing.assert_close(found.kept, torch.tensor(kept).double())
    unused = linear_optimum(data(SPECTRUM), 1.2, [1.0] * 7)
    assert (unused.information > 0).tolist() == [True, True, False, False, False, False, False]
    assert unused.kept[2:].abs().max() < 1e-9
    assert "2 of 7 latents used" in repr(unused)


def test_more_dimensions_than_data():
    x = torch.cat([data(SPECTRUM, 60), torch.zeros(60, 200).double()], 1)
    small, large = (linear_optimum(each, 0.5, WEIGHTS) for each in (x[:, :5], x))
    torch.testing.assert_close(large.information, small.information)
    assert large.elbo == pytest.approx(small.elbo - 100 * math.log(2 * math.pi * 0.25))


def test_a_lead_in_nats():
    before, after = (
        linear_optimum(data(SPECTRUM), 0.2, [w, 1.0]).information[0]
        for w in (1.0, lead_weight(0.7))
    )
    assert float(after - before) == pytest.approx(0.7)

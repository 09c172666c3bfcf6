import math

import pytest
import torch

from benchmarks.scores_by_drawing import beta_vae_score, factor_vae_score
from pyro_corex.evaluation import (
    dci,
    factor_information,
    matched_information,
    mutual_information_gap,
)

N, K = 6_000, 4
KINDS = ("perfect", "noise", "rotated")


@pytest.fixture(scope="module")
def factors():
    return torch.rand(N, K, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rotation(k):
    q, _ = torch.linalg.qr(torch.randn(k, k, generator=torch.Generator().manual_seed(5)))
    return q


def codes_of(kind, factors, seed=1):
    """Six latents: the factors in another order and sense and two of noise, or else."""
    noise = torch.randn(len(factors), 6, generator=torch.Generator().manual_seed(seed))
    if kind == "noise":
        return noise
    z = factors @ rotation(K) if kind == "rotated" else factors[:, [2, 0, 3, 1]] * -3.0
    return torch.cat([z, 1e-3 * noise[:, :2]], 1)


def test_factor_information_of_known_pairs(factors):
    half = (factors[:, 1] > factors[:, 1].median()).float()
    z = torch.stack([factors[:, 0], half, torch.zeros(N)], 1)
    table = factor_information(z, factors[:, :2])
    assert table[0, 0].item() == pytest.approx(math.log(20), abs=1e-6)
    assert table[2].tolist() == [0, 0]
    assert table[1, 1].item() == pytest.approx(math.log(2), abs=1e-4)  # a bit
    bias = 19**2 / (2 * N)  # of an independent pair
    assert table[0, 1].item() == pytest.approx(bias, rel=0.3)


def test_gaussian_pairs_come_near_their_closed_form():
    z = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    want = -0.5 * math.log(1 - 0.8**2)
    got = factor_information(z[:, :1], z[:, 1:]).item()
    assert want - 0.03 < got < want  # bins lose a little


def test_matching_finds_the_permutation(factors):
    found = matched_information(codes_of("perfect", factors), factors)
    assert found.latents.tolist() == [1, 3, 0, 2]
    assert found.mean == pytest.approx(1.0, abs=1e-6)
    assert repr(found).startswith("Matching(mean 1.000 ± 0.000; by factor: 1.00 (z1), 1.00 (z3)")
    some = matched_information(codes_of("perfect", factors), factors, latents=[5, 4, 3, 1])
    assert some.latents[:2].tolist() == [1, 3]
    assert set(some.latents[2:].tolist()) == {4, 5}
    assert some.values[2:].max() < 0.05
    with pytest.raises(ValueError, match="2 latents cannot be matched one to one with 4 factors"):
        matched_information(codes_of("perfect", factors), factors, latents=[0, 1])


def test_matching_is_one_to_one_and_the_best():
    """A greedy choice takes the first factor's best latent and leaves the second none."""
    f = torch.rand(N, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(N, 2, generator=torch.Generator().manual_seed(1))
    z = torch.stack([f[:, 0] + 0.02 * f[:, 1], f[:, 0] + 0.1 * noise[:, 0]], 1)
    z[:, 0] = torch.where(noise[:, 1] < 0.5, f[:, 0], f[:, 1])
    found = matched_information(z, f)
    assert found.latents.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("perfect", 0.95, 1.0), ("noise", 0.0, 0.01), ("rotated", 0.0, 0.25)]
)
def test_mig(factors, kind, low, high):
    assert low <= mutual_information_gap(codes_of(kind, factors), factors) <= high


def test_dci(factors):
    factors = factors[:1500]
    x = {k: dci(codes_of(k, factors), factors, n_estimators=10) for k in KINDS}
    assert x["perfect"].disentanglement > 0.97
    assert x["perfect"].completeness > 0.97
    assert x["perfect"].informativeness > 0.99
    assert x["noise"].disentanglement < 0.05
    assert x["noise"].completeness < 0.05
    assert x["noise"].informativeness < 0.02
    assert x["rotated"].disentanglement < 0.5
    assert x["rotated"].completeness < 0.5
    assert x["rotated"].informativeness > 0.8  # all is there, but mixed


@pytest.mark.parametrize("score", [beta_vae_score, factor_vae_score])
def test_scores_by_drawing(score):
    values = {
        kind: score(lambda f, k=kind: codes_of(k, f), K, n_train=300, n_test=300, pairs=32)
        for kind in KINDS
    }
    assert values["perfect"] > 0.98
    assert values["noise"] < 0.4  # chance is 1/4
    assert values["noise"] < values["rotated"] < values["perfect"]


def test_the_factor_vae_score_leaves_dead_latents_out():
    def represent(f):
        return torch.cat([f, 1e-6 * torch.randn(len(f), 1)], 1)

    assert factor_vae_score(represent, K, n_train=200, n_test=200) > 0.98


def test_refuses(factors):
    z = codes_of("noise", factors)
    for call, match in (
        (lambda: factor_information(z[0], factors), r"codes must have shape \(N, columns\)"),
        (lambda: factor_information(z[:5], factors), "have 5 and 6000 rows"),
        (lambda: factor_information(z * math.nan, factors), "codes must be finite"),
        (lambda: factor_information(z, factors, bins=1), "bins must be at least 2"),
        (lambda: factor_information(z, factors * 0), "factor 0 is constant"),
        (lambda: mutual_information_gap(z[:, :1], factors), "at least two latents"),
        (lambda: dci(z[:5], factors[:5]), "at least 8 data"),
        (lambda: beta_vae_score(lambda f: f[:3], K), r"codes of shape \(2048, m\)"),
        (lambda: factor_vae_score(lambda f: f, 1), "n_factors must be at least 2"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    for score in (factor_information, matched_information, mutual_information_gap, dci):
        with pytest.raises(TypeError, match=r"codes must hold real numbers, but holds <U"):
            score(z.numpy().astype(str), factors)


@pytest.mark.parametrize(("n", "m", "bins"), [(60, 5, 20), (300, 40, 20), (300, 5, 4)])
def test_matching_is_fair_to_few_data(n, m, bins):
    """Latents that know nothing have 0 on average, however many there are to choose from."""
    found = []
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        f, z = torch.rand(n, 3, generator=g), torch.randn(n, m, generator=g)
        found.append(matched_information(z, f, bins=bins))
    errors = torch.stack([each.values / each.stderr for each in found])
    assert errors.abs().max() < 4.5
    assert abs(errors.mean()) < 4 * errors.numel() ** -0.5
    assert all(abs(each.mean) < 4 * each.mean_stderr for each in found)
    same = matched_information(f.flip(1), f, bins=bins)  # all is known
    assert same.latents.tolist() == [2, 1, 0]
    assert same.values.tolist() == pytest.approx([1, 1, 1])
    assert same.stderr.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_as_many_bins_as_data_tell_nothing():
    g = torch.Generator().manual_seed(0)
    f, z = torch.rand(20, 1, generator=g), torch.randn(20, 2, generator=g)
    with pytest.raises(ValueError, match="20 data in up to 20 bins tell nothing"):
        matched_information(z, f)

"""Anchors that begin at the leading directions of the data."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import pyro_corex as pc
from pyro_corex import AggregatePosterior, AnchorVAE, start_anchors
from pyro_corex.information import linear_optimum
from pyro_corex.programs import NormalLikelihood, conv_decoder, conv_encoder, mlp_encoder

ANCHORS = {3: 0.5, 1: 0.25}
LINEAR = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "linear.py"))


@pytest.fixture
def x():
    spread = torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5, 0.2])
    return torch.randn(600, 6) * spread @ torch.linalg.qr(torch.randn(6, 6)).Q + 1.0


def make(encoder=None, **options):
    encoder = nn.Linear(6, 8) if encoder is None else encoder
    options = {"likelihood": NormalLikelihood(0.5), **options}
    return AnchorVAE(encoder, nn.Linear(4, 6), 4, **{"anchors": ANCHORS, **options})


def test_they_begin_where_a_linear_program_ends(x):
    vae, wanted = make(), linear_optimum(x, 0.5, [1.0, 0.25, 1.0, 0.5])
    before = torch.get_rng_state()
    start_anchors(vae, x, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    known = AggregatePosterior.from_data(vae, x)
    for anchor in ANCHORS:
        assert float(known.variance[anchor]) == pytest.approx(1, abs=0.01)
        information = known.mutual_information()[anchor]
        assert float(information) == pytest.approx(float(wanted.information[anchor]), abs=0.02)
    q = vae.encode(x)
    assert abs(float(torch.corrcoef(q.loc[:, [1, 3]].detach().T)[0, 1])) < 0.02


def test_they_lead_when_trained(x):
    """With the information of the closed form, after 180 steps."""
    vae, wanted = make(mlp_encoder([6, 16, 4])), linear_optimum(x, 0.5, [1.0, 0.25, 1.0, 0.5])
    start_anchors(vae, x, progress=False)
    pc.fit(vae, x, epochs=36, lr=1e-2, progress=False)
    known = AggregatePosterior.from_data(vae, x).mutual_information()
    assert known.argsort(descending=True)[:2].tolist() == [1, 3]
    torch.testing.assert_close(
        known[[1, 3]], wanted.information[[1, 3]].to(known), rtol=0, atol=0.15
    )


@pytest.mark.parametrize("seed", list(LINEAR["SPECTRA"])[::2])
def test_trained_linear_programs_have_the_information_of_the_closed_form(seed):
    """Within 0.02 nats, for three patterns of weights.  The data have the spectrum exactly."""
    for name in LINEAR["WEIGHTS"]:
        information = LINEAR["train"](seed, name, "leading")
        assert LINEAR["row"](seed, name, "leading", information)["off"] < 0.02


def test_images_pairs_and_other_likelihoods(x):
    images = torch.rand(30, 1, 8, 8).round()
    networks = conv_encoder((1, 8, 8), 3, [4]), conv_decoder(3, (1, 8, 8), [4])
    vae = AnchorVAE(*networks, 3, anchors={0: 0.5})
    start_anchors(vae, images.numpy(), steps=2, progress=False)
    assert vae.encode(images).batch_shape == (30, 3)
    pc.fit(vae, images, epochs=1, progress=False)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(6, 4)

        def forward(self, x):
            return self.network(x), torch.ones(len(x), 4)

    paired = make(Pair())
    start_anchors(paired, x, steps=2, progress=False)
    assert bool((paired.encode(x).scale[:, [0, 2]] == 1).all())


def test_a_started_program_is_kept(x, tmp_path):
    vae, other = make(), make()
    for each in (vae, other):
        start_anchors(each, x, progress=False)
    pc.fit(vae, x, epochs=1, progress=False)
    pc.save(vae, tmp_path / "vae.pt")
    pc.load(tmp_path / "vae.pt", other)
    torch.testing.assert_close(other.encode(x).loc, vae.encode(x).loc)

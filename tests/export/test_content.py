"""The numbers and pictures behind the report, against what they are defined by."""

import pytest
import torch

import pyro_corex as pc
from pyro_corex.batches import Batch
from pyro_corex.export.content import IMAGES, REACH, STEPS, gather
from pyro_corex.export.evaluated import evaluate
from pyro_corex.export.pictures import film
from pyro_corex.programs import CategoricalLikelihood, mlp_decoder, mlp_encoder


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    networks = mlp_encoder([6, 3]), mlp_decoder([3, 6])
    vae = pc.AnchorVAE(*networks, 3, anchors={1: 0.2}, likelihood="learned_normal")
    x = torch.randn(300, 1) + 0.5 * torch.randn(300, 6)
    pc.fit(vae, x, epochs=5, lr=0.02, progress=False)
    return vae, x


@pytest.fixture(scope="module")
def stack():
    torch.manual_seed(0)
    module = pc.StackedCorEx([(6, 8, 4), (4, 3)], n_classes=3)
    return module, torch.bernoulli(torch.rand(200, 1).expand(200, 6))


def content(case, *, images=True, **options):
    module, x = case
    found = evaluate(module, Batch.of(x), batch_size=128, seed=0)
    options = {"n_traversals": 9, "batch_size": 128, "seed": 0, **options}
    return gather(module, found, images=images, **options)


def test_latents_are_those_of_the_aggregate_posterior(vae):
    module, x = vae
    (found,) = content(vae).latents
    post = pc.AggregatePosterior.from_data(module, x)
    assert found.site == "z"
    torch.testing.assert_close(found.information, post.mutual_information())
    torch.testing.assert_close(found.variance, post.variance)
    assert found.weight.tolist() == pytest.approx([1.0, 0.2, 1.0])
    assert found.total_correlation.held_out == post.total_correlation().held_out
    assert not found.discrete


def test_traversals_go_by_what_latents_know(vae):
    (found,), made = content(vae).latents, content(vae).traversals
    assert [t.latent for t in made] == found.information.argsort(descending=True).tolist()
    assert [t.information for t in made] == sorted(found.information.tolist(), reverse=True)
    assert len(content(vae, n_traversals=2).traversals) == 2


def test_a_traversal_moves_one_latent_in_standard_deviations(vae):
    module, x = vae
    post = pc.AggregatePosterior.from_data(module, x)
    made = content(vae).traversals[1]
    rows = torch.linspace(0, len(x) - 1, IMAGES).round().long()
    with torch.no_grad():
        for k in (0, STEPS // 2, STEPS - 1):
            z = module.encode(x[rows]).mean
            step = (2 * k / (STEPS - 1) - 1) * REACH
            z[:, made.latent] = post.mean[made.latent] + step * post.variance[made.latent].sqrt()
            torch.testing.assert_close(made.frames[k], module.decode(z).mean)
    assert (made.positions[0], made.positions[-1]) == ("-3.0 sd", "+3.0 sd")


def test_a_discrete_top_comes_first_and_has_a_frame_for_each_class(stack):
    module, _ = stack
    z1, z2 = content(stack).latents
    assert (z1.site, z2.site) == ("z1", "z2")
    assert z2.discrete
    top, *rest = content(stack).traversals
    assert top.latent is None
    assert top.frames.shape == (3, IMAGES, 6)
    with torch.no_grad():
        means = module.decode(module.given_top(torch.arange(3)).mean, layer=1).mean
    spread = (top.frames.mean(1) - means).abs().max()
    assert spread < (top.frames.amax(1) - top.frames.amin(1)).max()
    assert {t.site for t in rest} == {"z1"}


def test_frames_of_a_lower_layer_are_decoded_from_it(stack):
    module, x = stack
    made = next(t for t in content(stack).traversals if t.site == "z1")
    post = pc.AggregatePosterior.from_data(module, x, layer=0)
    rows = torch.linspace(0, len(x) - 1, IMAGES).round().long()
    with torch.no_grad():
        z = module.encode(x[rows])[0].mean
        z[:, made.latent] = post.mean[made.latent]
        middle = module.decode(z, layer=1).mean
    torch.testing.assert_close(made.frames[STEPS // 2], middle)


def test_samples_come_from_the_two_distributions(vae):
    """Of a decoder that gives the latents themselves, and anchors that spread beyond the prior."""
    module, x = vae
    found = content(vae, images=False).samples
    assert set(found) == {"the prior", "the product of the marginals"}
    assert all(drawn.shape == (len(x), 6) for drawn in found.values())
    post = pc.AggregatePosterior.from_data(module, x)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = {
            "the prior": module.decode(torch.randn(20_000, 3)).sample().var(0),
            "the product of the marginals": module.decode(post.sample(20_000)).sample().var(0),
        }
    for kind, drawn in found.items():
        ratio = drawn.var(0) / expected[kind]
        assert (ratio - 1).abs().max() < 5 * (2 / len(x)) ** 0.5


def test_states_are_shown_as_numbers():
    decoder = mlp_decoder([2, 6], n_params=3)
    module = pc.CorExVAE(mlp_encoder([6, 2]), decoder, 2, likelihood=CategoricalLikelihood(3))
    x = torch.randint(0, 3, (50, 6)).float()
    made = content((module, x), images=False).traversals[0]
    assert made.frames.min() >= 0
    assert made.frames.max() <= 2


def test_a_film_has_its_frames_below_each_other():
    import base64
    import io

    from matplotlib.image import imread

    frames = torch.zeros(3, 5, 6)
    frames[1] = 1.0
    address, aspect = film(frames, (1, 2, 3), columns=4)
    picture = imread(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    height, width = picture.shape[:2]
    assert (height, width) == (3 * 2 * 4, 4 * 5)  # two rows a frame, the second with one image
    assert aspect == pytest.approx(width / (height / 3))
    ink = [float(picture[8 * k + 1, 1, 0]) for k in range(3)]
    assert ink == [1.0, 0.0, 1.0]

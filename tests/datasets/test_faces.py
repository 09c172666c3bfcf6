import pytest
import torch

from pyro_corex.datasets import FACE_FACTORS, draw_faces, synthetic_faces


def test_the_seed_decides():
    images, factors = synthetic_faces(70, 3)
    again, same = synthetic_faces(70, 3)
    assert torch.equal(images, again)
    assert torch.equal(factors, same)
    assert images.shape == (70, 3, 64, 64)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.1
    assert 0.9 < images.max() <= 1
    other, _ = synthetic_faces(70, 4)
    assert not torch.equal(images, other)
    state = torch.get_rng_state()
    synthetic_faces(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_factors_are_uniform_and_independent():
    _, factors = synthetic_faces(5_000, 0, size=1)
    assert factors.shape == (5_000, len(FACE_FACTORS))
    torch.testing.assert_close(factors.mean(0), torch.zeros(5), rtol=0, atol=0.035)
    torch.testing.assert_close(factors.var(0), torch.full((5,), 1 / 3), rtol=0, atol=0.02)
    assert (torch.corrcoef(factors.T) - torch.eye(5)).abs().max() < 0.05


@pytest.mark.parametrize("factor", range(5))
def test_each_factor_changes_the_image_smoothly(factor):
    factors = torch.zeros(41, 5)
    factors[:, factor] = torch.linspace(-1, 1, 41)
    images = draw_faces(factors)
    steps = (images[1:] - images[:-1]).flatten(1).norm(dim=1)
    whole = (images[-1] - images[0]).norm()
    assert whole > 2
    assert steps.min() > 0
    assert steps.max() < 0.35 * whole


def test_symmetry_of_a_face_that_looks_ahead():
    image = draw_faces(torch.zeros(1, 5))
    torch.testing.assert_close(image, image.flip(-1), rtol=0, atol=1e-5)
    turned = torch.zeros(2, 5)
    turned[:, 1] = torch.tensor([-0.7, 0.7])
    left, right = draw_faces(turned)
    torch.testing.assert_close(left, right.flip(-1), rtol=0, atol=1e-4)
    turned[:, 1], turned[:, 4] = 0, torch.tensor([-0.7, 0.7])  # the light
    left, right = draw_faces(turned)
    torch.testing.assert_close(left, right.flip(-1), rtol=0, atol=1e-4)
    assert (left - right).abs().mean() > 0.03


def test_skin_and_hair_do_what_they_say():
    factors = torch.zeros(2, 5)
    factors[:, 0] = torch.tensor([-1.0, 1.0])
    light, dark = draw_faces(factors)[:, :, 36:44, 26:38].mean((1, 2, 3))
    assert light > dark + 0.2
    factors = torch.zeros(2, 5)
    factors[:, 3] = torch.tensor([-1.0, 1.0])
    little, much = (draw_faces(factors).mean(1) < 0.2).sum((1, 2)).tolist()
    assert much > 1.5 * little


def test_nuisance_moves_the_face_and_colours_the_wall():
    factors, nuisance = torch.zeros(2, 5), torch.zeros(2, 5)
    nuisance[1, 0] = 1.0
    plain, moved = draw_faces(factors, nuisance)
    across = torch.arange(64.0)
    dark = [(image.mean(0) < 0.2).float().sum(0) for image in (plain, moved)]
    centres = [float((d * across).sum() / d.sum()) for d in dark]
    assert centres[1] - centres[0] == pytest.approx(0.03 * 32, abs=0.15)
    nuisance = torch.zeros(2, 5)
    nuisance[1, 2] = 1.0
    corner = draw_faces(factors, nuisance)[:, :, 0, 0]
    torch.testing.assert_close(corner[1] - corner[0], torch.tensor([0.05, 0, 0]), rtol=0, atol=1e-6)


def test_refuses():
    for call, match in (
        (lambda: draw_faces(torch.full((1, 5), 1.5)), r"\[-1, 1\], but got torch.float32 from 1.5"),
        (lambda: draw_faces(torch.full((1, 5), float("nan"))), r"in \[-1, 1\], but got .* nan"),
        (lambda: draw_faces(torch.zeros(1, 5, dtype=torch.long)), "floating-point numbers"),
        (lambda: synthetic_faces(0), "n must be an integer >= 1, but got 0"),
        (lambda: synthetic_faces(1, size=0), "size must be an integer >= 1"),
        (
            lambda: draw_faces(torch.zeros(5)),
            r"factors must have.*\(n, 5\), but got \(5,\)",
        ),
        (lambda: draw_faces(torch.zeros(2, 5), torch.zeros(3, 5)), r"nuisance must have the shape"),
    ):
        with pytest.raises(ValueError, match=match):
            call()

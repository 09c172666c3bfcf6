import pytest
import torch

from pyro_corex.datasets import PrincipalComponents, independent_directions


def draw(n: int = 400) -> torch.Tensor:
    """Images of 2 x 3 x 4 with three directions of variance, and a little noise."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(n, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])
    images = 0.5 + weights @ torch.randn(3, 24, generator=generator)
    return (images + 0.01 * torch.randn(n, 24, generator=generator)).unflatten(1, (2, 3, 4))


def test_they_are_those_of_the_covariance():
    images = draw()
    found = PrincipalComponents.of(images, 3)
    values, vectors = torch.linalg.eigh(torch.cov(images.flatten(1).T))
    overlap = (vectors[:, -3:].flip(1).T @ found.basis).abs()
    torch.testing.assert_close(overlap, torch.eye(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(3), atol=1e-5, rtol=0)
    assert found.explained == pytest.approx(float(values[-3:].sum() / values.sum()), abs=1e-4)
    assert found.project(images).var(0).argsort(descending=True).tolist() == [0, 1, 2]


def test_squared_errors_are_those_of_the_pixels():
    images = draw()
    found = PrincipalComponents.of(images, 3)
    z = found.project(images)
    other = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    pixels = (found.images(other) - found.images(z)).square().flatten(1).sum(1)
    torch.testing.assert_close(pixels, (other - z).square().sum(1), rtol=1e-3, atol=1e-3)
    assert (found.images(z) - images).abs().max() < 0.1
    assert found.images(z[:6].unflatten(0, (2, 3))).shape == (2, 3, 2, 3, 4)


def test_images_are_read_in_batches():
    images = draw()
    found = PrincipalComponents.of(images, 3)
    whole = found.project(images)
    torch.testing.assert_close(found.project(images, batch_size=7), whole)
    torch.testing.assert_close(found.project(list(images.split(50))), whole)


def test_the_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    first = PrincipalComponents.of(draw(), 3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.basis, PrincipalComponents.of(draw(), 3).basis)


@pytest.mark.parametrize("n", [0, 25, 2.0])
def test_a_number_of_components_that_cannot_be(n):
    with pytest.raises(ValueError, match=f"n must be an integer from 1 to 24, .* but got {n}"):
        PrincipalComponents.of(draw(), n)


def test_images_that_do_not_vary():
    with pytest.raises(ValueError, match="images must vary"):
        PrincipalComponents.of(torch.ones(10, 1, 4, 4), 2)


def test_independent_directions_undo_a_rotation():
    """Uniform sources, mixed by a rotation within the first three of five coordinates."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(4000, 3, generator=generator) * 12**0.5 - 3**0.5
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    noise = 0.1 * torch.randn(4000, 2, generator=generator)
    x = torch.cat([sources @ rotation * torch.tensor([3.0, 2.0, 1.0]), noise], 1)
    found = x @ independent_directions(x, 3).T
    overlap = torch.corrcoef(torch.cat([sources, found], 1).T)[:3, 3:].abs()
    assert (overlap.amax(1) > 0.99).all()
    assert sorted(overlap.argmax(1).tolist()) == [0, 1, 2]
    torch.testing.assert_close(found.var(0), torch.ones(3), rtol=1e-2, atol=0)
    assert independent_directions(x, 3)[:, 3:].abs().max() == 0


def test_further_directions_are_the_coordinates_that_come_next():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(6, 0, -1)
    both = independent_directions(x, 2, further=3)
    assert both.shape == (5, 6)
    torch.testing.assert_close(both[:2], independent_directions(x, 2))
    torch.testing.assert_close(x @ both[2:].T, x[:, 2:5] / x[:, 2:5].std(0))


@pytest.mark.parametrize("further", [-1, 4, 1.5])
def test_a_number_of_further_directions_that_cannot_be(further):
    with pytest.raises(ValueError, match=f"further must be an integer from 0 to 3, .* {further}"):
        independent_directions(torch.randn(20, 5), 2, further=further)


@pytest.mark.parametrize("n", [0, 6])
def test_a_number_of_directions_that_cannot_be(n):
    with pytest.raises(ValueError, match=f"n must be an integer from 1 to 5, .* but got {n}"):
        independent_directions(torch.randn(20, 5), n)


def test_a_further_direction_that_does_not_vary_is_zero():
    x = torch.cat([torch.rand(200, 3), torch.full((200, 1), 2.0)], 1)
    found = independent_directions(x, 2, further=2)
    assert found.isfinite().all()
    assert found[2, 2] > 1
    assert found[3].abs().max() == 0


@pytest.mark.parametrize("shape", [(20,), (20, 3, 5)])
def test_directions_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"a tensor of shape \(N, d\), .* of Tensor"):
        independent_directions(torch.randn(shape), 2)


def test_directions_of_an_array():
    with pytest.raises(ValueError, match=r"a tensor of shape .* \(20, 5\) of ndarray"):
        independent_directions(torch.randn(20, 5).numpy(), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_directions_of_what_is_not_finite(value):
    x = torch.randn(20, 5)
    x[3, 4] = value
    with pytest.raises(ValueError, match="coordinates must be finite"):
        independent_directions(x, 2)

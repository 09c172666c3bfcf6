"""Affine transforms of images, against cases that can be told without interpolation."""

import math

import pytest
import torch
from torch.testing import assert_close

from pyro_corex.datasets import RandomAffine, affine

H, W = 6, 8
SHAPES = {"flat": (3, H * W), "grey": (3, H, W), "colour": (3, 2, H, W)}


def images(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def side_of(shape):
    return (H, W) if len(shape) == 2 else None


def moved(x, down, right):
    """By whole pixels, with 0 coming in."""
    out = torch.zeros_like(x)
    rows, columns = range(H), range(W)
    for i in rows:
        for j in columns:
            if i - down in rows and j - right in columns:
                out[..., i, j] = x[..., i - down, j - right]
    return out


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_identity(shape):
    x = images(shape)
    assert_close(affine(x, side=side_of(shape)), x)
    assert_close(RandomAffine(side_of(shape))(x), x)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, -2), (-3, 1)])
def test_a_shift_by_whole_pixels(shape, down, right):
    x = images(shape)
    found = affine(x, side=side_of(shape), shift=(down, right))
    want = moved(x.reshape(*shape[:-1], H, W) if len(shape) == 2 else x, down, right)
    assert_close(found, want.reshape(shape), atol=1e-12, rtol=0)


@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_quarter_turns(turns):
    x = images((3, 2, 6, 6))
    found = affine(x, rotation=turns * math.pi / 2)
    assert_close(found, torch.rot90(x, turns, (-2, -1)), atol=1e-12, rtol=0)


def test_half_a_turn_of_an_image_that_is_not_square():
    x = images((3, H, W))
    assert_close(affine(x, rotation=math.pi), x.flip(-1, -2), atol=1e-12, rtol=0)


def test_a_quarter_turn_of_an_image_that_is_not_square():
    """The middle of it turns as that of a square one does."""
    x = images((1, H, W))
    x[..., 0] = x[..., -1] = 0.0
    square = torch.rot90(x[..., 1:-1], 1, (-2, -1))
    found = affine(x, rotation=math.pi / 2)
    assert_close(found[..., 1:-1], square, atol=1e-12, rtol=0)


def test_scale_doubles_height_and_width():
    """An image that is a ramp stays one, half as steep, where its edge has no part."""
    rows = torch.arange(H, dtype=torch.float64).sub((H - 1) / 2)[:, None].expand(H, W)
    columns = torch.arange(W, dtype=torch.float64).sub((W - 1) / 2).expand(H, W)
    tall, wide = affine(torch.stack([rows, columns]), scale=(2.0, 4.0))
    assert_close(tall, rows / 2)
    assert_close(wide, columns / 4)


def test_shear_moves_rows_to_the_right():
    x = torch.zeros(1, 7, 7, dtype=torch.float64)
    x[0, :, 3] = 1.0
    found = affine(x, shear=1.0)
    assert_close(found[0], torch.eye(7, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_shift_comes_last():
    x = images((3, 6, 6))
    turned = affine(x, rotation=math.pi / 2, shift=(0.0, 2.0))
    want = affine(torch.rot90(x, 1, (-2, -1)), shift=(0.0, 2.0))
    assert_close(turned, want, atol=1e-12, rtol=0)


def test_shear_comes_before_the_rotation():
    x = images((3, 9, 9))
    x = affine(x, scale=(0.3, 0.3))  # nothing near the edges
    both = affine(x, shear=1.0, rotation=math.pi / 2)
    want = torch.rot90(affine(x, shear=1.0), 1, (-2, -1))
    assert_close(both, want, atol=1e-12, rtol=0)


def test_scale_comes_before_shear():
    """Twice as wide and then a pixel to the right for each pixel down: a ramp says so."""
    x = torch.arange(9, dtype=torch.float64).sub(4).expand(1, 9, 9)
    found = affine(x, scale=(1.0, 2.0), shear=1.0)
    rows = torch.arange(9, dtype=torch.float64).sub(4)[:, None]
    want = (x - rows) / 2
    assert_close(found[..., 4:5, :], want[..., 4:5, :])
    assert_close(found[..., 3:6, 3:6], want[..., 3:6, 3:6])


def test_each_image_has_its_own_amounts():
    x = images((3, H, W))
    found = affine(x, shift=(torch.tensor([0.0, 1.0, -1.0]).double(), 0.0))
    for image, got, down in zip(x, found, (0, 1, -1), strict=True):
        assert_close(got, moved(image, down, 0), atol=1e-12, rtol=0)


def test_draws_are_torchs_and_within_their_range():
    dot = torch.zeros(500, 21, 21)
    dot[:, 10, 10] = 1.0
    shift = RandomAffine(shift=3.0)
    torch.manual_seed(1)
    found = shift(dot)
    torch.manual_seed(1)
    assert torch.equal(shift(dot), found)
    assert not torch.equal(shift(dot), found)
    at = torch.arange(21.0) - 10
    down, right = (found.sum(2) * at).sum(1), (found.sum(1) * at).sum(1)
    for moves in (down, right):  # uniform on -3 to 3
        assert float(moves.abs().max()) <= 3.0 + 1e-4
        assert float(moves.max()) > 2.8
        assert float(moves.min()) < -2.8
        assert float(moves.std()) == pytest.approx(3 / 3**0.5, rel=0.1)
    assert abs(float(torch.corrcoef(torch.stack([down, right]))[0, 1])) < 0.2


@pytest.mark.parametrize("option", ["rotation", "scale", "shear", "shift"])
def test_every_amount_does_something(option):
    x = images((4, H, W))
    assert not torch.allclose(RandomAffine(**{option: 0.3})(x), x, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_device_and_dtype_follow_the_images(dtype):
    every = RandomAffine(28, rotation=0.26, scale=0.15, shear=0.1, shift=2.0)
    found = every(torch.zeros(5, 784, dtype=dtype, device="meta"))  # which has no values to read
    assert (found.shape, found.dtype, found.device.type) == ((5, 784), dtype, "meta")


def test_repr():
    every = RandomAffine(28, rotation=0.26, shift=2.0)
    assert repr(every) == "RandomAffine(side=28, rotation=0.26, shift=2.0)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": -1.0}, "shift must be a finite number >= 0, but got -1.0"),
        ({"rotation": math.nan}, "rotation must be a finite number >= 0, but got nan"),
        ({"scale": 1.0}, "scale must be less than 1, but got 1.0"),
        ({"side": 0}, "side must be a positive number .* but got 0"),
        ({"side": (1, 2, 3)}, r"side must be .* but got \(1, 2, 3\)"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        RandomAffine(**options)


def test_images_are_checked():
    with pytest.raises(TypeError, match=r"floating-point numbers, but got torch.uint8.*float"):
        RandomAffine(2)(torch.zeros(3, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"side=2 must have the shape \(n, 4\), but got \(3, 5\)"):
        RandomAffine(2)(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"but got \(3, 4\). For flat images give side"):
        RandomAffine()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"each of the 3 images, but has the shape \(2,\)"):
        affine(torch.zeros(3, 4, 4), rotation=torch.zeros(2))

"""Faces with known factors, and faces from files.

:func:`synthetic_faces` draws them: a head with hair, eyes, nose and mouth, turned, lit and coloured
by the five factors that the paper finds in its anchors (Gao et al. 2018, Sec. 6.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import check_count

FACE_FACTORS = ("skin tone", "azimuth", "smile", "hair", "light")
"""The factors of :func:`synthetic_faces`, in the order of its columns."""

_CHUNK = 32  # images drawn at once: few enough for the processor's cache
_WIDTH, _HEIGHT = 0.60, 0.78  # half axes of the head, with the image from -1 to 1
_TURN = math.radians(40)  # azimuth from -1 to 1
_SWING = math.radians(70)  # direction of the light from -1 to 1
_SHIFT = 0.03  # largest shift, about one pixel of 64
_TINT = 0.05  # largest change of the background
_LIGHT_SKIN, _DARK_SKIN = (1.0, 0.82, 0.70), (0.42, 0.27, 0.18)
_HAIR, _LIPS, _WALL = (0.16, 0.10, 0.07), (0.72, 0.26, 0.26), (0.52, 0.58, 0.64)


def synthetic_faces(n: int, seed: int = 0, *, size: int = 64) -> tuple[Tensor, Tensor]:
    """Draws faces from independent factors.

    :param n: how many.
    :param seed: of the factors and of what else varies: small shifts and the background's colour.
    :param size: height and width in pixels.
    :returns: images of shape ``(n, 3, size, size)`` in [0, 1], and the factors of shape ``(n, 5)``,
        each uniform on [-1, 1], in the order of ``FACE_FACTORS``: skin tone, azimuth, smile, amount
        of hair, direction of the light.
    :raises ValueError: for ``n`` or ``size`` below 1.
    """
    check_count("n", n)
    check_count("size", size)
    generator = torch.Generator().manual_seed(seed)
    factors = torch.rand(n, 5, generator=generator) * 2 - 1
    nuisance = torch.rand(n, 5, generator=generator) * 2 - 1
    return draw_faces(factors, nuisance, size=size), factors


def draw_faces(factors: Tensor, nuisance: Tensor | None = None, *, size: int = 64) -> Tensor:
    """Draws faces with given factors.

    :param factors: shape ``(n, 5)``, each in [-1, 1]; see ``FACE_FACTORS``.
    :param nuisance: shape ``(n, 5)``, each in [-1, 1]: the shift to the right and downwards, and
        the red, green and blue of the background; zero by default.
    :returns: shape ``(n, 3, size, size)``, in [0, 1].
    :raises ValueError: for other shapes, a ``size`` below 1, and values outside of [-1, 1].
    """
    check_count("size", size)
    factors = as_tensor(factors, "factors")
    nuisance = torch.zeros_like(factors) if nuisance is None else nuisance
    for name, value in (("factors", factors), ("nuisance", nuisance)):
        if value.dim() != 2 or value.shape[1] != 5 or len(value) != len(factors):
            raise ValueError(f"{name} must have the shape (n, 5), but got {tuple(value.shape)}")
        if not value.is_floating_point() or not bool((value.abs() <= 1).all()):
            raise ValueError(
                f"{name} must be floating-point numbers in [-1, 1], but got {value.dtype} from "
                f"{float(value.min()):g} to {float(value.max()):g}"
            )
    images = factors.new_empty((len(factors), 3, size, size))
    parts = zip(*(x.split(_CHUNK) for x in (images, factors, nuisance)), strict=True)
    for image, factor, other in parts:
        _draw(image, factor, other)
    return images


def _draw(image: Tensor, factors: Tensor, nuisance: Tensor) -> None:
    size = image.shape[-1]
    pixel = 2 / size
    tone, azimuth, smile, hair, light = factors[:, :, None, None].unbind(1)
    shift_x, shift_y = nuisance[:, :2, None, None].unbind(1)
    axis = (torch.arange(size, device=image.device, dtype=image.dtype) + 0.5) * pixel - 1
    x = axis[None, None, :] - _SHIFT * shift_x  # (n, 1, size)
    y = -axis[None, :, None] - _SHIFT * shift_y - 0.04  # (n, size, 1), upwards

    # the head: an ellipsoid whose outline does not change as it turns
    u, v = x / _WIDTH, y / _HEIGHT
    radius = (u.square() + v.square()).sqrt()
    z = (1 - radius.square()).clamp_(min=0).sqrt_()  # as a share of its depth
    turn = _TURN * azimuth
    cos, sin = turn.cos(), turn.sin()
    across = u * cos - z * sin  # left to right on the face
    front = u * sin + z * cos  # back to front
    head = _inside((1 - radius) * _WIDTH, pixel)

    # hair: what is above the hairline and behind it, and a mass around the head
    line = 0.58 - 0.20 * hair
    side = 0.05 - 0.35 * hair
    top = v - line + 0.35 * across.square()
    behind = (v + 0.25 + 0.55 * hair).minimum(side + 0.10 - front)
    scalp = _inside(top.maximum(behind) * _HEIGHT, pixel)
    volume = 0.04 + 0.05 * (1 + hair)
    low = -0.10 - 0.45 * hair
    mane = _inside(((1 + volume - radius) * _WIDTH).minimum((v - low) * _HEIGHT), pixel)

    # light from one side, on the head and on the ridge of the nose
    swing = _SWING * light
    ridge = torch.exp(-(across / 0.11).square() - ((v + 0.04) / 0.22).square())
    slope = across * ridge * 9.0
    normal_x = u + slope * cos
    lambert = normal_x * swing.sin() + z * swing.cos() * 0.85 + 0.25 * v
    shade = 0.42 + 0.72 * lambert.clamp_(min=0)

    features = _features(across, v, smile)
    skin_weight = (tone + 1) / 2
    for channel in range(3):
        backdrop = _WALL[channel] + _TINT * nuisance[:, 2 + channel, None, None]
        skin = _LIGHT_SKIN[channel] + skin_weight * (_DARK_SKIN[channel] - _LIGHT_SKIN[channel])
        colour = _paint(features, skin.expand_as(shade), channel)
        colour = colour + scalp * (_HAIR[channel] - colour)
        colour = colour * shade
        behind_head = backdrop + mane * (0.9 * _HAIR[channel] - backdrop)
        torch.add(behind_head, head * (colour - behind_head), out=image[:, channel])
    image.clamp_(0, 1)


def _features(across: Tensor, v: Tensor, smile: Tensor) -> tuple[Tensor, ...]:
    """Mouth, teeth, eyes, pupils, eyebrows and nose on the front of the face, 1 inside of each."""
    mouth_x = across / (0.32 + 0.06 * smile)
    mouth_y = v + 0.47 + smile * (0.08 - 0.11 * mouth_x.square())
    mouth = _blob(mouth_x, mouth_y / (0.095 + 0.02 * smile))
    teeth = _blob(mouth_x / 0.75, mouth_y / (0.04 + 0.01 * smile)) * smile.clamp(min=0)
    eyes_x = across.abs() - 0.38
    eyes = _blob(eyes_x / 0.16, (v - 0.12) / 0.085)
    pupils = _blob(eyes_x / 0.075, (v - 0.12) / 0.075)
    brows = _blob(eyes_x / 0.20, (v - 0.30 + 0.5 * eyes_x.square()) / 0.04)
    nose = _blob(across / 0.13, (v + 0.20) / 0.05)
    return mouth, teeth, eyes, pupils, brows, nose


def _paint(features: tuple[Tensor, ...], skin: Tensor, channel: int) -> Tensor:
    """A channel of a face of that skin, in even light."""
    mouth, teeth, eyes, pupils, brows, nose = features
    colour = skin + nose * (0.72 * skin - skin)
    lips = 0.5 * _LIPS[channel] + 0.5 * skin * (1.0, 0.45, 0.45)[channel]
    colour = torch.lerp(colour, lips.expand_as(colour), mouth)
    colour = colour + teeth * (0.95 - colour)
    colour = colour + eyes * (0.95 - colour)
    colour = colour * (1 - 0.9 * pupils)
    return colour + brows * (_HAIR[channel] - colour)


def _inside(distance: Tensor, pixel: float) -> Tensor:
    """1 inside, 0 outside, and a soft edge one pixel wide."""
    return (distance / pixel + 0.5).clamp_(0, 1)


def _blob(x: Tensor, y: Tensor) -> Tensor:
    """A soft ellipse of radius 1."""
    return (3 - 3 * (x.square() + y.square()).sqrt_()).clamp_(0, 1)

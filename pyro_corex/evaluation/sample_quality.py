r"""How good samples are: Fréchet distance, precision and recall, in features that are trained here.

Published scores of this kind use a network trained on ImageNet, which would have to be downloaded
and says little about digits.  :func:`train_features` trains a small one on the images at hand,
without labels, to tell how an image was damaged: blurred, mixed from two, swapped in parts, made
noisy, faded, bent, or left alone.  Its features notice what is wrong with samples, but their scale
is their own: compare numbers that come from the same network only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyro_corex.information import Estimate

BLOCKS = 20  # of the jackknife that the standard errors are from


@dataclass(frozen=True)
class SampleQuality:
    """The three scores that :func:`sample_quality` finds; distances and shares, not nats.

    The standard error of the Fréchet distance is the jackknife's, over blocks of both sets of
    images; that of precision and recall the binomial one, given the radii of the other set.
    """

    frechet: Estimate[float]
    """Squared Fréchet distance of the Gaussians through the features (Heusel et al. 2017); 0 is
    best."""

    precision: Estimate[float]
    """The share of samples that lie among the real images (Kynkäänniemi et al. 2019)."""

    recall: Estimate[float]
    """The share of real images that lie among the samples."""


def sample_quality(
    features: Callable[[Tensor], Tensor], real: Tensor, samples: Tensor, *, k: int = 3
) -> SampleQuality:
    """Scores samples against real images that neither the model nor the features were trained on.

    By the Fréchet distance (Heusel et al. 2017), precision and recall (Kynkäänniemi et al. 2019).

    All three depend on how many images there are (the Fréchet distance is biased upwards by fewer):
    give equally many in all that is to be compared.

    :param features: from images ``(n, C, H, W)`` to features ``(n, f)``; see
        :func:`train_features`.
    :param real: shape ``(N, C, H, W)``.
    :param samples: shape ``(M, C, H, W)``.
    :param k: of the nearest neighbours whose distance is the radius within which an image lies
        "among" others (3 in the paper).
    :raises ValueError: for fewer than 40 images of either kind, or shapes that do not fit.
    :raises TypeError: for images that are no tensors.
    """
    for name, images in (("real", real), ("samples", samples)):
        if not isinstance(images, Tensor):
            raise TypeError(f"{name} must be a tensor of images, but got {type(images).__name__}")
        if images.dim() != 4 or len(images) < 2 * BLOCKS:
            raise ValueError(
                f"{name} must be at least {2 * BLOCKS} images of shape (n, C, H, W), but have the "
                f"shape {tuple(images.shape)}"
            )
    if real.shape[1:] != samples.shape[1:]:
        raise ValueError(
            f"real and samples must be images of one shape, but are {tuple(real.shape[1:])} and "
            f"{tuple(samples.shape[1:])}"
        )
    if not 1 <= k < len(real) // BLOCKS:
        raise ValueError(f"k must be from 1 to {len(real) // BLOCKS - 1}, but got {k}")
    a, b = _features(features, real), _features(features, samples)
    precision, recall = _hits(a, b, k), _hits(b, a, k)
    return SampleQuality(
        _jackknife(lambda i, j: frechet_distance(a[i], b[j]), len(a), len(b)),
        _share(precision),
        _share(recall),
    )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""Squared Fréchet distance of the Gaussians with the mean and covariance of each set.

    The closed form is that of Dowson & Landau (1982).

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})

    :param a: features ``(N, f)``.
    :param b: features ``(M, f)``.
    :raises ValueError: for other shapes, and for fewer than two rows.

    >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(x, x + torch.tensor([3.0, 0.0])), 3)
    9.0
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            "features must have the shapes (N, f) and (M, f) with at least 2 rows, but have "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(a.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))


# ------------------------------------------------------------------ features


def train_features(
    images: Tensor,
    *,
    n_features: int = 64,
    steps: int = 600,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Trains a network to tell how an image was damaged, and returns it without its last layer.

    Three convolutions of stride 2 (32, 64, 128 channels), a hidden layer of ``n_features`` and an
    output for each kind of damage.  No labels are used: a pretext task, like the rotations of
    Gidaris et al. 2018.

    :param images: shape ``(N, C, H, W)`` in [0, 1], height and width multiples of 4.
    :returns: a module in evaluation mode, from ``(n, C, H, W)`` to ``(n, n_features)``.
    :raises ValueError: for other shapes.
    """
    if images.dim() != 4 or len(images) < 2 or images.shape[2] % 4 or images.shape[3] % 4:
        raise ValueError(
            "images must be at least 2, of shape (N, C, H, W) with height and width multiples of "
            f"4, but have the shape {tuple(images.shape)}"
        )
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        body = _network(images.shape[1], n_features).to(images.device)
        head = nn.Linear(n_features, len(_DAMAGES)).to(images.device)
        parameters = [*body.parameters(), *head.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr * 3, total_steps=steps)
        for _ in range(steps):
            x = images[torch.randint(len(images), (batch_size,), device=images.device)]
            kind = torch.arange(batch_size, device=x.device) % len(_DAMAGES)
            damaged = torch.cat([f(x[kind == i]) for i, f in enumerate(_DAMAGES)])
            loss = F.cross_entropy(head(body(damaged)), kind.sort().values)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return body.eval().requires_grad_(False)


def _network(channels: int, n_features: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([channels, 32, 64, 128]):
        layers.append(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False))
        layers += [nn.BatchNorm2d(n_out), nn.LeakyReLU(0.1)]
    layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128 * 16, n_features), nn.LeakyReLU(0.1))


def _blur(x: Tensor) -> Tensor:
    kernel = x.new_tensor([1.0, 2.0, 3.0, 2.0, 1.0]) / 9
    padded = F.pad(x.flatten(0, 1).unsqueeze(1), (2, 2, 2, 2), mode="replicate")
    out = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1))
    return out.view_as(x)


def _mix(x: Tensor) -> Tensor:
    weight = 0.25 + 0.5 * torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
    return torch.lerp(x, x.roll(1, 0), weight)


def _swap(x: Tensor) -> Tensor:
    """A quarter of the image from another one."""
    out, half = x.clone(), x.shape[-1] // 2
    out[:, :, :half, :half] = x.roll(1, 0)[:, :, :half, :half]
    return out


def _noise(x: Tensor) -> Tensor:
    return (x + 0.08 * torch.randn_like(x)).clamp(0, 1)


def _fade(x: Tensor) -> Tensor:
    return torch.lerp(x, x.mean((2, 3), keepdim=True), 0.35)


def _bend(x: Tensor) -> Tensor:
    """A smooth random displacement."""
    coarse = 0.12 * torch.randn(len(x), 2, 4, 4, device=x.device, dtype=x.dtype)
    shift = F.interpolate(coarse, x.shape[-2:], mode="bicubic", align_corners=False)
    theta = torch.eye(2, 3, device=x.device, dtype=x.dtype).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False) + shift.permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


_DAMAGES: list[Callable[[Tensor], Tensor]] = [lambda x: x, _blur, _mix, _swap, _noise, _fade, _bend]


def _features(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([features(part) for part in images.split(512)])


# ------------------------------------------------------------------ neighbours and errors


def _hits(reference: Tensor, points: Tensor, k: int) -> Tensor:
    """Which points lie within the radius of some reference: (points,)."""
    radius = torch.cat(
        [torch.cdist(part, reference).kthvalue(k + 1, 1).values for part in reference.split(1024)]
    )
    return torch.cat(
        [(torch.cdist(part, reference) <= radius).any(1) for part in points.split(1024)]
    )


def _share(hits: Tensor) -> Estimate[float]:
    p = float(hits.double().mean())
    return Estimate(p, math.sqrt(p * (1 - p) / len(hits)), unit="")


def _jackknife(statistic: Callable[[Tensor, Tensor], float], n: int, m: int) -> Estimate[float]:
    """The estimate, and its error from leaving out one block of either set at a time."""
    everything = [torch.arange(n), torch.arange(m)]
    estimate = statistic(*everything)
    variance = 0.0
    for side in (0, 1):
        left, blocks = [], everything[side].chunk(BLOCKS)
        for i in range(len(blocks)):
            rows = list(everything)
            rows[side] = torch.cat(blocks[:i] + blocks[i + 1 :])
            left.append(statistic(*rows))
        variance += (len(left) - 1) * float(np.var(left))
    return Estimate(estimate, math.sqrt(variance), unit="")

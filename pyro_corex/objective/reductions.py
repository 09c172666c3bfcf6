"""Masking, weighting and summing of what a site contributes, and the axes that are kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_corex.objective.sites import Factored, Site


def mask(detail: Factored, mask: Tensor | bool | None) -> Factored:
    """Puts 0 where a batch-shaped mask is false."""
    if mask is None or mask is True:
        return detail
    if mask is False:
        return Factored(torch.zeros_like(detail.value), detail.n_dims)
    mask = mask.reshape(mask.shape + (1,) * detail.n_dims)
    return Factored(torch.where(mask, detail.value, detail.value.new_zeros(())), detail.n_dims)


def scale_and_mask(value: Tensor, site: Site) -> Tensor:
    """A batch-shaped value with the site's scale and mask."""
    value = mask(Factored(value, 0), site["mask"]).value
    return value if is_one(site["scale"]) else value * site["scale"]


def reduce(detail: Factored, weight: Tensor | float, keep: list[int], finite: bool) -> Tensor:
    """Sums the weighted batch dimensions but those to keep; a weight of 0 hides an infinity."""
    value, n = detail
    drop = [d - n for d in range(n - value.dim(), 0) if d not in keep]
    if not isinstance(weight, Tensor):
        value = value if weight == 1.0 else value * weight
        return value.sum(drop) if drop else value
    weight = weight.reshape(weight.shape + (1,) * n)
    if weight.dim() > value.dim() or any(
        w > 1 and v == 1 for w, v in zip(weight.shape[::-1], value.shape[::-1], strict=False)
    ):
        value = value.expand(torch.broadcast_shapes(value.shape, weight.shape))
        drop = [d - n for d in range(n - value.dim(), 0) if d not in keep]
    if not finite:
        value = value.masked_fill(weight == 0, 0.0)
    n_drop = len(drop)
    if drop == list(range(-value.dim(), n_drop - value.dim())) and weight.numel() == math.prod(
        value.shape[:n_drop]
    ):  # every leading dimension is weighted and summed: a product of a matrix with a vector
        kept = value.shape[n_drop:]
        product = weight.reshape(1, -1) @ value.reshape(weight.numel(), -1)
        return product.reshape(kept)
    return (value * weight).sum(drop) if drop else value * weight


def as_kept(scale: Tensor, keep: list[int], n_dims: int) -> Tensor | None:
    """A batch-shaped scale in the shape of the kept axes, or None if it varies along others."""
    varying = [d for d in range(-scale.dim(), 0) if scale.shape[d] > 1]
    if not set(varying) <= set(keep):
        return None
    shape = [scale.shape[d] if d >= -scale.dim() else 1 for d in keep]
    return scale.reshape(shape + [1] * n_dims)


def to_axes(value: Tensor, dims: str, out: str) -> Tensor:
    """Permutes a packed tensor to the axes ``out``, with size 1 where it has none."""
    order = [s for s in out if s in dims]
    value = value.permute([dims.index(s) for s in order])
    sizes = iter(value.shape)
    return value.reshape([next(sizes) if s in dims else 1 for s in out])


def plus(value: Tensor | None, scalar: Tensor) -> Tensor:
    """``value`` with a scalar added to its sum."""
    if value is None:
        return scalar
    return value + scalar / value.numel()


def is_one(scale: Any) -> bool:
    """Whether a scale is the number 1; a tensor is not looked at."""
    return not isinstance(scale, Tensor) and scale == 1.0

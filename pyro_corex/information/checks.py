"""Checks of arguments that several estimators share."""

from __future__ import annotations

from types import NoneType
from typing import Any

import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor

_ELEMENTS = 1 << 22  # bound on the elements of a block


def row_blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Splits x along its first axis into blocks that are small beside a large x."""
    return x.split(max(1, _ELEMENTS * len(x) // max(1, x.numel())))


def as_floats(name: str, x: Any) -> Tensor:
    """A tensor of 32 or 64 bits, which linear algebra takes; of the default for integers."""
    x = as_tensor(x, name)
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.get_default_dtype())


def held(name: str, x: Any) -> Tensor:
    """What x holds as a tensor; raises TypeError for one without values."""
    x = as_tensor(x, name)
    if x.is_meta:
        raise TypeError(f"{name} must hold numbers, but is on the device 'meta', which has none")
    return x


def check_finite(name: str, x: Any) -> Tensor:
    """A tensor of x; raises ValueError where it has NaN or infinite entries, or none at all."""
    x = held(name, x)
    if x.numel() == 0:
        raise ValueError(
            f"{name} is empty: got shape {tuple(x.shape)}; give at least one datum and one "
            "dimension"
        )
    # a finite sum has finite terms, and takes no memory
    if x.is_floating_point() and not (bool(x.sum().isfinite()) or bool(x.isfinite().all())):
        bad = int(x.numel() - x.isfinite().sum())
        raise ValueError(
            f"{name} must be finite, but {bad} of its {x.numel()} entries are NaN or infinite; "
            "drop or impute them first"
        )
    return x


def check_generator(generator: Any) -> None:
    """Raises TypeError for what is neither a generator nor None."""
    if not isinstance(generator, (torch.Generator, NoneType)):
        raise TypeError(f"generator must be a torch.Generator, but got {generator!r}")


def check_matrix(name: str, x: Any, shape: str = "(N, d)") -> Tensor:
    """What x holds as a tensor; raises ValueError unless it has two dimensions."""
    x = as_tensor(x, name)
    if x.dim() != 2:
        raise ValueError(
            f"{name} must have shape {shape}, one row per datum, but got shape {tuple(x.shape)}; "
            "flatten a datum's dimensions with x.flatten(1), or add one with x[:, None]"
        )
    return x


def check_gaussian(loc: Any, scale: Any, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """Both as tensors; raises unless they are (N, m) parameters, N >= ``minimum``, of Gaussians."""
    loc, scale = check_matrix("loc", loc, "(N, m)"), as_tensor(scale, "scale")
    if scale.shape != loc.shape:
        raise ValueError(
            f"loc and scale must have the same shape (N, m), but have {tuple(loc.shape)} and "
            f"{tuple(scale.shape)}; expand a shared scale with scale.expand_as(loc)"
        )
    for name, x in (("loc", loc), ("scale", scale)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, but got {x.dtype}; use .float()")
        held(name, x)
    if scale.dtype != loc.dtype or scale.device != loc.device:
        raise ValueError(
            f"loc and scale must share dtype and device, but are {loc.dtype} on {loc.device} and "
            f"{scale.dtype} on {scale.device}; move one with .to(other)"
        )
    if loc.numel() == 0 or loc.shape[0] < minimum:
        raise ValueError(
            f"loc has shape {tuple(loc.shape)}, but at least {minimum} data and one latent are "
            "needed; encode more data"
        )
    # the extremes carry NaN along, at the price of no temporary as large as the input
    low, high = loc.amin(), loc.amax()
    narrow, wide = scale.amin(), scale.amax()
    if not bool((high - low).isfinite()):
        raise ValueError("loc must be finite, but holds NaN or infinity; look at the encoder")
    if not bool(wide.isfinite()):
        raise ValueError("scale must be finite, but holds NaN or infinity; look at the encoder")
    if not bool(narrow > 0):
        raise ValueError(
            f"scale is a standard deviation and must be positive, but its least entry is "
            f"{float(narrow):g}; pass it through softplus or exp, and take the root of a variance"
        )
    return loc, scale

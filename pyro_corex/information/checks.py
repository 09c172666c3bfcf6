"""Checks of arguments that several estimators share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ELEMENTS = 1 << 22  # bound on the elements of a block


def row_blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Splits x along its first axis into blocks that are small beside a large x."""
    return x.split(max(1, _ELEMENTS * len(x) // max(1, x.numel())))


def check_tensor(name: str, x: Any) -> None:
    """Raise TypeError for what is no dense tensor, and ValueError for a complex one."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a tensor, but got {type(x).__name__}; give torch.as_tensor({name})"
        )
    if x.is_complex():
        raise ValueError(f"{name} must be real, but is complex; stack its real and imaginary parts")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be dense, but is sparse; give {name}.to_dense()")


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError where x has NaN or infinite entries, or none at all."""
    check_tensor(name, x)
    if x.numel() == 0:
        raise ValueError(
            f"{name} is empty: got shape {tuple(x.shape)}; give at least one datum and one "
            "dimension"
        )
    if x.is_floating_point() and not bool(x.isfinite().all()):
        bad = int(x.numel() - x.isfinite().sum())
        raise ValueError(
            f"{name} must be finite, but {bad} of its {x.numel()} entries are NaN or infinite; "
            "drop or impute them first"
        )


def check_matrix(name: str, x: Tensor, shape: str = "(N, d)") -> None:
    """Raise ValueError unless x has two dimensions."""
    check_tensor(name, x)
    if x.dim() != 2:
        raise ValueError(
            f"{name} must have shape {shape}, one row per datum, but got shape {tuple(x.shape)}; "
            "flatten a datum's dimensions with x.flatten(1), or add one with x[:, None]"
        )


def check_gaussian(loc: Tensor, scale: Tensor, minimum: int = 1) -> None:
    """Raise unless loc and scale are (N, m) parameters of Gaussians with N >= ``minimum``."""
    check_matrix("loc", loc, "(N, m)")
    check_tensor("scale", scale)
    if scale.shape != loc.shape:
        raise ValueError(
            f"loc and scale must have the same shape (N, m), but have {tuple(loc.shape)} and "
            f"{tuple(scale.shape)}; expand a shared scale with scale.expand_as(loc)"
        )
    for name, x in (("loc", loc), ("scale", scale)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, but got {x.dtype}; use .float()")
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

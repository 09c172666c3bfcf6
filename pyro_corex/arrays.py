"""Arrays: what may stand for a tensor, from NumPy, pandas and lists of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

_unseen: ContextVar[bool] = ContextVar("unseen", default=False)


@contextmanager
def unseen_values() -> Iterator[None]:
    """Operations are noted, to be run later on other values, so that none may be looked at."""
    token = _unseen.set(True)
    try:
        yield
    finally:
        _unseen.reset(token)


def on_hand(value: Tensor) -> bool:
    """Whether values may be looked at: an accelerator would have to be waited for."""
    plain = type(value) in (Tensor, torch.nn.Parameter)
    return plain and value.device.type == "cpu" and not _unseen.get()


def as_tensor(value: Any, name: str) -> Tensor:
    """A tensor of an array of numbers, of whatever kind.

    :raises TypeError: for what is none, naming the argument.
    """
    found = tensor_of(value, name)
    if not isinstance(found, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, but got {type(value).__name__}")
    return found


def tensor_of(value: Any, name: str) -> Any:
    """A tensor of what holds an array of numbers; anything else as it is.

    :raises TypeError: for arrays and tensors of another kind, saying how to make one.
    """
    if _is_sparse(value):
        how = "to_dense()" if isinstance(value, Tensor) else "toarray()"
        raise TypeError(f"{name} must be dense, but is sparse. Give {name}.{how}")
    if isinstance(value, Tensor):
        for what, wrong, how in (
            (
                "nested: its rows have lengths of their own",
                value.is_nested,
                "pad them, or give one batch for each length",
            ),
            ("quantised", value.is_quantized, f"give {name}.dequantize()"),
            ("complex", value.is_complex(), f"give torch.view_as_real({name}).flatten(1)"),
        ):
            if wrong:
                raise TypeError(
                    f"{name} must be a plain tensor of real numbers, but is {what}; {how}"
                )
        value = value.clone() if value.is_inference() else value
        return value.long() if value.dtype in _UNSIGNED else value
    if not is_array(value):
        return value
    with warnings.catch_warnings():  # of a file that is open for reading, which nothing writes to
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(_array(value, name))


def _array(value: Any, name: str) -> np.ndarray[Any, Any]:
    """An array that torch takes as it is; a copy where it has to be one."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise TypeError(
                f"{name} is a masked array with {np.ma.count_masked(value)} masked values, and "
                "a tensor has no mask. Leave those rows out; or, for a program that takes gaps as "
                f"NaN, give {name}.astype(float).filled(numpy.nan)"
            )
        value = value.data
    try:
        found = np.asarray(value)
    except ValueError:  # ragged
        raise TypeError(f"{name} must have rows of one length, but they differ") from None
    if found.dtype == object and all(isinstance(each, Real) for each in found.flat):
        found = found.astype(float)
    if found.dtype.kind not in "biuf":
        held = (
            f"{type(found.flat[0]).__name__}s"
            if found.dtype == object and found.size
            else found.dtype
        )
        raise TypeError(
            f"{name} must hold real numbers, but holds {held}. Code words and categories by "
            "integers, dates by days since a first one, and give gaps as NaN; or see "
            "pyro_corex.CorEx, which reads tables"
        )
    wanted = found.dtype.newbyteorder("=")
    wanted = np.dtype(np.float64) if found.dtype.kind == "f" and wanted.itemsize > 8 else wanted
    wanted = np.dtype(np.int64) if found.dtype.kind == "u" and wanted.itemsize > 1 else wanted
    found = found.astype(wanted, copy=False)
    kept = found.flags.writeable or isinstance(value, np.memmap)
    return found if kept and min(found.strides, default=0) >= 0 else found.copy()


_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def _is_sparse(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.layout not in (torch.strided, torch.jagged)
    return hasattr(value, "toarray") and hasattr(value, "nnz")


def is_array(value: Any) -> bool:
    """Whether all of it is one array: a list of numbers, or of rows of them, is."""
    if isinstance(value, list):
        return bool(value) and (
            isinstance(value[0], Real) or (isinstance(value[0], list) and is_array(value[0]))
        )
    return (
        isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "to_numpy") or _is_sparse(value)
    )

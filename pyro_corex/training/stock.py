"""Stock: whether all that a run calls is code of torch, Pyro and this library.

Such code does the same at each step, unless somebody else's changes it.  So steps are recorded by
default only where there is none of somebody else's.
"""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

_KNOWN = {"torch", "typing", "pyro", "pyro_corex", "builtins", "collections", "functools", "numpy"}
_PLAIN = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), type(...)),
    *(torch.Size, torch.dtype, torch.device, torch.Generator, weakref.ref, types.ModuleType),
)
_MOST = 10_000  # objects that are looked at; what holds more is taken for somebody else's


def untouched() -> bool:
    """Whether nothing is around a run that sees or changes what its programs do."""
    return not (
        _PYRO_STACK
        or torch.is_anomaly_enabled()
        or _has_any_global_hook()
        or _get_current_function_mode()
        or _get_current_dispatch_mode()
    )


def is_stock(*values: Any) -> bool:
    """Whether values and all that they hold are plain, or of classes and functions of torch, Pyro
    and this library: no subclass, hook, closure or list holds a function of somebody else.
    """
    seen: dict[int, Any] = {}
    ahead: list[Any] = list(values)
    while ahead and len(seen) < _MOST:
        value = ahead.pop()
        if id(value) in seen or type(value) in _PLAIN:
            continue
        seen[id(value)] = value  # kept, so that no other takes its place in memory
        held = _held(value)
        if held is None:
            return False
        ahead += held
    return not ahead


def _held(value: Any) -> list[Any] | None:
    """What is to be looked at of a value, or ``None`` if it is somebody else's."""
    if isinstance(value, type):
        return [] if all(map(_is_known, value.__mro__)) else None
    if type(value) in (Tensor, nn.Parameter):
        return [value._backward_hooks, value._post_accumulate_grad_hooks]
    if isinstance(value, (types.BuiltinFunctionType, types.MethodType)):
        return [value.__self__, getattr(value, "__func__", None)]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [*cells, value.__defaults__, vars(value)] if _is_known(value) else None
    if not all(map(_is_known, type(value).__mro__)):
        return None
    held = [getattr(value, "__dict__", None)]
    if isinstance(value, functools.partial):
        held += [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        return [*held, *value, *value.values()]
    return [*held, *value] if isinstance(value, (list, tuple, set, frozenset)) else held


def _is_known(made: Any) -> bool:
    return (made.__module__ or "").partition(".")[0] in _KNOWN

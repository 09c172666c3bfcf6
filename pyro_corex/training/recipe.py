"""A module in words: its classes and what they were given, from which a file makes it again.

Only classes of ``torch.nn`` and of this library's programs are made, so that nothing in a file can
run other code.  A class that keeps what its constructor takes under other names than the
constructor's says so in a method ``_arguments``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OURS = "pyro_corex.programs."
_UNSAID = ("device", "dtype")  # which the tensors of a file tell
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CONTAINERS = {"torch.nn.Sequential": nn.Sequential, "torch.nn.ModuleList": nn.ModuleList}


class NotInWordsError(ValueError):
    """A module, or a part of it, that a file cannot make again."""


def words(module: nn.Module) -> dict[str, Any]:
    """The module as text, numbers and lists of them; else why a file cannot make it again."""
    frozen = [name for name, value in module.named_parameters() if not value.requires_grad]
    named = [len(list(module.named_parameters(remove_duplicate=once))) for once in (True, False)]
    try:
        if named[0] < named[1]:
            raise NotInWordsError("two of its parts share a parameter")
        recipe = _said(module, type(module).__name__)
    except NotInWordsError as error:
        return {"problem": str(error)}
    return {"recipe": recipe, "frozen": frozen, "problem": ""}


def made(content: Mapping[str, Any]) -> Any:
    """The module of :func:`words`, on the CPU, with the dtypes of ``content["state"]``.

    :raises NotInWordsError: where there are no words, or classes that are neither torch's nor ours.
    """
    if problem := content.get("problem", "the file is of an earlier version"):
        raise NotInWordsError(problem)
    try:
        with torch.random.fork_rng(devices=[]):
            module = _made(content["recipe"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise NotInWordsError(f"{type(error).__name__}: {error}") from error
    except (ImportError, ValueError) as error:
        raise NotInWordsError(str(error)) from error
    for name, value in module.state_dict(keep_vars=True).items():
        if name in content["state"]:
            value.data = value.data.to(content["state"][name].dtype)
        if name in content["frozen"]:
            value.requires_grad_(False)
    return module


def _said(value: Any, where: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, nn.Parameter):
        return ["zeros", list(value.shape)]  # its values are in the file already
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return ["dict", [[key, _said(each, f"{where}[{key!r}]")] for key, each in value.items()]]
    if isinstance(value, (list, tuple)):
        said = [_said(each, f"{where}[{i}]") for i, each in enumerate(value)]
        return ["tuple" if isinstance(value, tuple) else "list", said]
    name = _name_of(type(value))
    if not name:
        kind = f"of the class {type(value).__qualname__}"
        raise NotInWordsError(f"{where} is {kind}, which is neither torch.nn's nor this library's")
    if any(getattr(value, hooks, None) for hooks in _HOOKS):
        raise NotInWordsError(f"{where} has hooks")
    if name in _CONTAINERS:
        return [name, [_said(each, f"{where}[{i}]") for i, each in enumerate(value)]]
    given = {key: _said(each, f"{where}.{key}") for key, each in _arguments(value, where)}
    return [name, given]


def _arguments(value: Any, where: str) -> Any:
    """What the constructor took."""
    own = value._arguments() if hasattr(value, "_arguments") else {}
    if type(value).__init__ is nn.Module.__init__:
        return
    for key, parameter in inspect.signature(type(value)).parameters.items():
        if key in _UNSAID or key.startswith("_"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or (
            key not in own and not hasattr(value, key)
        ):
            raise NotInWordsError(
                f"{where}, of the class {type(value).__name__}, does not keep {key!r}"
            )
        given = own[key] if key in own else getattr(value, key)
        if key == "bias" and isinstance(given, nn.Parameter | None):
            given = given is not None
        yield key, given


def _name_of(kind: type) -> str:
    """The name under which a class can be found again, or nothing."""
    if getattr(nn, kind.__name__, None) is kind:
        return f"torch.nn.{kind.__name__}"
    ours = kind.__module__.startswith(_OURS) and "." not in kind.__qualname__
    return f"{kind.__module__}.{kind.__name__}" if ours and kind.__name__ != "UserPrior" else ""


def _made(recipe: Any) -> Any:
    if not isinstance(recipe, list):
        return recipe
    name, given = recipe
    if name == "zeros":
        return torch.zeros(given)
    if name in ("list", "tuple"):
        return (tuple if name == "tuple" else list)(_made(each) for each in given)
    if name == "dict":
        return {key: _made(each) for key, each in given}
    if name in _CONTAINERS:
        parts = [_made(each) for each in given]
        return nn.ModuleList(parts) if name == "torch.nn.ModuleList" else nn.Sequential(*parts)
    where, _, kind = name.rpartition(".")
    found = None
    if where == "torch.nn" or where.startswith(_OURS):
        found = getattr(importlib.import_module(where), kind, None)
    if not isinstance(found, type) or _name_of(found) != name:
        raise NotInWordsError(f"{name} is no class of torch.nn or of this library's programs")
    return found(**{key: _made(each) for key, each in given.items()})

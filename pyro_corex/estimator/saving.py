"""Fitted estimators as files of data, which hold no code: numbers, text and tensors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_corex.estimator.categorical import CategoricalLayer
from pyro_corex.estimator.columns import Coding, Column
from pyro_corex.estimator.description import Description
from pyro_corex.estimator.gaussian import GaussianLayer
from pyro_corex.estimator.goodness import GoodnessOfFit
from pyro_corex.estimator.layer import Training
from pyro_corex.estimator.number import Scree
from pyro_corex.estimator.numerals import Numerals
from pyro_corex.estimator.table import Words
from pyro_corex.information import Bracket, Estimate
from pyro_corex.programs.latent_classes import LatentClasses
from pyro_corex.programs.tables import TableSpec, TableVAE
from pyro_corex.training.checkpoint import CheckpointError, check_folder, read, write

_CLASSES: dict[str, Any] = {
    each.__name__: each
    for each in (
        Bracket, CategoricalLayer, Coding, Column, Description, Estimate, GaussianLayer,
        GoodnessOfFit, Numerals, Scree, TableSpec, Training, Words,
    )
}  # fmt: skip
_PROGRAMS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "TableVAE": (TableVAE, ("spec", "latent_dim", "hidden", "oblique")),
    "LatentClasses": (LatentClasses, ("spec", "parents", "n_states")),
}
_DROPPED = ("bound_", "program_", "_encoded")  # the first two of the layer, and what is of rows


def save_estimator(estimator: Any, path: str | Path) -> None:
    """See :meth:`pyro_corex.CorEx.save`."""
    write(check_folder(path), {"kind": "CorEx", "content": _fields(estimator)})


def load_estimator(kind: Any, path: str | Path) -> Any:
    """See :meth:`pyro_corex.CorEx.load`."""
    content = read(check_folder(path))
    if content.get("kind") != "CorEx":
        raise CheckpointError(f"{path} holds no CorEx, but a {content.get('kind', 'run of fit')}")
    return _estimator(kind, content["content"])


def _fields(estimator: Any) -> dict[str, Any]:
    held = {name: value for name, value in vars(estimator).items() if name not in _DROPPED}
    upper = held.pop("upper_", None)
    if isinstance(held["random_state"], np.random.RandomState):
        held["random_state"] = None
    packed = {name: _packed(value) for name, value in held.items()}
    return {"fields": packed, "upper": None if upper is None else _fields(upper)}


def _estimator(kind: Any, content: Any) -> Any:
    found = kind()
    for name, value in content["fields"].items():
        setattr(found, name, _unpacked(value))
    found.program_ = found._layer.program
    found.upper_ = None if content["upper"] is None else _estimator(kind, content["upper"])
    return found


def _packed(value: Any) -> Any:
    """A value as numbers, text, tensors and lists of them, with the name of what it was."""
    name = type(value).__name__
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return ["objects", [_packed(each) for each in value]]
        return ["array", torch.as_tensor(np.ascontiguousarray(value))]
    if name in _PROGRAMS:
        arguments = [getattr(value, each) for each in _PROGRAMS[name][1]]
        arguments = [each.tolist() if isinstance(each, Tensor) else each for each in arguments]
        return ["program", name, _packed(arguments), dict(value.state_dict())]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [name, [_packed(each) for each in value]]
    if isinstance(value, dict):
        return ["dict", [[_packed(key), _packed(each)] for key, each in value.items()]]
    if name in _CLASSES:
        return ["object", name, {key: _packed(each) for key, each in vars(value).items()}]
    raise TypeError(
        f"A model holds numbers and text, but {value!r} is a {name}. Give parameters, and states "
        "of columns, as numbers or text."
    )


def _unpacked(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind == "array":
        return rest[0].numpy()
    if kind == "objects":
        return np.array([_unpacked(each) for each in rest[0]], dtype=object)
    if kind == "program":
        program: nn.Module = _PROGRAMS[rest[0]][0](*_unpacked(rest[1])).double().eval()
        program.load_state_dict(rest[2])
        return program
    if kind == "dict":
        return {_unpacked(key): _unpacked(each) for key, each in rest[0]}
    if kind == "object":
        found = object.__new__(_CLASSES[rest[0]])
        for key, each in rest[1].items():
            object.__setattr__(found, key, _unpacked(each))
        return found
    several = (_unpacked(each) for each in rest[0])
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](several)

"""Saving and loading a trained module, and telling two configurations apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyro_corex.training import files
from pyro_corex.training.files import CheckpointError

Module = TypeVar("Module", bound=nn.Module)


def save(module: nn.Module, path: str | Path) -> None:
    """Saves the parameters, buffers and KL-weight schedules of a module.

    The file is data: tensors, and the configuration of the module in words.  It is written at once
    or not at all.  The module is not in it, so keep the code that makes it.

    :param path: the file; its folder has to exist.
    :raises OSError: where it cannot be written; a file that was there is then as it was.
    :raises TypeError: for what is no ``nn.Module``.
    """
    _check_module("save(module, path)", module)
    files.write(check_folder(Path(path)), {"kind": "module", **contents(module)})


def load(path: str | Path, module: Module) -> Module:
    """Loads what :func:`save` wrote, or the parameters of a checkpoint of :func:`fit`.

    Nothing in the file is executed.  Tensors go to the device on which the module is.

    :param module: a module of the same configuration as the one that was saved; it is filled in
        place.
    :returns: ``module``.
    :raises FileNotFoundError: if there is no file.
    :raises CheckpointError: (a ``ValueError``) for a file that is foreign, cut short or changed,
        and for a module of another configuration, saying what differs; the module is then as it
        was.
    """
    _check_module("load(path, module)", module)
    fill(module, files.read(Path(path)), str(path))
    return module


def _check_module(call: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{call} needs a torch.nn.Module, but got {type(module).__name__}")


def contents(module: nn.Module) -> dict[str, Any]:
    """What a file says of a module."""
    return {
        "config": describe(module),
        "state": {name: value.detach() for name, value in module.state_dict().items()},
        "schedules": {name: part.state_dict() for name, part in schedules(module)},
    }


def fill(module: nn.Module, content: Mapping[str, Any], path: str) -> None:
    """Puts :func:`contents` back."""
    if "config" not in content:
        raise CheckpointError(f"{path} holds no module")
    compare(content["config"], describe(module), path)
    module.load_state_dict(content["state"])
    for name, part in schedules(module):
        if name in content["schedules"]:
            part.load_state_dict(content["schedules"][name])


def check_folder(path: Path) -> Path:
    """``path``, whose folder exists."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder {path.parent} of {path.name} does not exist: make it first, "
            "Path(folder).mkdir(parents=True)"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
    return path


def describe(module: nn.Module) -> dict[str, Any]:
    """A module's configuration as data.

    KL weights are left out: those that are buffers or schedules are saved as such, and others are
    not a part of the architecture.
    """
    parts = {}
    for name, part in module.named_modules():
        extra = part.extra_repr() if name else ""
        parts[name] = f"{type(part).__name__}({extra})"
    tensors = {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in module.state_dict().items()
    }
    return {"parts": parts, "tensors": tensors, "torch": str(torch.__version__)}


def compare(saved: Mapping[str, Any], given: Mapping[str, Any], path: str) -> None:
    """Raises ``CheckpointError``, naming what differs, where two configurations do."""
    differences = [
        f"{_name(name)} is {there} in the file, but {here} here"
        for name, there, here in _differ(saved["tensors"], given["tensors"], _tensor)
    ]
    if not differences or saved["parts"][""] != given["parts"][""]:
        differences = [
            f"{_name(name)} is {there} in the file, but {here} here"
            for name, there, here in _differ(saved["parts"], given["parts"], str)
        ] + differences
    if not differences:
        return
    shown = "; ".join(differences[:5])
    if len(differences) > 5:
        shown += f"; and {len(differences) - 5} more"
    raise CheckpointError(
        f"{path} is of a module of another configuration: {shown}. Make the module as it was "
        "when the file was written."
    )


def _differ(saved: Mapping[str, Any], given: Mapping[str, Any], show: Any) -> Iterator[Any]:
    for name in [*saved, *(n for n in given if n not in saved)]:
        there, here = saved.get(name), given.get(name)
        if there != here:
            yield (
                name,
                "absent" if there is None else show(there),
                "absent" if here is None else show(here),
            )


def _tensor(entry: Mapping[str, Any]) -> str:
    return f"{entry['dtype']} of shape {tuple(entry['shape'])}"


def _name(name: str) -> str:
    return repr(name) if name else "the module"


def schedules(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The KL-weight schedules (such as ``Warmup``) that a module holds, with their places."""
    for prefix, part in module.named_modules():
        for attribute, value in vars(part).items():
            held = value.items() if isinstance(value, Mapping) else [("", value)]
            for key, item in held:
                if is_schedule(item):
                    yield f"{prefix}.{attribute}[{key}]", item


def is_schedule(item: Any) -> bool:
    """Whether ``item`` has a state of its own that is no module's or tensor's."""
    return (
        not isinstance(item, (nn.Module, Tensor, type))
        and callable(getattr(item, "state_dict", None))
        and callable(getattr(item, "load_state_dict", None))
    )

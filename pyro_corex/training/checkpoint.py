"""Checkpoints: files that are whole or not there, and that hold data, never code.

A file is a line that says what it is, a line with the SHA-256 of what follows, and a dictionary as
``torch.save`` writes it.  It is read with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import itertools
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_corex.batches import check_count
from pyro_corex.files import check_writable, claimed, write_whole
from pyro_corex.training.first_run import into_store, stored_by
from pyro_corex.training.recipe import NotInWordsError, made, words
from pyro_corex.training.schedules import schedules

Module = TypeVar("Module", bound=nn.Module)

_MAGIC = b"pyro_corex file, format 1\n"
_HEADER = len(_MAGIC) + 64 + 1  # the digest in hexadecimal, and the end of its line

DIGESTS = ("the digest of the data", "the digest of the validation data")
"""What is compared where both runs know it."""


class CheckpointError(ValueError):
    """A file cannot be read, or does not fit."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often :func:`~pyro_corex.fit` writes the state of a run, and whether it goes on
    from there.

    The run goes on as though it had not stopped, on the CPU bit for bit.

    :raises ValueError: for options out of range.
    :raises TypeError: for what is no path.
    """

    path: str | Path
    """The file."""

    every: int | None = 1
    """Epochs from one checkpoint to the next; ``None`` for the end alone."""

    every_steps: int | None = None
    """Training steps from one to the next, in addition."""

    resume: bool | str = False
    """``True`` goes on from the file; "auto" does if it is there."""

    def __post_init__(self) -> None:
        for name in ("every", "every_steps"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)
        _as_path(self.path)
        if self.resume not in (True, False, "auto"):
            raise ValueError(f'resume must be True, False or "auto", but got {self.resume!r}')

    def looked_up(self) -> Checkpoint:
        """With a ``Path``, and ``resume`` as ``True`` or ``False``.

        :raises OSError: where the folder or the file is missing, the file is not to be there, or it
            could not be written.
        :raises ValueError: for what is no plain file.
        :raises TypeError: for what is no path.
        """
        path = check_folder(self.path)
        check_writable(path, prefix=f"{path.name}.")
        if self.resume is True and not path.exists():
            raise FileNotFoundError(
                f'There is no checkpoint {path} to go on from. resume="auto" would start anew'
            )
        if self.resume is False and path.exists():
            raise FileExistsError(
                f"{path} is there already: pass Checkpoint(path, resume=True) to go on from it, or "
                "delete it or name another file to start anew"
            )
        return replace(self, path=path, resume=path.exists())

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Has the file for this run alone, as it was when it was looked up.

        :raises OSError: where another run has it or, since then, has written it.
        """
        path = Path(self.path)
        with claimed(path):
            self.looked_up()
            for scratch in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.tmp"):
                with contextlib.suppress(OSError):
                    scratch.unlink()  # what a process that was killed as it wrote has left
            yield


def save(module: nn.Module, path: str | Path) -> None:
    """Saves the parameters, buffers and KL-weight schedules of a module.

    The file is data: tensors, and in words of which parts the module is made.  It is written at
    once or not at all.  :func:`load` makes a ready-made program again from the file alone, if its
    parts are this library's and torch.nn's.  For others keep the code that makes them.

    :param path: the file; its folder has to exist.
    :raises OSError: where it cannot be written; a file that was there is then as it was.
    :raises ValueError: where a parameter holds NaN, naming it.
    :raises TypeError: for what is no ``nn.Module``, or no path.
    """
    _check_module("save(module, path)", module)
    content = {**contents(module), "from_store": stored_by(module)}
    if bad := _with_nan(module, content["state"]) or _nan_in(content["from_store"]):
        raise ValueError(
            f"The parameter {bad!r} of the module must be numbers, but holds NaN, which load would "
            "refuse. Go back to a state from before."
        )
    write(check_folder(path), {"kind": "module", **content})


@overload
def load(path: str | Path) -> Any: ...
@overload
def load(path: str | Path, module: Module) -> Module: ...
def load(path: str | Path, module: Any = None) -> Any:
    """Loads what :func:`save` wrote, or the module of a checkpoint of :func:`fit`.

    Nothing in the file is executed.  Tensors go to the device on which the module is.

    :param module: a module of the same configuration as the one that was saved; it is filled in
        place.  Without it the module is made as the file says, on the CPU: a ready-made program
        such as :class:`~pyro_corex.CorExVAE`, whose parts are this library's and torch.nn's.
    :returns: ``module``, or the one that was made.
    :raises FileNotFoundError: if there is no file.
    :raises TypeError: for what is no ``nn.Module``, or no path.
    :raises CheckpointError: (a ``ValueError``) for a file that is foreign, cut short or changed,
        and for a module of another configuration, saying what differs; the module is then as it
        was.  Without ``module``, for a file whose module has parts from elsewhere, naming them.
    """
    if module is not None:
        _check_module("load(path, module)", module)
    content = read(check_folder(path))
    _check_has_module(content, path)
    try:
        module = made(content) if module is None else module
    except NotInWordsError as error:
        raise CheckpointError(
            f"{path} alone does not make its module: {error}. Make it by the code that made it "
            "then, and call load(path, module)."
        ) from error
    compare(module, content, path)
    try:
        into_store(content.get("from_store", {}))
    except ValueError as error:
        raise CheckpointError(f"{path} is not loaded: {error}.") from error
    fill(module, content, path)
    return module


def _check_module(call: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{call} needs a torch.nn.Module, but got {type(module).__name__}")
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    if lazy := next((name for name, value in named if is_lazy(value)), ""):
        raise ValueError(
            f"{call} needs parameters that are there, but {lazy!r} of a lazy module has no shape "
            "yet. Run the module once."
        )


def _as_path(given: Any) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"path must be the name of a file, but got {type(given).__name__}")
    return Path(given)


def check_folder(given: Any) -> Path:
    """The path that was given, whose folder exists."""
    path = _as_path(given)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder {path.parent} of {path.name} does not exist: make it first, "
            "Path(folder).mkdir(parents=True)"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
    return path


# ---------------------------------------------------------------------- files


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a dictionary of tensors, numbers, strings and containers of them.

    :raises OSError: as :func:`~pyro_corex.files.write_whole`, by which the file is whole or as it
        was.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).hexdigest().encode()
    write_whole(path, (_MAGIC, digest, b"\n", payload), prefix=f"{path.name}.")


def read(path: Path) -> dict[str, Any]:
    """What :func:`write` wrote; tensors are on the CPU.

    :raises FileNotFoundError: if there is no file.
    :raises CheckpointError: for a file that is foreign, cut short or changed.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}") from None
    if raw[: len(_MAGIC)] != _MAGIC[: len(raw)] or not raw:
        raise CheckpointError(
            f"{path} is not a file that pyro_corex wrote with save or fit. (A state_dict that "
            "torch.save wrote is read with torch.load(path, weights_only=True).)"
        )
    digest, payload = raw[len(_MAGIC) : _HEADER - 1], raw[_HEADER:]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is damaged: it was cut short or changed after it was written ({len(raw)} "
            "bytes; the checksum does not fit). Take an older copy."
        )
    file = io.BytesIO(payload)
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds something other than data, which is not loaded, as it could run code. "
            "Take a file that save or fit wrote."
        ) from error
    return content


# ---------------------------------------------------------------------- modules


def contents(module: nn.Module) -> dict[str, Any]:
    """What a file says of a module: its configuration in words, its tensors, its schedules.

    KL weights are no part of the configuration: those that are buffers or schedules are saved as
    such, and others are not a part of the architecture.
    """
    return {
        **words(module),
        "config": _describe(module),
        "state": {name: value.detach() for name, value in module.state_dict().items()},
        "schedules": {name: part.state_dict() for name, part in schedules(module)},
    }


def fill(module: nn.Module, content: Mapping[str, Any], path: str | Path) -> None:
    """Puts :func:`contents` back.

    :raises CheckpointError: naming what differs, where the configuration is another; the module is
        then as it was.
    """
    compare(module, content, path)
    module.load_state_dict(content["state"])
    for name, part in schedules(module):
        if name in content["schedules"]:
            part.load_state_dict(content["schedules"][name])


def compare(module: nn.Module, content: Mapping[str, Any], path: str | Path) -> None:
    """Raises ``CheckpointError`` where a module is not the one that a file is of."""
    _check_has_module(content, path)
    saved, given = content["config"], _describe(module)
    differences = _differences(_tensors(content["state"]), given["tensors"])
    if not differences or saved["parts"][""] != given["parts"][""]:
        differences = _differences(saved["parts"], given["parts"]) + differences
    if differences:
        more = len(differences) - 5
        shown = "; ".join(differences[:5] + [f"and {more} more"] * (more > 0))
        raise CheckpointError(
            f"{path} is of a module of another configuration: {shown}. Make the module as it was "
            "when the file was written."
        )
    bad = _with_nan(module, content["state"])
    if bad := bad or _nan_in(content.get("from_store", {})):
        raise CheckpointError(f"{path} holds NaN in the parameter {bad!r}. Take an older copy.")


def _check_has_module(content: Mapping[str, Any], path: str | Path) -> None:
    if "config" not in content:
        cure = ", but a CorEx: CorEx.load(path) reads it" if content.get("kind") == "CorEx" else ""
        raise CheckpointError(f"{path} holds no module{cure}")


def _with_nan(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The name of a parameter that holds NaN in ``state``, or nothing."""
    return _nan_in({name: state[name] for name, _ in module.named_parameters() if name in state})


def _nan_in(state: Mapping[str, Tensor]) -> str:
    return next((name for name, value in state.items() if bool(value.isnan().any())), "")


def compare_runs(
    state: Mapping[str, Any], told: Mapping[str, Any], epochs: int, path: str | Path
) -> None:
    """Raises where a run is not the one that a file is of, and warns where the versions differ.

    :raises CheckpointError: for another run.
    :raises ValueError: where it has more epochs behind it than there are to be.
    """
    if state.get("kind") != "checkpoint":
        raise CheckpointError(
            f"{path} holds a module, as save wrote it, but no run to go on with. Load it with "
            "load(path, module), and start a run with another checkpoint=..."
        )
    saved = state["told"]
    unknown = {name for name in DIGESTS if None in (saved.get(name), told.get(name))}
    given = {**told, **{name: saved.get(name) for name in unknown}}
    different = [f"{name} was {was!r} and is {new!r}" for name, was, new in _changed(saved, given)]
    if different:
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(different)}. To go on with that run, call fit "
            "as it was called, on the same data (epochs may be more); to start another from its "
            "parameters, load(path, module) and give another checkpoint=..."
        )
    place = state["place"]
    if epochs < (least := place["epoch"] - (not place["batch"])):
        begun = "the last has begun" if place["batch"] else f"{least} are done"
        raise ValueError(
            f"epochs must be at least {least}, but got {epochs}: it is the number of all epochs of "
            f"the run, and in {path} {begun}. load(path, module) takes the parameters alone."
        )
    known = state["config"].get("versions", {})
    if known and (others := _changed(known, _versions())):
        were = " and ".join(f"{name} {was}, but this is {new}" for name, was, new in others)
        warnings.warn(
            f"{path} was written with {were}: the rest of the run may differ from what it would "
            "have been.",
            stacklevel=2,
        )


def _versions() -> dict[str, str]:
    ours = vars(sys.modules[__name__.partition(".")[0]])["__version__"]
    return {"pyro_corex": str(ours), "torch": str(torch.__version__)}


def _describe(module: nn.Module) -> dict[str, Any]:
    parts = {
        name: f"{type(part).__name__}({part.extra_repr() if name else ''})"
        for name, part in module.named_modules()
    }
    tensors = _tensors(module.state_dict())
    return {"parts": parts, "tensors": tensors, "versions": _versions()}


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in state.items()
    }


def _differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    def show(entry: Any) -> str:
        if isinstance(entry, Mapping):
            return f"{entry['dtype']} of shape {tuple(entry['shape'])}"
        return "absent" if entry is None else str(entry)

    return [
        f"{repr(name) if name else 'the module'} is {show(was)} in the file, but {show(new)} here"
        for name, was, new in _changed(saved, given)
    ]


def _changed(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    pairs = ((name, saved.get(name), given.get(name)) for name in {**saved, **given})
    return [pair for pair in pairs if pair[1] != pair[2]]

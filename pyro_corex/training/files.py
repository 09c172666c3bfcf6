"""Files that are whole or not there, and that hold data, never code.

A file is a line that says what it is, a line with the SHA-256 of what follows, and a dictionary as
``torch.save`` writes it.  It is read with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import uuid
from pathlib import Path
from typing import Any

import torch

_MAGIC = b"pyro_corex file, format 1\n"
_HEADER = len(_MAGIC) + 64 + 1  # the digest in hexadecimal, and the end of its line


class CheckpointError(ValueError):
    """A file cannot be read, or does not fit."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a dictionary of tensors, numbers, strings and containers of them.

    At any moment the file at ``path`` is the old one or the new one, whole: the new one is written
    beside it, flushed to the disk and then moved into place.

    :raises OSError: where that is not possible; the old file is then as it was.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).hexdigest().encode()
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(scratch, "xb") as file:
            for part in (_MAGIC, digest, b"\n", payload):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        if isinstance(error, OSError):
            raise OSError(
                error.errno,
                f"Could not write {path}: {error.strerror or error}. "
                + ("The file that was there is as it was" if path.exists() else "Nothing is there"),
            ) from error
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Has the move itself on the disk, where the system offers that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Deletes what a process that was killed while it wrote ``path`` has left beside it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.tmp")
    for other in path.parent.iterdir():
        if name.fullmatch(other.name):
            with contextlib.suppress(OSError):
                other.unlink()


def read(path: Path) -> dict[str, Any]:
    """What :func:`write` wrote; tensors are on the CPU.

    :raises FileNotFoundError: if there is no file.
    :raises CheckpointError: for a file that is foreign, cut short or changed.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a file that pyro_corex wrote") from None
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
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(payload), map_location="cpu", weights_only=True
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds something other than data, which is not loaded: {error}"
        ) from error
    return content

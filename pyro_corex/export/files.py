"""Files that are written whole or not at all."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[io.StringIO]:
    """A text that takes the place of the file at ``path`` once the block has come to its end.

    What cannot be written is refused before the block begins.  At any moment the file is the old
    one or the new one, whole, and keeps its mode.

    :raises ValueError: for a folder, and where the folder is missing.
    :raises OSError: where the file cannot be written; the old one is then as it was.
    """
    with _told(path):
        mode = _mode(path)
    scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
    text = io.StringIO()
    try:
        with _told(path):
            scratch.touch(exist_ok=False)
            scratch.unlink()  # so that nothing is left of a process that is killed at its work
        yield text
        with _told(path):
            with open(scratch, "w", encoding="utf-8") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                scratch.chmod(mode)
            os.replace(scratch, path)
    finally:
        with suppress(OSError):
            scratch.unlink()


def as_file(path: object) -> Path:
    """The path of a file, links followed, so that what they lead to is what is written.

    :raises TypeError: for what is no path.
    :raises ValueError: for what can be the name of no file.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"path must be the name of a file, but got {type(path).__name__}")
    if not str(path) or "\0" in str(path):
        raise ValueError(f"path must be the name of a file, but got {str(path)!r}")
    return Path(os.path.realpath(path))


def _mode(path: Path) -> int | None:
    """Of the file that is there; ``None`` where there is none."""
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} does not exist: make it first")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not path.is_file():
        raise ValueError(f"path must be the name of a file, but {path} is a folder or a device")
    if not os.access(path, os.W_OK):
        raise PermissionError(13, "it is read-only")
    return mode & 0o7777


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written, and that nothing has come of it."""
    try:
        yield
    except OSError as error:
        left = (
            "The file that was there is as it was" if os.path.isfile(path) else "Nothing is there"
        )
        text = f"Could not write {path}: {error.strerror or error}. {left}"
        raise OSError(error.errno, text) from error

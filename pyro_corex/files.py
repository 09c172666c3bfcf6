"""Files that are written whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, parts: Iterable[bytes | memoryview], prefix: str = "") -> None:
    """Writes a file that at any moment is the old one or the new one, whole.

    It is written beside ``path``, flushed to the disk and then moved into place, with the mode of
    the old one.

    :param prefix: of what is written beside, after a dot.
    :raises OSError: where that is not possible; the old file is then as it was.
    """
    scratch = path.with_name(f".{prefix}{uuid.uuid4().hex}.tmp")
    try:
        with _told(path):
            with open(scratch, "xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                scratch.chmod(stat.S_IMODE(path.stat().st_mode))
            os.replace(scratch, path)
    finally:
        with suppress(OSError):
            scratch.unlink()
    with suppress(OSError):  # the move itself, where the system offers that
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def replacing(path: Path) -> Iterator[io.StringIO]:
    """A text that takes the place of the file at ``path`` once the block has come to its end.

    What cannot be written is refused before the block begins; see :func:`write_whole`.

    :raises ValueError: for a folder, and where the folder is missing.
    :raises OSError: where the file cannot be written; the old one is then as it was.
    """
    with _told(path):
        _check_writable(path)
        probe = path.with_name(f".{uuid.uuid4().hex}.tmp")
        probe.touch(exist_ok=False)
        probe.unlink()  # so that nothing is left of a process that is killed at its work
    text = io.StringIO()
    yield text
    write_whole(path, [text.getvalue().encode()])


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


def _check_writable(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} does not exist: make it first")
    try:
        path.stat()  # which tells of a name that is too long
    except FileNotFoundError:
        return
    if not path.is_file():
        raise ValueError(f"path must be the name of a file, but {path} is a folder or a device")
    if not os.access(path, os.W_OK):
        raise PermissionError(13, "it is read-only")


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

"""Files that are written whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows, where two runs are not kept apart
    fcntl = None

_claimed = set[Path]()
_IN_USE = (
    "Another run writes {} at this time (the process {}): give each run a checkpoint of its own, "
    "or wait for the other, or end it"
)


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
    check_writable(path)
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


def check_writable(path: Path, prefix: str = "") -> None:
    """Raises what :func:`write_whole` would, and ``ValueError`` for a folder or a missing one."""
    with _told(path):
        if not path.parent.is_dir():
            raise ValueError(f"The folder {path.parent} does not exist: make it first")
        with suppress(FileNotFoundError):
            path.stat()  # which tells of a name that is too long
            if not path.is_file():
                raise ValueError(
                    f"path must be the name of a file, but {path} is a folder or a device"
                )
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "it is read-only")
        probe = path.with_name(f".{prefix}{uuid.uuid4().hex}.tmp")
        probe.touch(exist_ok=False)
        probe.unlink()  # so that nothing is left of a process that is killed at its work


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keeps the file at ``path`` for this process, until the block has come to its end.

    The lock is one of the system's, on a file beside it, so that it ends with the process, however
    that ends; a file that is left of it then means nothing.

    :raises BlockingIOError: where somebody has it already.
    """
    beside = path.with_name(f".{path.name}.lock")
    if beside in _claimed:  # the system would let this process have it twice
        raise BlockingIOError(_IN_USE.format(path, os.getpid()))
    file = _locked(beside, path)
    _claimed.add(beside)
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        _claimed.discard(beside)
        with suppress(OSError):
            beside.unlink()
        file.close()


def _locked(beside: Path, path: Path) -> TextIO:
    while True:
        file = open(beside, "a+", encoding="ascii")  # noqa: SIM115 -- it has to stay open
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read()
            file.close()
            raise BlockingIOError(_IN_USE.format(path, owner or "unknown")) from None
        except OSError:  # a disk without locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), beside.stat()):
                return file
        file.close()  # its owner has just come to its end, and deleted it


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

"""Tensors that are longer than memory, in files of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

_BYTES = 1 << 24  # what is held in memory at once while a file is turned round


def concatenate_in_files(parts: Iterable[tuple[Tensor, ...]], folder: str | Path) -> list[Tensor]:
    """As ``[torch.cat(column) for column in zip(*parts)]``, but in memory-mapped files.

    The files have no name and vanish with the tensors. Each holds one latent after the other, so
    that what reads a few latents of all data reads one stretch of the file; while it is written,
    there are two copies of it.

    :param parts: tuples of tensors ``(B, ...)``, which may differ in B only.  Half precision is
        stored as float32.
    :param folder: where the files are made, best on a quick disk.
    :returns: one CPU tensor ``(N, ...)`` for each member of the tuples; none if there are no parts.
    :raises FileNotFoundError, NotADirectoryError, PermissionError: where no file can be made in
        ``folder``.
    :raises OSError: where the disk is full.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the folder for the encodings, {str(folder)!r}, does not exist; make it first"
        )
    spools: list[_Spool] = []
    try:
        for part in parts:
            if not spools:
                spools = [_Spool(x, folder) for x in part]
            for spool, x in zip(spools, part, strict=True):
                spool.append(x)
        return [spool.finish() for spool in spools]
    finally:
        for spool in spools:
            spool.rows.close()


class _Spool:
    """Rows in a file, in the order of their arrival."""

    def __init__(self, like: Tensor, folder: Path) -> None:
        self.folder = folder
        self.shape = like.shape[1:]
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.size = 0
        self.rows = _file(folder)

    def append(self, x: Tensor) -> None:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"a batch has encodings of shape {tuple(x.shape[1:])} for each datum, but those "
                f"before it have {tuple(self.shape)}"
            )
        self.rows.write(x.detach().to("cpu", self.dtype).contiguous().numpy().data)
        self.size += len(x)

    def finish(self) -> Tensor:
        """Turns the file round: one latent after the other."""
        width = self.shape.numel()
        dtype = np.dtype(str(self.dtype).removeprefix("torch."))
        row_bytes = width * dtype.itemsize
        with _file(self.folder) as file:
            _reserve(file, self.size * row_bytes)
            turned = np.memmap(file, dtype, "r+", shape=(width, self.size))
        self.rows.seek(0)
        step = max(1, _BYTES // row_bytes)
        for start in range(0, self.size, step):
            count = min(step, self.size - start)
            block = np.frombuffer(self.rows.read(count * row_bytes), dtype)
            turned[:, start : start + count] = block.reshape(count, width).T
        return torch.from_numpy(turned).T.unflatten(1, self.shape)


def _file(folder: Path) -> IO[Any]:
    return tempfile.TemporaryFile(dir=folder, prefix="pyro_corex_")


def _reserve(file: IO[Any], size: int) -> None:
    """Takes the space at once: a full disk is an error here, and a crash in a mapped file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)

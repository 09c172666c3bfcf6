"""Reading a data set batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Data = Tensor | np.ndarray[Any, Any] | Dataset[Any] | Iterable[Any]


def read_batches(data: Data, batch_size: int) -> Iterator[Tensor]:
    """The x of each batch, in order; nothing but the batch at hand is kept.

    :param data: a tensor or an array ``(N, ...)``, a ``Dataset``, or an iterable of batches such as
        a ``DataLoader``.  Items that are tuples or lists give x as their first entry.
    :param batch_size: of tensors, arrays and data sets; an iterable has its own.
    :raises ValueError: where a tensor or an array is a scalar, or ``batch_size`` is below 1.
    :raises TypeError: where data is none of these, or a batch is no tensor.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, but is {batch_size!r}.")
    if isinstance(data, (Tensor, np.ndarray)):
        whole = torch.as_tensor(data)
        if whole.dim() == 0:
            raise ValueError("data must have shape (N, ...), one row per datum, but is a scalar.")
        yield from whole.split(batch_size) if len(whole) else ()
        return
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=batch_size)
    if not isinstance(data, Iterable):
        raise TypeError(
            "data must be a tensor, an array, a Dataset or an iterable of batches, but is "
            f"{type(data).__name__}."
        )
    for batch in data:
        yield first_of(batch)


def first_of(batch: Any) -> Tensor:
    """The x of a batch that may come with labels.

    :raises TypeError: where there is no tensor.
    """
    x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(x, Tensor):
        got = type(batch).__name__
        raise TypeError(
            "a batch must be a tensor or begin with one, but is "
            + (got if x is batch else f"{got} that begins with {type(x).__name__}")
            + "."
        )
    return x

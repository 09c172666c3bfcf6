"""Batches: what a program is given, and the one reader of data for everything that takes data.

A program is called as ``model(*batch.args, **batch.kwargs)``.  A batch that is a tensor is one
argument, a tuple or a list is one argument an entry, and a mapping gives keyword arguments, so that
labels, covariates, masks and second modalities reach the programs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Data = (
    Tensor
    | np.ndarray[Any, Any]
    | tuple[Any, ...]
    | Mapping[str, Any]
    | Dataset[Any]
    | Iterable[Any]
)
"""A tensor or an array ``(N, ...)``, a tuple or a mapping of them, a ``Dataset``, or an iterable of
batches such as a ``DataLoader``."""


@dataclass(frozen=True)
class Batch:
    """The arguments of a program: tensors whose first axis is the data."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Any) -> Batch:
        """A batch as it comes from a loader: a tensor, an array, or a tuple or mapping of them.

        :raises TypeError: where it is none of these, or holds no tensor.
        """
        if isinstance(found, Batch):
            return found
        if isinstance(found, Mapping):
            batch = cls((), {str(name): _tensor(value) for name, value in found.items()})
        elif isinstance(found, (tuple, list)):
            batch = cls(tuple(_tensor(value) for value in found))
        else:
            batch = cls((_tensor(found),))
        if not batch.tensors():
            raise TypeError(
                "A batch must be a tensor, or a tuple or a mapping of tensors, but is "
                f"{_kind(found)}."
            )
        return batch

    def tensors(self) -> list[Tensor]:
        """Its tensors, in order."""
        every = (*self.args, *self.kwargs.values())
        return [value for value in every if isinstance(value, Tensor)]

    def __len__(self) -> int:
        """The number of data."""
        first = self.tensors()[0]
        return len(first) if first.dim() else 1

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with ``function`` applied to each of its tensors."""

        def each(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return Batch(
            tuple(each(value) for value in self.args),
            {name: each(value) for name, value in self.kwargs.items()},
        )

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Batch:
        """The batch on a device, as a program with parameters of ``dtype`` takes it.

        Of a batch that is one tensor, any dtype becomes ``dtype``.  Of several things, those that
        are floating do; integers and booleans, such as labels and masks, stay what they are.
        """
        alone = len(self.args) + len(self.kwargs) == 1

        def move(value: Tensor) -> Tensor:
            if dtype is not None and (alone or value.is_floating_point()):
                return value.to(device, dtype, non_blocking=True)
            return value.to(device, non_blocking=True)

        return self.map(move)

    def call(self, function: Callable[..., Any]) -> Any:
        """``function`` of these arguments."""
        return function(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        shown = [_kind(value) for value in self.args]
        shown += [f"{name}: {_kind(value)}" for name, value in self.kwargs.items()]
        return f"Batch({', '.join(shown)})"


def for_program(batch: Batch, module: Any, method: str = "model") -> Batch:
    """What ``getattr(module, method)`` is given of a batch.

    A ready-made program takes x alone (``takes_x_alone``): the first entry, or the one named
    ``"x"``.  Any other program is given all, and has to take it.

    :raises TypeError: where it does not, saying how to select.
    """
    if getattr(module, "takes_x_alone", False):
        if not batch.kwargs:
            return Batch(batch.args[:1])
        if "x" in batch.kwargs or len(batch.kwargs) == 1:
            return Batch((batch.kwargs.get("x", next(iter(batch.kwargs.values()))),))
        raise TypeError(
            f"{type(module).__name__} takes x alone, but the batches have the names "
            f"{sorted(batch.kwargs)}, none of which is 'x'. Select one: "
            "transform=lambda **batch: batch['...']."
        )
    program = getattr(module, method)
    try:
        signature = inspect.signature(program)
    except (TypeError, ValueError):  # a callable that does not tell
        return batch
    try:
        signature.bind(*batch.args, **batch.kwargs)
    except TypeError as error:
        got = ", ".join([_kind(v) for v in batch.args] + [f"{n}=..." for n in batch.kwargs])
        raise TypeError(
            f"Each batch holds {len(batch.args) + len(batch.kwargs)} things ({got}), but "
            f"{method}{signature} does not take them: {error}. Either let model and guide take "
            f"all of a batch, or select with transform={_selection(batch)}."
        ) from None
    return batch


def read_batches(data: Data, batch_size: int, module: Any = None) -> Iterator[Batch]:
    """The batches of a data set in order; nothing but the batch at hand is kept.

    :param data: see :data:`Data`.
    :param batch_size: of tensors, arrays and data sets; an iterable of batches has its own.
    :param module: the program that takes the batches: they go to the device and the dtype of its
        parameters.
    :raises ValueError: for a scalar, tensors of different lengths, and ``batch_size`` below 1.
    :raises TypeError: for data, or a batch, of another kind.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer >= 1, but got {batch_size!r}")
    device, dtype = place_of(module)
    whole = in_memory(data)
    batches: Iterable[Any]
    if whole is not None:
        starts = range(0, len(whole), batch_size)
        batches = (
            whole.map(lambda value, at=at: value[at : at + batch_size])  # type: ignore[misc]
            for at in starts
        )
    elif isinstance(data, Dataset):
        batches = DataLoader(data, batch_size=batch_size)
    elif isinstance(data, Iterable):
        batches = data
    else:
        raise TypeError(
            "data must be a tensor, an array, a tuple or a dict of them, a Dataset or an iterable "
            f"of batches, but got {type(data).__name__}"
        )
    for batch in batches:
        yield Batch.of(batch).to(device, dtype)


def in_memory(data: Any) -> Batch | None:
    """Data that are tensors or arrays, as one large batch; ``None`` for others.

    :raises ValueError: for a scalar, and for tensors of different lengths.
    """
    if isinstance(data, (Dataset, DataLoader)):
        return None
    several = isinstance(data, (tuple, Mapping))
    if not several and not isinstance(data, (Tensor, np.ndarray, Batch)):
        return None
    if isinstance(data, tuple) and not all(isinstance(v, (Tensor, np.ndarray)) for v in data):
        return None  # batches
    whole = Batch.of(data)
    lengths = {len(value) if value.dim() else 0 for value in whole.tensors()}
    if any(not value.dim() for value in whole.tensors()):
        raise ValueError("data must have shape (N, ...), one row per datum, but hold a scalar.")
    if len(lengths) > 1:
        raise ValueError(
            f"The data hold tensors of different lengths, {sorted(lengths)}; their first axis is "
            f"the data: {whole!r}."
        )
    return whole


def place_of(module: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the dtype of a program's parameters; of one without, torch's default dtype."""
    if not isinstance(module, torch.nn.Module):
        return None, None if module is None else torch.get_default_dtype()
    parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return None, torch.get_default_dtype()
    return parameter.device, parameter.dtype


def _tensor(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return type(value).__name__


def _selection(batch: Batch) -> str:
    if batch.kwargs:
        return f"lambda **batch: batch[{next(iter(batch.kwargs))!r}]"
    return "lambda x, *rest: x"

"""Batches: what a program is given, and the one reader of data for everything that takes data.

A program is called as ``model(*batch.args, **batch.kwargs)``.  A batch that is a tensor is one
argument, a tuple or a list is one argument an entry, and a mapping gives keyword arguments, so that
labels, covariates, masks and second modalities reach the programs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_corex.arrays import as_tensor, is_array, tensor_of

Transform = Callable[..., Any]
"""From what the programs would be given of a batch to what they are given instead."""


@dataclass(frozen=True)
class Batch:
    """The arguments of a program: tensors whose first axis is the data."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Any) -> Batch:
        """A batch as it comes from a loader: a tensor, an array, or a tuple or mapping of them.

        :raises TypeError: where it is none of these, holds no tensor, or one of no numbers.
        """
        if isinstance(found, Batch):
            return found
        several = isinstance(found, (Mapping, tuple, list))
        if isinstance(found, Mapping):
            named = {str(name): _read(value, f"data[{name!r}]") for name, value in found.items()}
            batch = cls((), named)
        else:
            each = enumerate(found) if several else [("", found)]
            batch = cls(tuple(_read(x, f"data[{at}]" if several else "data") for at, x in each))
        if not batch.tensors():
            held = " and ".join(sorted({_kind(value) for value in batch.args})) or "nothing"
            held = f"{_kind(found)} of {held}" if several else held
            raise TypeError(
                f"A batch must be a tensor, or a tuple or a mapping of tensors, but got {held}"
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

        return Batch(tuple(map(each, self.args)), {n: each(v) for n, v in self.kwargs.items()})

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Batch:
        """The batch on a device, as a program with parameters of ``dtype`` takes it.

        A batch that is one tensor becomes floating, whatever its dtype.  Of several things,
        integers and booleans, such as labels and masks, stay what they are.  Without a ``dtype``
        floating tensors keep theirs.
        """
        alone = len(self.args) + len(self.kwargs) == 1

        def move(value: Tensor) -> Tensor:
            wanted = value.dtype
            if value.is_floating_point():
                wanted = dtype or wanted
            elif alone:
                wanted = dtype or torch.get_default_dtype()
            return value.to(device or value.device, wanted, non_blocking=True)

        return self.map(move)

    def call(self, function: Callable[..., Any]) -> Any:
        """``function`` of these arguments."""
        return function(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        shown = [_kind(value) for value in self.args]
        shown += [f"{name}: {_kind(value)}" for name, value in self.kwargs.items()]
        return f"Batch({', '.join(shown)})"


Array = Tensor | np.ndarray[Any, Any]
Data = Array | tuple[Any, ...] | Mapping[str, Any] | Dataset[Any] | Iterable[Any] | Batch
"""A tensor, an array, a table of pandas or a list of rows of numbers ``(N, ...)``, a tuple or a
mapping of them, a ``Dataset``, or an iterable of batches such as a ``DataLoader``; or all data as
one batch."""


# ---------------------------------------------------------------------- programs

_PROGRAMS = ("model", "guide")


def programs_of(module: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and the guide of a program.

    :raises TypeError: for a module that lacks one of them.
    """
    if isinstance(module, type):
        raise TypeError(f"module must be a program, but got a class: make one, {module.__name__}()")
    model, guide = getattr(module, "model", None), getattr(module, "guide", None)
    if not callable(model) or not callable(guide):
        raise TypeError(
            f"{type(module).__name__} must have the methods .model(x) and .guide(x), as CorExVAE "
            "has. For two functions, types.SimpleNamespace(model=model, guide=guide) will do."
        )
    return model, guide


def place_of(module: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the dtype of a program's parameters; of one without, ``None`` for each.

    Of what is no module, those of the modules that its model and guide are methods of, or that it
    holds.
    """
    if isinstance(module, torch.nn.Module) and (own := _first_floating(module)) is not None:
        return own.device, own.dtype
    owners = [module, *(getattr(getattr(module, n, None), "__self__", None) for n in _PROGRAMS)]
    owners += getattr(module, "__dict__", {}).values()
    modules = (owner for owner in owners if isinstance(owner, torch.nn.Module))
    parameters = (p for owner in modules for p in owner.parameters())
    floating = ((p.device, p.dtype) for p in parameters if p.is_floating_point())
    return next(floating, (None, None))


def _first_floating(module: torch.nn.Module) -> Tensor | None:
    """The first of ``module.parameters()`` that is floating, without a look at all modules."""
    for own in module._parameters.values():
        if own is not None and own.is_floating_point():
            return own
    parts = (_first_floating(part) for part in module._modules.values() if part is not None)
    return next((found for found in parts if found is not None), None)


def for_program(batch: Batch, module: Any, method: str = "model") -> Batch:
    """What ``getattr(module, method)`` is given of a batch.

    A ready-made program takes x alone (``takes_x_alone``): the first entry, or the one named
    ``"x"``.  Any other program is given all, and has to take it.

    :raises TypeError: where it does not, saying how to select.
    """
    return prepare(module, methods=[method])(batch)


def prepare(
    module: Any, transform: Transform | None = None, methods: Iterable[str] = ("model", "guide")
) -> Callable[[Batch], Batch]:
    """The function from a batch to what the programs are given of it: see :func:`for_program`.

    ``transform`` is applied before; what it gives goes to the program's device and dtype, too.
    Programs are asked once for batches of one kind.
    """
    if transform is not None and not callable(transform):
        raise TypeError(f"transform must be a function of a batch, but got {transform!r}")
    known: set[tuple[Any, ...]] = set()

    def take(function: Callable[..., Any], name: str, batch: Batch) -> None:
        kind = (name, len(batch.args), *batch.kwargs)
        if kind not in known:
            _check_taken(batch, function, name)
            known.add(kind)

    def prepared(batch: Batch) -> Batch:
        batch = _x_alone(batch, module)
        if transform is not None:
            take(transform, "transform", batch)
            batch = placed(Batch.of(batch.call(transform)), module)
        if getattr(module, "takes_x_alone", False) and len(batch.kwargs) > 1:
            raise TypeError(
                f"{type(module).__name__} takes x alone, but the batches have the names "
                f"{sorted(batch.kwargs)}, none of which is 'x'. Select one with "
                "transform=lambda **batch: batch['...']."
            )
        for method in methods:
            take(getattr(module, method), method, batch)
        return batch

    return prepared


def _x_alone(batch: Batch, module: Any) -> Batch:
    """For a ready-made program x, where it is known which that is; else the batch."""
    if not getattr(module, "takes_x_alone", False):
        return batch
    named = list(batch.kwargs.values())
    if len(named) == 1 or "x" in batch.kwargs:
        return Batch((batch.kwargs.get("x", named[0]),))
    return Batch(batch.args[:1]) if len(batch.args) > 1 else batch


def _check_taken(batch: Batch, function: Callable[..., Any], name: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a callable that does not tell
        return
    try:
        signature.bind(*batch.args, **batch.kwargs)
    except TypeError as error:
        names = list(batch.kwargs)
        how = f"lambda **batch: batch[{names[0]!r}]" if names else "lambda x, *rest: x"
        raise TypeError(
            f"Each batch is {batch!r}, but {name}{signature} does not take it: {error}. Either let "
            f"model and guide take all of a batch, or select with transform={how}"
        ) from None


# ---------------------------------------------------------------------- reading


def read_batches(data: Data, batch_size: int, module: Any = None) -> Iterator[Batch]:
    """The batches of a data set in order; nothing but the batch at hand is kept.

    :param data: see :data:`Data`.
    :param batch_size: of tensors, arrays and data sets; an iterable of batches has its own.
    :param module: the program that takes the batches: they go to the device and the dtype of its
        parameters, and ready-made programs get x alone.
    :raises ValueError: for a scalar, tensors of different lengths, and ``batch_size`` below 1.
    :raises TypeError: for data, or a batch, of another kind.
    """
    check_count("batch_size", batch_size)
    whole = in_memory(data)
    batches: Iterable[Any]
    if whole is not None:
        starts = range(0, len(whole), batch_size)
        batches = (whole.map(itemgetter(slice(at, at + batch_size))) for at in starts)
    elif isinstance(data, Dataset):
        batches = DataLoader(data, batch_size=batch_size)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, set, frozenset)):
        batches = data
    else:
        raise TypeError(
            "data must be a tensor, an array, a tuple or a dict of them, a Dataset or an iterable "
            f"of batches, but got {type(data).__name__}"
        )
    for batch in map(Batch.of, batches):
        yield batch if module is None else placed(batch, module)


def together(parts: Sequence[Tensor]) -> Tensor:
    """Batches one after the other: where they are parts of one tensor, that, and else a copy."""
    first = parts[0]
    row, end = first.stride(0), first.storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        same &= part.shape[1:] == first.shape[1:] and part.stride() == first.stride()
        if not same or part.dtype != first.dtype or part.storage_offset() != end or not row:
            return torch.cat(list(parts))
        end += len(part) * row
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


def placed(batch: Batch, module: Any) -> Batch:
    """A batch on the device and in the dtype of a program; for a ready-made one, x alone."""
    return _x_alone(batch, module).to(*place_of(module))


def in_memory(data: Any) -> Batch | None:
    """Data that are tensors or arrays, as one large batch; ``None`` for others.

    :raises ValueError: for a scalar, and for tensors of different lengths.
    """
    held = data if isinstance(data, tuple) and data else [data]
    if not all(map(is_array, held)) and not isinstance(data, (Mapping, Batch)):
        return None
    whole = Batch.of((data,) if isinstance(data, list) else data)
    if any(not value.dim() for value in whole.tensors()):
        raise ValueError("data must have shape (N, ...), one row per datum, but hold a scalar")
    lengths = {len(value) for value in whole.tensors()}
    if len(lengths) > 1:
        raise ValueError(
            f"The data hold tensors of different lengths, {sorted(lengths)}; their first axis is "
            f"the data: {whole!r}"
        )
    return whole


def check_seed(seed: Any) -> int:
    """``seed``; raises ``ValueError`` for what is none."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 60:
        raise ValueError(f"seed must be an integer from 0 to 2**60 - 1, but got {seed!r}")
    return int(seed)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """``value``; raises ``ValueError`` for what is no integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, but got {value!r}")
    return value


def argument(value: Any, module: Any, name: str = "x", least: int = 2) -> Tensor:
    """What a method of a module is given, as a tensor on its device and in its dtype.

    :raises TypeError: for what holds no numbers, naming the argument.
    :raises ValueError: for fewer than ``least`` axes.
    """
    found = as_tensor(value, name)
    if found.dim() < least:
        raise ValueError(
            f"{name} must have the shape (B, ...), but got {tuple(found.shape)}. A single datum is "
            f"{name}[None], a single column {name}[:, None]"
        )
    device, dtype = place_of(module)
    if (found.device, found.dtype) == (device, dtype):
        return found
    return Batch((found,)).to(device, dtype).tensors()[0]


def _read(value: Any, name: str) -> Any:
    """An entry of a batch: data are read and not trained, so that they have no graph."""
    found = tensor_of(value, name)
    if not isinstance(found, Tensor):
        return found
    if found.is_meta:
        raise TypeError(f"{name} must hold numbers, but is on the device 'meta', which has none")
    return found.detach() if found.requires_grad else found


def _kind(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

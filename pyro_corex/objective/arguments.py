"""Arguments: what programs are called with, and tensors in it as rows of data and columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pyro_corex.objective.closed_form import Program


class Programs:
    """A pair of programs and what they were called with, for questions that are asked later."""

    def __init__(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        self.model, self.guide = model, guide
        self.args: Any
        self.kwargs: Any
        if not kwargs and all(type(x) is Tensor for x in args):  # the way of most steps
            self.args, self.kwargs = tuple(x.detach() for x in args), {}
        else:
            self.args, self.kwargs = map_tensors(Tensor.detach, (args, kwargs))

    def first(self) -> Tensor | None:
        """The first tensor among the arguments."""
        return next(iter(tensors((self.args, self.kwargs))), None)

    def leaves(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the arguments, each with the name of its argument."""
        try:
            names = [repr(name) for name in inspect.signature(self.model).parameters]
        except (TypeError, ValueError):  # a callable that does not tell
            names = []
        names += [f"argument {place + 1}" for place in range(len(names), len(self.args))]
        named = zip(names, self.args, strict=False)
        for name, value in (*named, *((repr(n), v) for n, v in self.kwargs.items())):
            for leaf in tensors(value):
                yield name, leaf

    def given(self, rows: Collection[int], observed: Iterable[Tensor]) -> dict[int, Tensor]:
        """The tensors that hold something of each datum, but for those that are observed.

        The number of the tensor among the leaves -> shape ``(N, c)``.
        """
        found = {}
        for place, (_, leaf) in enumerate(self.leaves()):
            columns = Argument(leaf, rows, None).columns
            same = (columns.shape == x.shape and torch.equal(columns.to(x), x) for x in observed)
            if len(columns) in rows and not any(same):
                found[place] = columns
        return found


class Argument:
    """A tensor among the arguments, as rows of data and columns.

    :param rows: the numbers of rows that a tensor may have which holds something of each datum.
    :param reference: a row of other data.
    """

    def __init__(self, leaf: Tensor, rows: Collection[int], reference: Tensor | None) -> None:
        self.leaf = leaf
        dims = [dim for dim, size in enumerate(leaf.shape) if size in rows and size > 1]
        self.by_datum = bool(dims)
        """Whether it holds something of each datum."""
        self._dim = dims[0] if dims else 0
        whole = leaf.movedim(self._dim, 0) if leaf.dim() else leaf[None]
        self.columns = whole.reshape(len(whole), -1)
        """Shape ``(N, d)``."""
        self._reference = reference

    @cached_property
    def all(self) -> Tensor:
        """Every column."""
        return torch.ones(self.columns.shape[1], dtype=torch.bool, device=self.leaf.device)

    def moved(self, which: Tensor) -> Tensor:
        """The columns, of which some have their rows moved on by one: those of a mask ``(d,)``.

        What is the same for all rows is put to the value of the row of other data, if there is one.
        """
        rolled = self.columns.roll(1, 0)
        if self._reference is not None and self._reference.numel() == rolled.shape[1]:
            same = (self.columns == self.columns[:1]).all(0)
            rolled = torch.where(same, self._reference.flatten().to(rolled), rolled)
        return torch.where(which, rolled, self.columns)

    def with_columns(self, columns: Tensor) -> Tensor:
        """The argument with other columns."""
        moved = self.leaf.movedim(self._dim, 0)
        return columns.reshape(moved.shape).movedim(0, self._dim)

    def among(self, observed: Mapping[str, Tensor]) -> Tensor:
        """For each column the one that is observed and the same, or -1: shape ``(d,)``."""
        every = [column for values in observed.values() for column in values.T]
        known = {_bytes(column): place for place, column in reversed([*enumerate(every)])}
        found = [
            known.get(_bytes(column), -1) if bool((column != column[0]).any()) else -1
            for column in self.columns.T
        ]
        return torch.tensor(found, device=self.leaf.device)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``function`` of each tensor in tuples, lists, mappings and dataclasses, in such ones."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        found = [map_tensors(function, each) for each in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    if isinstance(value, MutableMapping):
        new: Any = copy(value)
        new.update({name: map_tensors(function, each) for name, each in value.items()})
        return new
    if is_dataclass(value) and not isinstance(value, type):
        new = copy(value)
        for field in fields(value):
            each = map_tensors(function, getattr(value, field.name))
            object.__setattr__(new, field.name, each)
        return new
    return value


def tensors(value: Any) -> list[Tensor]:
    """Every tensor that :func:`map_tensors` finds, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, value)
    return found


class Note(TorchFunctionMode):
    """Notes the tensors that operations are given and that none has made, but for some."""

    def __init__(self, ignore: Iterable[Any]) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self._known = WeakIdKeyDictionary(dict.fromkeys(tensors([*ignore])))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs or {})):
            if tensor not in self._known:
                self._known[tensor] = None
                self.found.append(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in tensors(result):
            self._known[tensor] = None
        return result


class Swap(TorchFunctionMode):
    """Puts other tensors in the place of some, wherever an operation is given them."""

    def __init__(self, new: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._new = new

    def within(self, value: Any) -> Any:
        """The same in tuples, lists, mappings and dataclasses."""
        return map_tensors(lambda x: self._new.get(id(x), x), value)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*self.within(args), **self.within(kwargs or {}))


def _bytes(column: Tensor) -> bytes:
    return (column.double() + 0.0).cpu().numpy().tobytes()  # no minus zero

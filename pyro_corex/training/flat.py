"""Flat: what a function does with tensors, as a list of operations that run without Python.

The function is run once, and each operation of torch that it comes to is noted, below autograd, so
that those of its gradients are among them; the list is then run by TorchScript's interpreter.
Random numbers are drawn anew at each run, in the same order from the same generator, so that a run
from the same random state gives the same numbers.  Parameters, buffers and other tensors that the
function finds by itself are read where they lie, so that a run sees what was written into them.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_corex.arrays import unseen_values

Function = Callable[..., list[Tensor]]


class Flat:
    """A function from tensors to a list of tensors, without the Python in it.

    What Python decides is as it was at the recording: branches, numbers, shapes.

    :param function: run once; a tensor that it returns holds memory of its own afterwards.
    :param inputs: what it is run with.
    :raises RuntimeError: where a number is read from a tensor, on which Python may decide.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        notes = _Notes(inputs)
        with unseen_values(), notes:
            results = [_whole(value) for value in function(*inputs)]
        self._count = len(results)
        self.found = notes.found
        """The tensors that are not among the inputs."""
        steps, kept = notes.steps, [*map(notes.place_of, results), *notes.drawn]

        def run(*given: Tensor) -> tuple[Tensor, ...]:
            values = dict(zip(notes.given, given, strict=True))
            for operation, args, kwargs, places in steps:
                args, kwargs = tree_map_only(_Place, values.__getitem__, (args, kwargs))
                values |= zip(places, _tensors(operation(*args, **kwargs)), strict=True)
            return tuple(values[place] for place in kept)  # else a draw of no use is left out

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of what it takes for constants, and that it is old
            given = (*inputs, *self.found)
            self._script = torch.jit.trace(run, given, check_trace=False)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function would give for ``inputs`` of the same shapes and dtypes."""
        optimised = torch.jit.optimized_execution  # type: ignore[attr-defined]
        with torch.no_grad(), optimised(False):  # else a bias is added in another order
            outputs: tuple[Tensor, ...] = self._script(*inputs, *self.found)
        return outputs[: self._count]


def _whole(value: Tensor) -> Tensor:
    """A result in memory of its own, as the gradients that ``backward`` leaves are."""
    return value.detach().clone(memory_format=torch.contiguous_format)


class _Place:
    """Stands for a tensor in the list of operations."""


class _Notes(TorchDispatchMode):
    """Notes operations, with the places of the tensors that they take and give."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.steps: list[tuple[Callable[..., Any], Any, Any, list[_Place]]] = []
        self.found: list[Tensor] = []
        self.drawn: list[_Place] = []
        self._places = WeakTensorKeyDictionary()
        self._fixed: dict[_Place, int] = {}  # what no input has part in, and where it lies
        self.given = [self._new(value) for value in inputs]

    def _new(self, value: Tensor) -> _Place:
        self._places[value] = place = _Place()
        return place

    def place_of(self, value: Tensor) -> _Place:
        """Where a tensor is in the list; one that was not there before is found."""
        if (place := self._places.get(value)) is None:
            place = self._new(value)
            self.given.append(place)
            self.found.append(value)
        return place

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Does the operation, and notes it."""
        kwargs = kwargs or {}
        taken = {self.place_of(value): value for value in _tensors((args, kwargs))}
        noted = tree_map_only(Tensor, self.place_of, (args, kwargs))
        written = operation is torch.ops.aten.lift_fresh.default  # torch.tensor(number)
        draws = torch.Tag.nondeterministic_seeded in operation.tags
        fixed = written or (taken.keys() <= self._fixed.keys() and not draws)
        if not fixed and torch.Tag.data_dependent_output in operation.tags:
            raise RuntimeError(f"{operation} takes the value out of a tracing tensor")
        if not fixed and self._cuts(operation, args):
            raise RuntimeError(
                "it gives tensors whose sizes depend on numbers in a tensor (x[mask], nonzero)"
            )
        result = operation(*args, **kwargs)
        places = [self._new(value) for value in _tensors(result)]
        if fixed:
            self._fixed |= zip(places, map(_address, _tensors(result)), strict=True)
        elif operation._schema.is_mutable:
            moved = {*map(_address, taken.values())}
            self._fixed = {p: lies for p, lies in self._fixed.items() if lies not in moved}
        if draws:
            self.drawn += places
        operation = torch.ops.aten.lift_fresh_copy.default if written else operation
        self.steps.append((*_scripted(operation, *noted), places))
        return result

    def _cuts(self, operation: Any, args: Any) -> bool:
        """Whether the shape of what an operation gives depends on values that are not fixed."""
        if operation is not torch.ops.aten.index.Tensor:
            return torch.Tag.dynamic_output_shape in operation.tags
        masks = [each for each in args[1] if each is not None and each.dtype == torch.bool]
        known = {*self._fixed, *map(self.place_of, self.found)}
        return any(self.place_of(mask) not in known for mask in masks)


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _tensors(result: Any) -> list[Tensor]:
    return [value for value in tree_leaves(result) if isinstance(value, Tensor)]


def _scripted(operation: Any, args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
    """An operation and what it takes, as TorchScript's tracer takes it: one that is told which
    gradients are asked for as a function of its tensors alone, which gives those.
    """
    masks = [value for value in args if isinstance(value, (list, tuple)) and value]
    masks = [value for value in masks if all(type(each) is bool for each in value)]
    if not masks:
        return operation, args, kwargs
    given = dict.fromkeys(value for value in args if isinstance(value, _Place))
    names = {value: f"x{number}" for number, value in enumerate(given)}
    texts = [
        names[value]
        if isinstance(value, _Place)
        else repr([*value] if isinstance(value, (list, tuple)) else value)
        for value in args
    ]
    results = [f"r{number}" for number in range(len(masks[0]))]
    asked = itertools.compress(results, masks[0])
    source = (
        f"def run({', '.join(names.values())}):\n"
        f"    {', '.join(results)} = torch.ops.{operation._schema.name.replace('::', '.')}"
        f"({', '.join(texts)})\n"
        f"    return {', '.join(asked)}\n"
    )
    return torch.jit.CompilationUnit(source).run, (*given,), {}

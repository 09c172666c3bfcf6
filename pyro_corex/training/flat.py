"""Flat: what a function does with tensors, as a list of operations that run without Python.

The function is run once, and each operation of torch that it comes to is noted (``make_fx``), those
of its gradients too; the list is then run by TorchScript's interpreter.  Random numbers are drawn
anew at each run, in the same order from the same generator, so that a run from the same random
state gives the same numbers.  Parameters, buffers and other tensors that the function finds by
itself are read where they lie, so that a run sees what was written into them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
        from torch.fx.experimental.proxy_tensor import make_fx  # it takes a second

        with unseen_values():
            graph = make_fx(lambda *given: [*map(_whole, function(*given))])(*inputs)
        nodes = graph.graph
        constants = [node for node in nodes.nodes if node.op == "get_attr"]
        self.found = [getattr(graph, str(node.target)) for node in constants]
        """The tensors that are not among the inputs."""
        last = [node for node in nodes.nodes if node.op == "placeholder"][-1]
        with nodes.inserting_after(last):
            for place, node in reversed([*enumerate(constants)]):
                node.replace_all_uses_with(nodes.placeholder(f"found_{place}"))
                nodes.erase_node(node)
        for node in [node for node in nodes.nodes if any(map(_is_mask, node.args))]:
            node.target, node.args = _scripted(node)
        drawn = [node for node in nodes.nodes if _draws(node.target)]
        results: Any = nodes.output_node().args[0]
        self._count = len(results)
        nodes.output_node().args = ((*results, *drawn),)  # else a draw of no use is left out
        interpreter = torch.fx.Interpreter(graph)

        def run(*given: Tensor) -> tuple[Tensor, ...]:
            return tuple(interpreter.run(*given, enable_io_processing=False))

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of what it takes for constants, and that it is old
            self._script = torch.jit.trace(run, (*inputs, *self.found), check_trace=False)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function would give for ``inputs`` of the same shapes and dtypes."""
        optimised = torch.jit.optimized_execution  # type: ignore[attr-defined]
        with torch.no_grad(), optimised(False):  # else a bias is added in another order
            outputs: tuple[Tensor, ...] = self._script(*inputs, *self.found)
        return outputs[: self._count]


def _whole(value: Tensor) -> Tensor:
    """A result in memory of its own, as the gradients that ``backward`` leaves are."""
    return value.detach().clone(memory_format=torch.contiguous_format)


def _draws(operation: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())


def _is_mask(value: Any) -> bool:
    """Whether it says which gradients are asked for, which TorchScript's tracer does not take."""
    return isinstance(value, (list, tuple)) and bool(value) and all(type(v) is bool for v in value)


def _scripted(node: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """An operation as a function of its tensors alone, and those."""
    given = dict.fromkeys(value for value in node.args if isinstance(value, torch.fx.Node))
    names = {value: f"x{place}" for place, value in enumerate(given)}
    texts = [
        names[value]
        if isinstance(value, torch.fx.Node)
        else repr([*value] if isinstance(value, (list, tuple)) else value)
        for value in node.args
    ]
    operation = node.target._schema.name.replace("::", ".")
    (mask,) = filter(_is_mask, node.args)
    results = [f"r{place}" for place in range(len(mask))]  # those that are not asked for are none
    given_back = [
        r if asked else results[mask.index(True)] for r, asked in zip(results, mask, strict=True)
    ]
    source = (
        f"def run({', '.join(names.values())}):\n"
        f"    {', '.join(results)} = torch.ops.{operation}({', '.join(texts)})\n"
        f"    return {', '.join(given_back)}\n"
    )
    script = torch.jit.CompilationUnit(source).run
    return lambda *given: script(*given), tuple(names)

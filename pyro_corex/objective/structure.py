"""Whether a program is still the one that was looked into, seen from a run of it.

Which site is drawn from which is found once and kept (:mod:`~pyro_corex.objective.closed_form`).
A program may change all the same: in a second stage a prior gains a parent, under the same names.
Then the graph of the distribution's parameters changes, which costs little to look at, or, where
there is no graph, their values do.  What cannot be seen so: a detached draw that takes the place of
data in the very same operations on the very same parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_corex.arrays import on_hand
from pyro_corex.objective.sites import Site


class Structure:
    """How the distributions of some sites were computed in one run.

    :param nodes: the sites of a trace.
    :param names: those that are looked at.
    """

    def __init__(self, nodes: Mapping[str, Site], names: Collection[str]) -> None:
        found = [(name, nodes[name]["fn"]) for name in names]
        self.graph: list[Any] = [(name, type(fn)) for name, fn in found]
        self.constants: list[Tensor] = []
        self.is_constant = True
        for _, fn in found:
            for tensor in _parameters(fn, set()):
                if tensor.requires_grad:
                    self.is_constant = False
                    self.graph.append(_graph(tensor))
                else:
                    self.constants.append(tensor.detach())

    def same_graph(self, other: Structure) -> bool:
        """Whether gradients take the same way; without gradients nothing tells a difference."""
        return torch.is_grad_enabled() and self.graph == other.graph

    def same_values(self, other: Structure) -> bool:
        """Whether what has no gradient holds the same numbers, as what depends on no draw does.

        Training on an accelerator does not wait for them: there the shapes have to do.
        """
        if len(self.constants) != len(other.constants):
            return False
        return all(
            a.shape == b.shape
            and a.device == b.device
            and ((not on_hand(a) and torch.is_grad_enabled()) or torch.equal(a, b))
            for a, b in zip(self.constants, other.constants, strict=True)
        )


def _parameters(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors that a distribution holds, and those that it is made of hold."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _parameters(each, seen)
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif isinstance(value, (Distribution, Transform)) and id(value) not in seen:
        seen.add(id(value))
        for each in vars(value).values():
            yield from _parameters(each, seen)


def _graph(tensor: Tensor) -> tuple[Any, ...]:
    """The operations that a tensor was computed by, and the parameters at their ends."""
    found: list[Any] = []
    seen: dict[Any, int] = {}
    ahead: list[Any] = [tensor.grad_fn if tensor.grad_fn is not None else tensor]
    while ahead:
        node = ahead.pop()
        if node in seen:
            found.append(seen[node])
            continue
        seen[node] = len(seen)
        leaf = node if isinstance(node, Tensor) else getattr(node, "variable", None)
        if leaf is None:
            found.append(node.name())
            ahead += [each for each, _ in node.next_functions if each is not None]
        else:
            found.append(id(leaf) if isinstance(leaf, nn.Parameter) else leaf.shape)
    return tuple(found)

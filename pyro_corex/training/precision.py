"""How the networks of a program compute while it trains: lower precision, compilation.

Only the networks compute in lower precision.  What they give is turned back, so that densities,
divergences and their sums over hundreds of dimensions are computed in the parameters' precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pyro_corex.programs import Likelihood, Prior


def networks(module: nn.Module) -> list[nn.Module]:
    """The encoders and decoders in a program: the largest parts that are plain modules."""
    found: list[nn.Module] = []
    for part in module.children():
        if isinstance(part, (Likelihood, Prior)):
            continue
        if isinstance(part, (PyroModule, nn.ModuleList, nn.ModuleDict)):
            found += networks(part)
        else:
            found.append(part)
    return list({id(part): part for part in found}.values())


@contextmanager
def in_lower_precision(
    module: nn.Module, context: Callable[[], AbstractContextManager[Any]], dtype: torch.dtype
) -> Iterator[None]:
    """Runs the networks of a program in ``context`` and turns what they give into ``dtype``."""

    def turned_back(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def lowered(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with context():
                out = forward(*args, **kwargs)
            return tree_map(turned_back, out)

        return run

    with ExitStack() as stack:
        for part in networks(module):
            if "forward" in vars(part):
                stack.callback(setattr, part, "forward", part.forward)
            else:
                stack.callback(delattr, part, "forward")
            part.forward = lowered(part.forward)
        yield


@contextmanager
def compiled(module: nn.Module, how: bool | str) -> Iterator[None]:
    """Runs the networks of a program through ``torch.compile``.

    :param how: whether to, or the name of a backend.
    """
    with ExitStack() as stack:
        if how:
            options = {} if how is True else {"backend": how}
            for part in networks(module):
                stack.callback(setattr, part, "_compiled_call_impl", part._compiled_call_impl)
                part.compile(**options)
        yield

"""Where a loop runs: in this process, with torch alone; or as Lightning Fabric launches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pyro_corex.batches import check_count
from pyro_corex.programs import Likelihood, Prior
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Stopped

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Devices:
    """How many processes :func:`~pyro_corex.fit` takes, how they start, and how networks compute.

    :raises ValueError: for options out of range.
    """

    number: int = 1
    """The number of processes on this machine, one device each.  Each has batches of
    ``batch_size`` data."""

    strategy: Any = "auto"
    """A strategy of Lightning Fabric.  "auto" starts the processes by forking where that is safe,
    and takes those that ``torchrun`` has started."""

    precision: str = "32-true"
    """"32-true" computes in the dtype of the parameters.  With "bf16-mixed", and "16-mixed" on
    CUDA, the networks compute in 16 bits, and all else in the parameters' dtype."""

    compile_networks: bool | str = False
    """Run the networks through ``torch.compile``, with its default backend or with the one that is
    named."""

    capture: bool | str = "auto"
    """Record a training step and replay it on later batches, which takes Python's share off it: on
    one device, CPU or CUDA.  "auto" does so on a CPU where the result is the same to the last bit,
    the run is long, and no class, function or data set of somebody else is called in a step; see
    the guide to speed.  ``True`` does so wherever it can, ``False`` never.

    With ``True`` a step is recorded after three like it, for full batches and for the last of an
    epoch, and anew after a callback.  What else the programs decide in Python is as it was when the
    step was recorded.

    On CUDA it is a graph of the whole step, and steps are taken as they are while a KL weight
    moves.  On a CPU it is the loss and its gradients, for ``Warmup`` at each weight; that a replay
    gives what the programs give is proved when it is recorded, and asked again at the replays 2, 4,
    8, 16 and so on: there a change is found that Python makes by itself, and raises.  Recording
    takes the time of some hundred small steps."""

    def __post_init__(self) -> None:
        check_count("devices", self.number)
        if self.strategy != "auto":
            _check_strategy(self.strategy)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, but got {self.precision!r}")
        if not isinstance(self.capture, bool) and self.capture != "auto":
            raise ValueError(f'capture must be True, False or "auto", but got {self.capture!r}')


def _check_strategy(strategy: Any) -> None:
    from lightning_fabric.strategies import STRATEGY_REGISTRY
    from lightning_fabric.strategies.strategy import Strategy

    if not isinstance(strategy, Strategy) and strategy not in STRATEGY_REGISTRY:
        raise ValueError(
            'strategy must be "auto", "ddp", "ddp_fork", "ddp_spawn" or another of Lightning '
            f"Fabric's, but got {strategy!r}"
        )


class Runner:
    """Runs a loop in this process, on one device, with torch alone."""

    rank = 0
    world = 1
    precision = "32-true"

    def __init__(
        self,
        device: torch.device,
        compile_networks: bool | str = False,
        capture: bool | str = False,
    ) -> None:
        self.device, self.compile_networks, self.capture = device, compile_networks, capture

    def launch(self, loop: Any) -> History:
        """Runs ``loop`` in each process, and gives the history."""
        try:
            history: History = loop.run(self)
        except Stopped as stopped:
            raise stopped.as_signal() from None
        return history

    def computing(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Has the networks compute as they were asked to."""
        return compiled(module, self.compile_networks)

    def setup(self, loss: nn.Module, optimiser: Any) -> tuple[Any, Any]:
        """The loss and the optimiser as they are to be called."""
        return loss, optimiser

    def backward(self, loss: Tensor) -> None:
        """Computes gradients."""
        loss.backward()

    def clip(self, loss: nn.Module, optimiser: Any, norm: float) -> None:
        """Clips the norm of all gradients together."""
        nn.utils.clip_grad_norm_(loss.parameters(), norm)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes."""
        return [value]

    def state_dict(self) -> dict[str, Any]:
        """The state of what scales gradients."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts :meth:`state_dict` back."""


# ---------------------------------------------------------------------- networks


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
    """Runs the networks of a program in ``context`` and turns what they give into ``dtype``.

    So densities, divergences and their sums over hundreds of dimensions are computed in ``dtype``.
    """

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
    """Runs the networks of a program through ``torch.compile``, with a backend if one is named."""
    with ExitStack() as stack:
        if how:
            options = {} if how is True else {"backend": how}
            for part in networks(module):
                stack.callback(setattr, part, "_compiled_call_impl", part._compiled_call_impl)
                part.compile(**options)
        yield

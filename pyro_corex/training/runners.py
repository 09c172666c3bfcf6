"""Where a loop runs: in this process, with torch alone; or as Lightning Fabric launches it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_corex.batches import check_count
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Stopped
from pyro_corex.training.precision import compiled

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

    def __post_init__(self) -> None:
        check_count("devices", self.number)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, but got {self.precision!r}")


class Runner:
    """Runs a loop in this process, on one device, with torch alone."""

    rank = 0
    world = 1
    precision = "32-true"

    def __init__(self, device: torch.device, compile_networks: bool | str = False) -> None:
        self.device, self.compile_networks = device, compile_networks

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

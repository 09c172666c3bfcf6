"""Precision and several processes, through Lightning Fabric."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn

from pyro_corex.batches import place_of
from pyro_corex.training import checkpoint
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Stopped, hand_on, handled_by
from pyro_corex.training.optimization import all_schedules
from pyro_corex.training.runners import Devices, Runner, in_lower_precision


class _NetworksOnly(MixedPrecision):
    """Mixed precision that is turned on by :meth:`networks` and nowhere else."""

    networks = MixedPrecision.forward_context
    forward_context = Precision.forward_context
    convert_input = Precision.convert_input
    convert_output = Precision.convert_output


class FabricRunner(Runner):
    """Runs a loop as Fabric launches it; see :class:`Runner` for what is asked of it."""

    def __init__(self, device: torch.device, how: Devices) -> None:
        devices, nodes, strategy = how.number, 1, how.strategy
        if strategy == "auto":
            world = int(os.environ.get("WORLD_SIZE", "1"))
            if world > 1 and "LOCAL_WORLD_SIZE" in os.environ:  # as torchrun leaves it
                devices = int(os.environ["LOCAL_WORLD_SIZE"])
                nodes, strategy = world // devices, "ddp"
            elif devices > 1:
                forks = sys.platform == "linux" and not torch.cuda.is_initialized()
                strategy = "ddp_fork" if forks else "ddp_spawn"
        indexed = device.index is not None and device.type != "cpu" and devices == 1
        plugins: list[Any] = []
        if how.precision != "32-true":
            plugins.append(_NetworksOnly(how.precision, device.type))  # type: ignore[arg-type]
        self.fabric = Fabric(
            accelerator=device.type,
            devices=[device.index] if indexed else devices,
            num_nodes=nodes,
            strategy=strategy,
            plugins=plugins,
        )
        super().__init__(device, how.compile_networks)
        self.precision = how.precision

    def adopt(self, fabric: Fabric) -> None:
        """Takes the place that a launched ``fabric`` has among the processes."""
        self.fabric, self.device = fabric, fabric.device
        self.rank, self.world = fabric.global_rank, fabric.world_size

    def launch(self, loop: Any) -> History:
        """In this process, or in several that are started for it.

        What processes of their own have trained is brought back into the loop's module.
        """
        start_method = getattr(self.fabric.strategy.launcher, "_start_method", None)
        if start_method is None:
            self.fabric.launch()
            self.adopt(self.fabric)
            return super().launch(loop)
        with tempfile.TemporaryDirectory() as folder, handled_by(hand_on), ExitStack() as stack:
            logger = logging.getLogger("lightning_fabric")  # has a word about each process
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
            path = Path(folder) / "result"
            work = partial(_work, runner=self, loop=loop, path=path)
            self.fabric.launch(partial(work, forked=start_method != "spawn"))
            # not a user's file: our own process has just written it, in a folder of ours alone
            trained, outcome = torch.load(path, map_location="cpu", weights_only=False)
        for part, state in zip(_trained(loop), trained, strict=True):
            part.load_state_dict(state)
        loop.module.eval()
        if isinstance(outcome, Stopped):
            raise outcome.as_signal()
        if isinstance(outcome, Exception):
            raise outcome
        history: History = outcome
        return history

    @contextmanager
    def computing(self, module: nn.Module) -> Iterator[None]:
        """Mixed precision and compilation of the networks."""
        precision: Any = self.fabric.strategy.precision
        with ExitStack() as stack:
            if self.precision != "32-true":
                dtype = place_of(module)[1] or torch.get_default_dtype()
                stack.enter_context(in_lower_precision(module, precision.networks, dtype))
            stack.enter_context(super().computing(module))
            yield

    def setup(self, loss: nn.Module, optimiser: Any) -> tuple[Any, Any]:
        """Wraps both, for several processes and for the scaling of gradients."""
        return self.fabric.setup(loss, optimiser)

    def backward(self, loss: Tensor) -> None:
        """Processes average their gradients, but the loss is a sum: so times their number."""
        self.fabric.backward(loss if self.world == 1 else loss * self.world)

    def clip(self, loss: nn.Module, optimiser: Any, norm: float) -> None:
        """Of gradients that are not scaled any more."""
        self.fabric.clip_gradients(loss, optimiser, max_norm=norm, error_if_nonfinite=False)

    def gather(self, value: Any) -> list[Any]:
        """Of any Python value."""
        found: list[Any] = [value] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(found, value)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Of the scaler of "16-mixed"."""
        return self.fabric.strategy.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts :meth:`state_dict` back."""
        self.fabric.strategy.precision.load_state_dict(state)


def _work(fabric: Fabric, runner: FabricRunner, loop: Any, path: Path, forked: bool) -> None:
    """What a process does that was started for this; the first leaves the result in a file."""
    runner.adopt(fabric)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # signals of the terminal go to the parent, which hands them on
    if forked:
        torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    outcome: Any
    try:
        outcome = loop.run(runner)
    except Stopped as stopped:
        outcome = stopped
    except (ValueError, TypeError) as error:  # all processes have agreed on it
        known = (checkpoint.CheckpointError, TypeError, ValueError)  # others may not be pickled
        outcome = next(kind for kind in known if isinstance(error, kind))(str(error))
    if runner.rank == 0:
        torch.save(([part.state_dict() for part in _trained(loop)], outcome), path)


def _trained(loop: Any) -> list[Any]:
    """All that a run changes and that has a state, to be brought back from another process."""
    schedules = [part for _, part in checkpoint.schedules(loop.module)]
    schedules += filter(checkpoint.is_schedule, all_schedules(loop.elbo, loop.optimization))
    return [loop.module, loop.from_store, loop.elbo.regularizer_modules, *schedules]

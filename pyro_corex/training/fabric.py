"""Precision and several processes, through Lightning Fabric."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import re
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException

from pyro_corex.batches import place_of
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Stopped, hand_on, handled_by
from pyro_corex.training.optimization import all_schedules
from pyro_corex.training.runners import Devices, Runner, in_lower_precision
from pyro_corex.training.schedules import is_schedule, schedules

_LOST = re.compile("gloo/transport|NCCL error|Connection (closed|reset) by")
_STARTS: dict[Any, Any] = {"ddp_fork": "fork", "ddp_spawn": "spawn"}


class _NetworksOnly(MixedPrecision):
    """Mixed precision that is turned on by :meth:`networks` and nowhere else."""

    networks = MixedPrecision.forward_context
    forward_context = Precision.forward_context
    convert_input = Precision.convert_input
    convert_output = Precision.convert_output


class OnThisMachine(DDPStrategy):
    """Processes that find each other by a file and talk over the loopback, so that no other machine
    can reach them; where ``MASTER_ADDR`` is set, that is followed.
    """

    meeting_point: Path | None = None

    def setup_environment(self) -> None:
        """See :class:`DDPStrategy`, which takes a group that is there."""
        if self.meeting_point is not None and "MASTER_ADDR" not in os.environ:
            loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                if loopback:
                    os.environ.setdefault(variable, loopback[0])
            cuda = self.root_device.type == "cuda"
            torch.distributed.init_process_group(
                "nccl" if cuda else "gloo",
                store=torch.distributed.FileStore(  # type: ignore[attr-defined]
                    str(self.meeting_point), self.num_processes
                ),
                rank=self.local_rank,
                world_size=self.num_processes,
                device_id=self.root_device if cuda else None,
            )
        super().setup_environment()


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
        if strategy in _STARTS:
            strategy = OnThisMachine(start_method=_STARTS[strategy])
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
        super().__init__(device, how.compile_networks, how.capture is True)
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
        with tempfile.TemporaryDirectory() as name, handled_by(hand_on), ExitStack() as stack:
            logger = logging.getLogger("lightning_fabric")  # has a word about each process
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
            stack.callback(loop.module.eval)
            folder, ended = Path(name), None
            if isinstance(self.fabric.strategy, OnThisMachine):
                self.fabric.strategy.meeting_point = folder / "meeting point"
            work = partial(_work, runner=self, loop=loop, folder=folder)
            try:
                self.fabric.launch(partial(work, forked=start_method != "spawn"))
            except ProcessException as error:
                ended = error
            # not a user's files: our own processes have just written them, in a folder of ours
            outcome: Any = None
            if (path := folder / "result").exists():
                trained, outcome = torch.load(path, map_location="cpu", weights_only=False)
                for part, state in zip(_trained(loop), trained, strict=True):
                    part.load_state_dict(state)
            files = sorted(folder.glob("error.*"), key=lambda path: path.stat().st_mtime_ns)
            told = [pickle.loads(path.read_bytes()) for path in files]
            # what a process says of one that is gone is no news
            for found, text in (pair for pair in told if not _LOST.search(str(pair[0]))):
                raise found from RuntimeError(f"In a process that fit has started:\n{text}")
        if isinstance(outcome, Stopped):
            raise outcome.as_signal()
        if ended is not None:
            raise RuntimeError(
                "A process that fit has started came to its end, as where the memory is used up "
                f"({str(ended).strip().splitlines()[0]}). Take fewer devices or a smaller "
                "batch_size."
            ) from ended
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


def _work(fabric: Fabric, runner: FabricRunner, loop: Any, folder: Path, forked: bool) -> None:
    """What a process does that was started for this; the first leaves the result in a file."""
    runner.adopt(fabric)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # signals of the terminal go to the parent, which hands them on
    if forked:
        torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    else:  # what was sent to a process is shared with the others
        for part in (loop.module, loop.elbo.regularizer_modules):
            for tensor in itertools.chain(part.parameters(), part.buffers()):
                tensor.data = tensor.data.clone()
    outcome: Any = None
    try:
        outcome = loop.run(runner)
    except Stopped as stopped:
        outcome = stopped
    except Exception as error:
        told = _portable(error), "".join(traceback.format_exception(error))
        (folder / f"error.{runner.rank}").write_bytes(pickle.dumps(told))
        if not isinstance(error, (ValueError, TypeError)):  # the others have not agreed on it
            raise
    if runner.rank == 0:
        torch.save(([part.state_dict() for part in _trained(loop)], outcome), folder / "result")


def _portable(error: Exception) -> Exception:
    """The error as another process can read it: itself, or one of a more general kind."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:
        pass
    kinds = (TypeError, ValueError, OSError, RuntimeError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)
    return kind(f"{type(error).__name__}: {error}")


def _trained(loop: Any) -> list[Any]:
    """All that a run changes and that has a state, to be brought back from another process."""
    held = [part for _, part in schedules(loop.module)]
    held += filter(is_schedule, all_schedules(loop.elbo, loop.optimization))
    return [loop.module, loop.from_store, loop.elbo.regularizer_modules, *held]

"""Devices, precision and processes, through Lightning Fabric."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_corex.objective import CorExTerms
from pyro_corex.training import files, storage
from pyro_corex.training.files import CheckpointError
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Stopped, passed_on

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

Run = Callable[[Any], History]


def pick_device(device: str | torch.device) -> torch.device:
    """The device that ``device`` names; "auto" is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f'device must be "auto", or a device of torch such as "cpu" or "cuda:0", but got '
            f"{device!r}"
        ) from error


def make_fabric(
    device: torch.device, devices: int, strategy: Any, precision: str, loggers: Sequence[Any]
) -> Any:
    """A ``Fabric``; the import, of a second or so, is put off until something is trained."""
    from lightning_fabric import Fabric

    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, but got {precision!r}")
    if precision == "16-mixed" and device.type != "cuda":
        raise ValueError(
            f'precision="16-mixed" is for CUDA, but the device is {str(device)!r}: take '
            '"bf16-mixed"'
        )
    available = torch.cuda.device_count() if device.type == "cuda" else None
    if available is not None and devices > available:
        raise ValueError(f"devices={devices}, but this machine has {available} CUDA device(s)")
    if device.type not in ("cpu", "cuda") and devices > 1:
        raise ValueError(f"devices={devices} is for the CPU and CUDA, but not for {device.type!r}")
    nodes = 1
    if strategy == "auto":
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1 and "LOCAL_WORLD_SIZE" in os.environ:  # as torchrun leaves it
            devices = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes, strategy = world // devices, "ddp"
        elif devices > 1:
            forks = sys.platform == "linux" and not torch.cuda.is_initialized()
            strategy = "ddp_fork" if forks else "ddp_spawn"
    which: Any = devices
    if device.index is not None and device.type != "cpu" and devices == 1:
        which = [device.index]
    return Fabric(
        accelerator=device.type,
        devices=which,
        num_nodes=nodes,
        strategy=strategy,
        plugins=[_plugin(precision, device)],
        loggers=list(loggers),
    )


def _plugin(precision: str, device: torch.device) -> Any:
    from lightning_fabric.plugins.precision import MixedPrecision, Precision

    if precision == "32-true":
        return Precision()

    class NetworksOnly(MixedPrecision):
        """Mixed precision that is turned on by :attr:`networks` and nowhere else."""

        def networks(self) -> AbstractContextManager[Any]:
            return MixedPrecision.forward_context(self)

        def forward_context(self) -> AbstractContextManager[Any]:
            return nullcontext()

        def convert_input(self, data: Any) -> Any:
            return data

        def convert_output(self, data: Any) -> Any:
            return data

    return NetworksOnly(precision, device.type)  # type: ignore[arg-type]


def launch(fabric: Any, run: Run, module: nn.Module, schedules: Sequence[Any]) -> History:
    """Runs in this process, or in several that are started for it, and gives the history.

    What processes of their own have trained is brought back into ``module``.
    """
    start_method = getattr(fabric.strategy.launcher, "_start_method", None)
    if start_method is None:
        try:
            fabric.launch()
            return run(fabric)
        except Stopped as stopped:
            signal = stopped
        signal.reraise()
    with (
        tempfile.TemporaryDirectory() as folder,
        passed_on(multiprocessing.active_children),
        _quiet(logging.getLogger("lightning_fabric")),
    ):
        path = Path(folder) / "result"
        fabric.launch(_work, run, module, schedules, path, start_method)
        result = files.read(path)
    if "state" in result:
        module.load_state_dict(result["state"])
        for schedule, state in zip(_stateful(module, schedules), result["schedules"], strict=True):
            schedule.load_state_dict(state)
    if "error" in result:
        kind, message = result["error"]
        raise (CheckpointError if kind == "CheckpointError" else ValueError)(message)
    if "stopped" in result:
        Stopped(*result["stopped"]).reraise()
    terms = result["history"].pop("terms")
    return History(**result["history"], terms=None if terms is None else CorExTerms(**terms))


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Without a word about each process that starts."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _work(
    fabric: Any,
    run: Run,
    module: nn.Module,
    schedules: Sequence[Any],
    path: Path,
    start_method: str,
) -> None:
    """What a process does that was started for this; the first leaves the result in a file."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # signals of the terminal go to the parent, which hands them on
    if start_method != "spawn":
        torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    result: dict[str, Any] = {}
    try:
        history = run(fabric)
        terms = history.terms
        shown = ["reconstruction", "kl", "kl_weight", "num_data", "tc_weight", "total_correlation"]
        shown += ["mutual_information", "mi_weight"]
        result["history"] = {
            **vars(history),
            "terms": None if terms is None else {name: getattr(terms, name) for name in shown},
        }
    except Stopped as stopped:
        result["stopped"] = [stopped.number, stopped.message]
    except ValueError as error:  # all processes have agreed on it
        result["error"] = [type(error).__name__, str(error)]
    if fabric.global_rank == 0:
        result["state"] = module.state_dict()
        result["schedules"] = [part.state_dict() for part in _stateful(module, schedules)]
        files.write(path, result)


def _stateful(module: nn.Module, schedules: Sequence[Any]) -> list[Any]:
    own = [part for _, part in storage.schedules(module)]
    return [*own, *(schedule for schedule in schedules if storage.is_schedule(schedule))]

"""Checkpoints of a run, from which it goes on as though it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_corex.training import files, random_state, storage
from pyro_corex.training.files import CheckpointError
from pyro_corex.training.record import Record


def write(loop: Any, path: Path, processes: list[dict[str, Any]]) -> None:
    """Writes where a run stands.

    :param loop: a :class:`~pyro_corex.training.loop.Loop`.
    :param processes: what each process has of its own.
    """
    scaler = loop.fabric.strategy.precision.state_dict()
    history = loop.history
    content = {
        "kind": "checkpoint",
        **storage.contents(loop.module),
        "told": loop.told,
        "optimiser": loop.optimiser.state_dict(),
        "lr_schedule": None if loop.lr_schedule is None else loop.lr_schedule.state_dict(),
        "kl_schedules": [_state(schedule) for schedule in loop.settings.schedules],
        "scaler": scaler,
        "max_plate_nesting": loop.elbo.max_plate_nesting,
        "processes": processes,
        "best": loop.best,
        "place": {"epoch": loop.epoch, "batch": loop.batch, "waited": loop.waited},
        "history": {
            "epochs": history.epochs,
            "losses": torch.tensor(history.losses, dtype=torch.float64),
            "steps": history.steps,
            "best_epoch": history.best_epoch,
            "stopped_early": history.stopped_early,
        },
    }
    try:
        files.write(path, content)
    except OSError as error:
        error.strerror = f"{error.strerror}. Training stopped after step {history.steps}"
        raise


def read(loop: Any, path: Path) -> None:
    """Puts a run where the checkpoint says that it stood.

    :raises CheckpointError: where the file is no checkpoint, or of another run.
    """
    content = files.read(path)
    if content.get("kind") != "checkpoint":
        raise CheckpointError(
            f"{path} holds a module, as save wrote it, but no run to go on with. Load it with "
            "load(path, module), and start a run with another checkpoint=..."
        )
    storage.compare(content["config"], storage.describe(loop.module), str(path))
    _compare(content["told"], loop.told, path)
    storage.fill(loop.module, content, str(path))
    loop.optimiser.load_state_dict(content["optimiser"])
    if loop.lr_schedule is not None:
        loop.lr_schedule.load_state_dict(content["lr_schedule"])
    for schedule, state in zip(loop.settings.schedules, content["kl_schedules"], strict=True):
        if state is not None:
            schedule.load_state_dict(state)
    loop.fabric.strategy.precision.load_state_dict(content["scaler"])
    # else the objective would look for it, with a run of the programs that draws
    loop.elbo.max_plate_nesting = content["max_plate_nesting"]
    own = content["processes"][loop.fabric.global_rank]
    loop.resume_random, loop.epoch_random = own["random"], own["epoch_random"]
    loop.record = Record.from_state_dict(own["record"])
    loop.best = content["best"]
    for name, value in content["place"].items():
        setattr(loop, name, value)
    for name, value in content["history"].items():
        setattr(loop.history, name, value.tolist() if isinstance(value, Tensor) else value)
    loop.saved_at = (loop.epoch, loop.batch)
    if loop.epoch_random is None:  # between two epochs
        random_state.restore(own["random"], loop.device, loop.data.generators())
        loop.resume_random = None


def not_finite(module: nn.Module) -> str:
    """The name of a parameter that holds a NaN or an infinity, or nothing."""
    tensors = {name: value for name, value in module.named_parameters() if value.numel()}
    if not tensors:
        return ""
    with torch.no_grad():
        finite = torch.stack([value.sum().isfinite() for value in tensors.values()])
        if bool(finite.all()):
            return ""
        return next((n for n, v in tensors.items() if not bool(v.isfinite().all())), "")


def _state(schedule: Any) -> Any:
    return schedule.state_dict() if storage.is_schedule(schedule) else None


def _compare(saved: dict[str, Any], given: dict[str, Any], path: Path) -> None:
    different = [
        f"{name} was {saved.get(name)!r} and is {given.get(name)!r}"
        for name in [*saved, *(n for n in given if n not in saved)]
        if saved.get(name) != given.get(name)
    ]
    if different:
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(different)}. To go on with that run, call fit "
            "as it was called (epochs may be more); to start another from its parameters, "
            "load(path, module) and give another checkpoint=..."
        )

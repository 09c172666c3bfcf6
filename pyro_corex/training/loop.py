"""The training loop of one process: epochs, steps, validation, and when to write a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_corex.objective import CorExELBO
from pyro_corex.training import checkpoint, random_state
from pyro_corex.training.data import Batches
from pyro_corex.training.history import History
from pyro_corex.training.interrupts import Interrupts, Stopped
from pyro_corex.training.record import Record

READ_EVERY = 100
"""Steps after which an accelerator is waited for and several processes agree on going on."""

Callback = Callable[[int, nn.Module, dict[str, float]], Any]


@dataclass(frozen=True)
class Settings:
    """What :func:`~pyro_corex.fit` was told, as far as the loop is concerned."""

    epochs: int
    seed: int
    transform: Callable[[Tensor], Tensor] | None = None
    callbacks: Sequence[Callback] = ()
    patience: int | None = None
    schedules: Sequence[Any] = ()
    clip_norm: float | None = None
    path: Path | None = None
    every_epochs: int | None = 1
    every_steps: int | None = None
    progress: bool = True


class Loss(nn.Module):
    """The loss as a module, whose forward pass is what several processes synchronise on."""

    def __init__(self, module: nn.Module, elbo: CorExELBO, factor: int) -> None:
        super().__init__()
        self.module = module
        self.elbo = elbo
        self.factor = factor
        """The number of processes: they average their gradients, but the loss is a sum."""

    def forward(self, x: Tensor) -> Tensor:
        """Minus the objective, in nats summed over the batch, times the number of processes."""
        model: Any = self.module.model
        guide: Any = self.module.guide
        loss = self.elbo.differentiable_loss(model, guide, x)
        return loss if self.factor == 1 else loss * self.factor


@dataclass
class Loop:
    """A run: what it works with, and where it stands.

    :param fabric: of :mod:`lightning_fabric`; ``loss`` and ``optimiser`` are set up by it.
    """

    fabric: Any
    loss: nn.Module
    module: nn.Module
    elbo: CorExELBO
    optimiser: Any
    lr_schedule: Any
    data: Batches
    validation: Batches | None
    settings: Settings
    told: dict[str, Any]
    """What has to be the same when the run goes on."""

    epoch: int = 1
    batch: int = 0
    """Batches of this epoch that are done."""
    record: Record = field(default_factory=Record)
    history: History = field(default_factory=History)
    best: dict[str, Any] | None = None
    waited: int = 0
    """Epochs since the best one."""
    epoch_random: dict[str, Any] | None = None
    """The random states at the beginning of this epoch."""
    resume_random: dict[str, Any] | None = None
    """Those to go on with after the batches that are done were passed over."""
    saved_at: tuple[int, int] | None = None
    """Epoch and batch of the last checkpoint."""
    stepped: bool = False

    def __post_init__(self) -> None:
        self.world: int = self.fabric.world_size
        self.device: torch.device = self.fabric.device
        self.at_once = self.world == 1 and self.device.type == "cpu"

    def run(self, interrupts: Interrupts) -> History:
        """Trains until the last epoch, or until ``patience`` or a signal ends it."""
        settings = self.settings
        epochs = range(self.epoch, settings.epochs + 1) if not self.history.stopped_early else ()
        show = settings.progress and self.fabric.global_rank == 0
        with tqdm(
            epochs,
            disable=not show,
            unit="epoch",
            dynamic_ncols=True,
            initial=self.epoch - 1,
            total=settings.epochs,
        ) as bar:
            for _ in bar:
                record = self._epoch(interrupts)
                bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k != "seconds"})
                if self.history.stopped_early:
                    break
        if self.best is not None:
            self.module.load_state_dict(self.best)
        return self.history

    # ------------------------------------------------------------------ an epoch

    def _epoch(self, interrupts: Interrupts) -> dict[str, float]:
        start = time.perf_counter()
        number = self.epoch
        self.module.train()
        with pyro.validation_enabled(False):
            for x in self._batches():
                self._step(x)
                self._after_step(interrupts)
            self._read()
            if not len(self.record):
                raise ValueError("The data are empty: there is no batch to train on")
            averages = self._averages(self.record)
            losses = self.record.losses()
            if self.world > 1:
                losses = torch.stack(self._gather(losses)).sum(0)
            self.history.losses += losses.tolist()
            if self.stepped:  # in this process: all steps of the epoch may be from before it
                self.history.terms = self.elbo.last_terms.without_data()
            if self.validation is not None:
                found = self._evaluate(self.validation)
                averages |= {f"val_{name}": value for name, value in found.items()}
        averages["seconds"] = time.perf_counter() - start
        self.history.epochs.append(averages)
        for logger in self.fabric.loggers:
            logger.log_metrics({**averages, "epoch": number}, step=self.history.steps)
        for callback in self.settings.callbacks:
            callback(number, self.module, averages)
        self._schedule_epoch(averages)
        self._note_best(averages)
        self.epoch, self.batch, self.record = number + 1, 0, Record()
        self.epoch_random = self.resume_random = None
        every = self.settings.every_epochs
        last = number == self.settings.epochs or self.history.stopped_early
        if self.settings.path is not None and (last or (every and number % every == 0)):
            self.save()
        self._stop_if_asked(interrupts, agree=True)
        return averages

    def _batches(self) -> Iterator[Tensor]:
        """The batches of this epoch that are not done yet."""
        generators = self.data.generators()
        if self.epoch_random is not None:
            random_state.restore(self.epoch_random, self.device, generators)
        else:
            self.epoch_random = random_state.capture(self.device, generators)
        batches = self._guarded(lambda: self.data.epoch(self.epoch, self.batch))
        first = next(batches)
        assert first is None
        if self.resume_random is not None:
            random_state.restore(self.resume_random, self.device, generators)
            self.resume_random = None
        return batches  # type: ignore[return-value]

    def _guarded(self, make: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor | None]:
        """The batches, with errors that say where they happened; ``None`` comes first."""
        try:
            batches = make()
            yield None
            yield from batches
        except Exception as error:
            raise RuntimeError(
                f"The data could not be read after batch {self.batch} of epoch {self.epoch}: "
                f"{type(error).__name__}: {error}.{self._where_to_go_on()}"
            ) from error

    # ------------------------------------------------------------------ a step

    def _step(self, x: Tensor) -> None:
        settings = self.settings
        x = x if settings.transform is None else settings.transform(x)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(x)
        self.record.add(loss if self.world == 1 else loss / self.world, self.elbo)
        if self.at_once and not math.isfinite(loss.item()):
            self._read()  # raises before anything is spoilt
        self.fabric.backward(loss)
        if settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self.loss, self.optimiser, max_norm=settings.clip_norm, error_if_nonfinite=False
            )
        self.optimiser.step()
        if self.lr_schedule is not None and not _per_epoch(self.lr_schedule):
            self.lr_schedule.step()
        for schedule in settings.schedules:
            schedule.step()
        self.batch += 1
        self.history.steps += 1
        self.stepped = True

    def _after_step(self, interrupts: Interrupts) -> None:
        agree = self.record.unread >= READ_EVERY
        if agree:
            self._read()
        every = self.settings.every_steps
        if self.settings.path is not None and every and self.history.steps % every == 0:
            self.save()
        self._stop_if_asked(interrupts, agree)

    def _schedule_epoch(self, averages: dict[str, float]) -> None:
        if self.lr_schedule is not None and _per_epoch(self.lr_schedule):
            self.lr_schedule.step(-averages.get("val_objective", averages["objective"]))

    # ------------------------------------------------------------------ stopping

    def _stop_if_asked(self, interrupts: Interrupts, agree: bool) -> None:
        number = interrupts.received or 0
        if self.world > 1:  # all have to stop after the same step
            if not agree:
                return
            number = self._largest(number)
        if not number:
            return
        if self.settings.path is not None and self.saved_at != (self.epoch, self.batch):
            self.save()
        done = f"after step {self.history.steps}" + (
            f" (batch {self.batch} of epoch {self.epoch})" if self.batch else ""
        )
        raise Stopped(
            number,
            f"Training was interrupted {done}. "
            + (
                self._where_to_go_on().strip() or "No checkpoint was asked for: fit(checkpoint=...)"
            ),
        )

    def _where_to_go_on(self) -> str:
        if self.saved_at is None or self.settings.path is None:
            return ""
        return (
            f" The last good state is in {self.settings.path}: go on from there with "
            f"fit(..., checkpoint={str(self.settings.path)!r}, resume=True)"
        )

    def _read(self) -> None:
        """Looks at the steps since the last time, and raises where one is not finite."""
        before = self.history.steps - self.batch  # steps of earlier epochs
        found = self.record.read()
        step, why = (before + found[0] + 1, found[1]) if found else (0, "")
        if self.world > 1:
            if not self._largest(step):
                return
            words = self._gather((step, why))
            step, why = min(word for word in words if word[0])
        if step:
            batch = step - before
            raise ValueError(
                f"The loss is not finite at step {step} (batch {batch} of epoch {self.epoch}): "
                f"{why}. Check the data and the parameters for NaN and for values outside a "
                "support, lower the learning rate, or give clip_norm." + self._where_to_go_on()
            )

    # ------------------------------------------------------------------ validation

    @torch.no_grad()
    def _evaluate(self, batches: Batches) -> dict[str, float]:
        """The terms on the validation data, with the same noise each time."""
        self.module.eval()
        record = Record()
        model: Any = self.module.model
        guide: Any = self.module.guide
        transform = self.settings.transform
        seed = 0x7C_B0_5EED + self.settings.seed  # not that of the training noise
        with random_state.seeded(seed, self.device, self.fabric.global_rank):
            for x in batches.epoch(1):
                x = x if transform is None else transform(x)
                record.add(self.elbo.differentiable_loss(model, guide, x), self.elbo)
            found = record.read()
        self.module.train()
        if not len(record):
            raise ValueError("The validation data are empty: there is no batch to evaluate on")
        if found:
            raise ValueError(
                f"The loss on the validation data is not finite after epoch {self.epoch}: "
                f"{found[1]}.{self._where_to_go_on()}"
            )
        return self._averages(record)

    def _averages(self, record: Record) -> dict[str, float]:
        totals = record.totals()
        if self.world > 1:
            totals = torch.stack(self._gather(totals)).sum(0)
        return record.averages(totals, self.elbo.num_particles)

    def _note_best(self, averages: dict[str, float]) -> None:
        if "val_objective" not in averages:
            return
        history = self.history
        best = history.best_epoch
        value = averages["val_objective"]
        if best is None or value > history.epochs[best - 1]["val_objective"]:
            history.best_epoch, self.waited = self.epoch, 0
            if self.settings.patience is not None:
                state = self.module.state_dict()
                self.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        else:
            self.waited += 1
            patience = self.settings.patience
            history.stopped_early = patience is not None and self.waited >= patience

    # ------------------------------------------------------------------ several processes

    def _largest(self, number: int) -> int:
        value = torch.tensor(number, device=self.device)
        return int(self.fabric.all_reduce(value, reduce_op="max"))

    def _gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Writes a checkpoint, unless the parameters have become NaN."""
        self._read()
        path = self.settings.path
        assert path is not None
        own = {
            "random": random_state.capture(self.device, self.data.generators()),
            "epoch_random": self.epoch_random if self.batch else None,
            "record": self.record.state_dict(),
        }
        processes = [own] if self.world == 1 else self._gather(own)
        bad = checkpoint.not_finite(self.module)
        if bad:
            raise ValueError(
                f"The parameter {bad!r} is not finite after step {self.history.steps} (batch "
                f"{self.batch} of epoch {self.epoch}), though the loss was before it. Lower the "
                f"learning rate, or give clip_norm.{self._where_to_go_on()}"
            )
        if self.fabric.global_rank == 0:
            checkpoint.write(self, path, processes)
        self.saved_at = (self.epoch, self.batch)
        if self.world > 1:
            self.fabric.barrier()


def _per_epoch(schedule: Any) -> bool:
    return isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)

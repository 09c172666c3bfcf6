"""The training loop of one process: epochs, steps, validation, and when to write a checkpoint."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pyro_corex.batches import Batch, Data, Transform, prepare
from pyro_corex.objective import CorExELBO
from pyro_corex.training import capture, random_state, replay
from pyro_corex.training import checkpoint as files
from pyro_corex.training.checkpoint import Checkpoint
from pyro_corex.training.data import InMemory, Loaded, Order, digest, make_batches
from pyro_corex.training.first_run import StoreParameters, first_run, is_complete, take_from_store
from pyro_corex.training.history import History, Record
from pyro_corex.training.interrupts import Interrupts, Stopped, handled_by
from pyro_corex.training.optimization import Learner, Optimization
from pyro_corex.training.runners import Runner
from pyro_corex.training.shared import check_shared

READ_EVERY = 100
"""Steps after which an accelerator is waited for and several processes agree on going on."""

_FORMAT = 2  # of what Loop.state_dict gives


@dataclass
class Loop:
    """A run: what :func:`~pyro_corex.fit` was told, and where it stands; it saves and loads itself.

    :param checkpoint: as :meth:`Checkpoint.looked_up` gives it.
    :param callbacks: functions that are called after each epoch, and loggers.
    """

    module: nn.Module
    data: Data
    elbo: CorExELBO
    epochs: int
    batch_size: int
    lr: float
    seed: int
    transform: Transform | None
    validation: Data | None
    patience: int | None
    optimization: Optimization
    checkpoint: Checkpoint | None
    callbacks: Sequence[Any]
    progress: bool | str
    from_store: StoreParameters = field(default_factory=StoreParameters)

    def run(self, runner: Runner) -> History:
        """Trains until the last epoch, or until ``patience`` or a signal ends it.

        The module is left in evaluation mode.
        """
        self.runner, self.interrupts, self.steps = runner, Interrupts(), capture.Steps()
        num_data, file = self.elbo.num_data, None if runner.rank else self.checkpoint
        with (
            capture.stream(runner),
            random_state.seeded(self.seed, runner.device, runner.rank),
            nullcontext() if file is None else file.claimed(),
            runner.computing(self.module),
            handled_by(self.interrupts.note),
        ):
            try:
                self._start()
                self._train()
            finally:
                self.elbo.num_data = num_data
                self.steps.forget()
                self.module.eval()
                for logger in self._loggers():
                    logger.finalize("success")
        return self.history

    def run_once(self) -> None:
        """Runs the programs once, for parameters that are there only then."""
        if is_complete(self.module):
            return
        order = Order(0, self.batch_size, self.seed)
        batches = make_batches(self.data, self.module, order)
        with random_state.kept(batches.generators):
            torch.manual_seed(self.seed)
            self.from_store = first_run(self.module, batches.epoch(1), self.transform)

    def _start(self) -> None:
        runner = self.runner
        if not self.from_store.are_there():  # a process that was spawned has a store of its own
            self.run_once()
        take_from_store(self.module)  # now, so that a checkpoint has the last word
        self.epoch, self.batch = 1, 0  # batches of this epoch that are done
        self.record, self.history = Record(), History()
        self.best: dict[str, Any] | None = None
        self.epoch_random: dict[str, Any] | None = None  # at the beginning of this epoch
        self.resume_random: dict[str, Any] | None = None  # after the batches that are done
        self.saved_at: tuple[int, int] | None = None  # epoch and batch of the last checkpoint
        self.stepped = False  # in this process
        self.at_once = runner.world == 1 and runner.device.type == "cpu"
        self.learner = Learner(
            self.module, self.elbo, self.from_store, self.optimization, self.lr, runner
        )
        self.prepare = prepare(self.module, self.transform)
        order = Order(0, self.batch_size, self.seed, rank=runner.rank, world=runner.world)
        self.batches, self.held_out = make_batches(self.data, self.module, order), None
        if self.validation is not None:
            order, name = replace(order, shuffle=False), "The validation data"
            self.held_out = make_batches(self.validation, self.module, order, name)
        if self.elbo.num_data is None:
            self.elbo.num_data = self.batches.num_data
        if self.checkpoint is not None:
            self.told = {  # what makes this run this one, as data
                "the format": _FORMAT,
                "seed": self.seed,
                "the number of data": self.batches.num_data,
                "batch_size": None if isinstance(self.data, DataLoader) else self.batch_size,
                **dict(zip(files.DIGESTS, map(digest, (self.batches, self.held_out)), strict=True)),
                **self.learner.described(),
            }
            if self.checkpoint.resume:
                self.load_state_dict(files.read(self._path))
        self.steps = replay.steps(self, self._check)

    def _train(self) -> None:
        left = 0 if self.history.stopped_early else self.epochs
        with tqdm(
            range(self.epoch, left + 1),
            desc=self.progress if isinstance(self.progress, str) else None,
            disable=not self.progress or self.runner.rank > 0,
            unit="epoch",
            dynamic_ncols=True,
            initial=self.epoch - 1,
            total=self.epochs,
        ) as bar:
            for _ in bar:
                record = self._epoch()
                bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k != "seconds"})
                if self.history.stopped_early:
                    break
        if self.best is not None:
            self.learner.parts.load_state_dict(self.best)

    # ------------------------------------------------------------------ an epoch

    def _epoch(self) -> dict[str, float]:
        start, number = time.perf_counter(), self.epoch
        self.learner.parts.train()  # a callback may have changed that
        with pyro.validation_enabled(False):
            for batch in self._batches():
                self._step(batch)
                self._after_step()
            self._read()
            if not len(self.record):
                raise ValueError("The data are empty: there is no batch to train on")
            averages = self._averages(self.record)
            losses = torch.stack(self.runner.gather(self.record.losses())).sum(0)
            self.history.losses += losses.tolist()
            if self.stepped:  # else all steps of the epoch are from before this process
                self.history.terms = self.record.terms(
                    self.elbo.last_sums, self.runner.gather, self.batches.num_data
                )
            if self.held_out is not None:
                found = self._evaluate(self.held_out)
                averages |= {f"val_{name}": value for name, value in found.items()}
        if self.history.terms is not None:
            self.elbo.last_terms = self.history.terms
        averages["seconds"] = time.perf_counter() - start
        self.history.epochs.append(averages)
        self._tell(number, averages)
        self.from_store.warn_of_later_ones(self.module)
        objective = averages.get("val_objective", averages["objective"])
        self.learner.epoch_done(objective)
        if self.held_out is not None:
            self._note_best(objective)
        self.epoch, self.batch, self.record = number + 1, 0, Record()
        self.epoch_random = self.resume_random = None
        if self.checkpoint is not None:
            last = number == self.epochs or self.history.stopped_early
            if last or (self.checkpoint.every and number % self.checkpoint.every == 0):
                self.save()
        self._stop_if_asked(agree=True)
        return averages

    def _tell(self, number: int, averages: dict[str, float]) -> None:
        for logger in self._loggers():
            logger.log_metrics({**averages, "epoch": number}, step=self.history.steps)
        for callback in self.callbacks:
            if not hasattr(callback, "log_metrics"):
                callback(number, self.module, averages)
        if replay.may_change(self.callbacks):
            self.steps.forget()

    def _loggers(self) -> list[Any]:
        return [each for each in self.callbacks if hasattr(each, "log_metrics")]

    def _batches(self) -> Iterator[Batch]:
        """The batches of this epoch that are not done yet."""
        if self.epoch_random is None:
            self.epoch_random = self._captured()
        self._restore(self.epoch_random)
        try:
            batches = self.batches.epoch(self.epoch, self.batch)  # passes over those
            if self.resume_random is not None:
                self._restore(self.resume_random)
                self.resume_random = None
            yield from batches
        except Exception as error:
            raise RuntimeError(
                f"The data could not be read after batch {self.batch} of epoch {self.epoch}: "
                f"{type(error).__name__}: {error}.{self._where_to_go_on()}"
            ) from error

    # ------------------------------------------------------------------ a step

    def _step(self, batch: Batch) -> None:
        self.steps.take(self.prepare(batch), self.record, self._take)
        self.learner.advance()
        if not self.stepped:
            check_shared(self.module, self.elbo, self.batches.num_data)
        self.batch += 1
        self.history.steps += 1
        self.stepped = True

    def _take(self, batch: Batch) -> None:
        loss = self.learner.compute(batch)
        self.record.add(loss, self.elbo)
        self._check(loss)
        self.learner.update(loss)

    def _check(self, loss: Tensor) -> None:
        if self.at_once and not math.isfinite(loss.item()):
            self._read()  # raises before anything is spoilt

    def _after_step(self) -> None:
        agree = self.record.unread >= READ_EVERY
        if agree:
            self._read()
        every = self.checkpoint.every_steps if self.checkpoint else None
        if every and self.history.steps % every == 0:
            self.save()
        self._stop_if_asked(agree)

    # ------------------------------------------------------------------ stopping

    def _stop_if_asked(self, agree: bool) -> None:
        number = self.interrupts.received
        if self.runner.world > 1:  # all have to stop after the same step
            number = max(self.runner.gather(number)) if agree else 0
        if not number:
            return
        if self.checkpoint and self.saved_at != (self.epoch, self.batch):
            self.save()
        done = f"after step {self.history.steps}" + (
            f" (batch {self.batch} of epoch {self.epoch})" if self.batch else ""
        )
        where = self._where_to_go_on() or " No checkpoint was asked for: fit(checkpoint=...)"
        raise Stopped(number, f"Training was interrupted {done}.{where}")

    def _where_to_go_on(self) -> str:
        if self.saved_at is None or self.checkpoint is None:
            return ""
        return (
            f" The last good state is in {self._path}: go on from there with "
            f"fit(..., checkpoint=Checkpoint({str(self._path)!r}, resume=True))"
        )

    def _read(self) -> None:
        """Looks at the steps since the last time, and raises where one is not finite."""
        before = self.history.steps - self.batch  # steps of earlier epochs
        found = self.record.read()
        own = (before + found[0] + 1, found[1]) if found else (math.inf, "")
        step, why = min(self.runner.gather(own))
        if step < math.inf:
            raise ValueError(
                f"The loss is not finite at step {step} (batch {step - before} of epoch "
                f"{self.epoch}): {why}. Check the data and the parameters for NaN and for values "
                "outside a support, lower the learning rate, or give clip_norm."
                + self._where_to_go_on()
            )

    # ------------------------------------------------------------------ validation

    @torch.no_grad()
    def _evaluate(self, batches: InMemory | Loaded) -> dict[str, float]:
        """The terms on the validation data, with the same noise each time."""
        self.learner.parts.eval()
        record = Record()
        seed = 0x7C_B0_5EED + self.seed  # not that of the training noise
        with random_state.seeded(seed, self.runner.device, self.runner.rank):
            for batch in map(self.prepare, batches.epoch(1)):
                record.add(batch.call(self.learner.parts), self.elbo)
            found = record.read()
        if not len(record):
            raise ValueError("The validation data are empty: there is no batch to evaluate on")
        if found:
            raise ValueError(
                f"The loss on the validation data is not finite after epoch {self.epoch}: "
                f"{found[1]}.{self._where_to_go_on()}"
            )
        return self._averages(record)

    def _averages(self, record: Record) -> dict[str, float]:
        totals: list[Tensor] = self.runner.gather(record.totals())
        return record.averages(torch.stack(totals).sum(0))

    def _note_best(self, objective: float) -> None:
        history = self.history
        best = history.best_epoch
        if best is None or objective > history.epochs[best - 1]["val_objective"]:
            history.best_epoch = self.epoch
            if self.patience is not None:
                self.best = copy.deepcopy(self.learner.parts.state_dict())
        elif self.patience is not None:
            history.stopped_early = self.epoch - best >= self.patience

    # ------------------------------------------------------------------ checkpoints

    @property
    def _path(self) -> Any:
        assert self.checkpoint is not None
        return self.checkpoint.path

    def save(self) -> None:
        """Writes a checkpoint, unless the parameters have become NaN."""
        self._read()
        if bad := self.learner.not_finite():
            raise ValueError(
                f"The parameter {bad!r} is not finite after step {self.history.steps} (batch "
                f"{self.batch} of epoch {self.epoch}), though the loss was before it. Lower the "
                f"learning rate, or give clip_norm.{self._where_to_go_on()}"
            )
        state = self.state_dict()
        if self.runner.rank == 0:
            try:
                files.write(self._path, state)
            except OSError as error:
                error.strerror = (
                    f"{error.strerror}. Training stopped after step {self.history.steps}"
                )
                raise
        self.saved_at = (self.epoch, self.batch)
        self.runner.gather(None)  # all wait for the file

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, as data; all processes have to ask for it together."""
        own = {
            "random": self._captured(),
            "epoch_random": self.epoch_random if self.batch else None,
            "record": self.record.state_dict(),
        }
        history = {name: value for name, value in vars(self.history).items() if name != "terms"}
        history["losses"] = torch.tensor(history["losses"], dtype=torch.float64)
        return {
            "kind": "checkpoint",
            "told": self.told,
            **self.learner.state_dict(),
            "processes": self.runner.gather(own),
            "best": self.best,
            "place": {"epoch": self.epoch, "batch": self.batch},
            "history": history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the run where a checkpoint says that it stood.

        :raises CheckpointError: where it is none, or of another run.
        :raises ValueError: where the run has more epochs behind it than there are to be.
        """
        files.compare(self.module, state, self._path)
        files.compare_runs(state, self.told, self.epochs, self._path)
        self.learner.load_state_dict(state, self._path)
        own = state["processes"][self.runner.rank]
        self.resume_random, self.epoch_random = own["random"], own["epoch_random"]
        self.record = Record(**own["record"])
        self.best = state["best"]
        self.epoch, self.batch = state["place"]["epoch"], state["place"]["batch"]
        for name, value in state["history"].items():
            setattr(self.history, name, value.tolist() if isinstance(value, Tensor) else value)
        self.saved_at = (self.epoch, self.batch)
        if self.epoch_random is None:  # between two epochs
            self._restore(self.resume_random)
            self.resume_random = None

    def _captured(self) -> dict[str, Any]:
        return random_state.capture(self.runner.device, self.batches.generators)

    def _restore(self, state: Any) -> None:
        random_state.restore(state, self.runner.device, self.batches.generators)

"""Capture: a training step that is recorded once and replayed on later batches.

On CUDA it is a graph of all that the step does to the device; see :mod:`pyro_corex.training.replay`
for the CPU.  A replay does what was done when the step was recorded, with another batch, and runs
no Python.  So what Python decides has to be the same: it is the key of a recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pyro_corex.batches import Batch
from pyro_corex.training.history import Record, sizes_of
from pyro_corex.training.optimization import Learner
from pyro_corex.training.runners import Devices, Runner

WARM_UP = 3
"""Steps of a kind before one is recorded: libraries are loaded by them, and caches filled."""

_KEPT = 2
"""Kinds of steps that are kept: that of full batches, and that of the last one of an epoch."""


def check(device: torch.device, how: Devices, several: bool) -> None:
    """Raises ``ValueError`` where steps cannot be recorded."""
    reasons = {
        f"the device {str(device)!r}, as steps are recorded on CPU and CUDA": (
            device.type not in ("cpu", "cuda")
        ),
        "several processes or a strategy, which exchange gradients in a step": (
            several or how.number > 1 or how.strategy != "auto"
        ),
        'precision="bf16-mixed" on a CPU, whose operations round otherwise one by one': (
            how.precision == "bf16-mixed" and device.type == "cpu"
        ),
        'precision="16-mixed", which looks at the gradients: take "bf16-mixed"': (
            how.precision == "16-mixed"
        ),
        "compile_networks, which records by itself: give one of the two": how.compile_networks,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise ValueError(f"capture must be False with {reason}; but got True")


@contextmanager
def stream(runner: Runner) -> Iterator[None]:
    """Where steps are recorded, all of them in one stream that is not CUDA's default."""
    if not runner.capture or runner.device.type != "cuda":
        yield
        return
    before = torch.cuda.current_stream(runner.device)
    own = _stream(before.device_index)
    own.wait_stream(before)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        before.wait_stream(own)


@cache
def _stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # one for all runs, as libraries keep memory for each


@contextmanager
def recordable() -> Iterator[None]:
    """Raises where a step waits for the device, while that can be told without harm: where
    recording fails, CUDA's random numbers are lost to the process.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise _refusal(error) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _refusal(error: RuntimeError) -> RuntimeError:
    cause = str(error.__context__ or error).strip().partition("\n")[0]
    return refusal(
        f"{cause}. A step must not read numbers from the device (.item(), float(t), if t > 0) or "
        "copy tensors to it"
    )


def refusal(why: str) -> RuntimeError:
    """What is raised where a step cannot be recorded."""
    return RuntimeError(
        f"The step cannot be recorded for capture=True: {why}. Change that, or leave capture out."
    )


class Graph:
    """What a step does to the device."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, step: Callable[[], Tensor]) -> None:
        """Notes what ``step`` would do, without doing it."""
        here = torch.cuda.current_stream()
        with torch.cuda.graph(self.graph, stream=here, capture_error_mode="thread_local"):
            self.result = step()

    def replay(self) -> Tensor:
        """Does it, and gives what the step gave; the next replay writes into the same place."""
        self.graph.replay()
        return self.result


class Steps:
    """Training steps, each taken as it is."""

    def take(self, batch: Batch, record: Record, step: Callable[[Batch], None]) -> None:
        """Takes a step."""
        step(batch)

    def forget(self) -> None:
        """Keeps nothing of the steps before, as anything may have changed."""


class Kinds(Steps):
    """Training steps of which the first few of a kind are taken as they are, then one is replayed.

    :raises ValueError: for a schedule that cannot be recorded.
    """

    followed: tuple[type, ...] = ()
    """Schedules whose weight a replay reads anew, so that it may move."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        for each in learner.schedules:
            if not callable(each):
                raise ValueError(
                    "kl_schedule must give its weight when it is called, as Warmup does, for "
                    f"capture=True, but got {type(each).__name__}"
                )
        self.known: dict[Any, Any] = {}  # how often seen, or what is replayed; the latest is last
        self.parameters, self.parts = [*learner.parts.parameters()], [*learner.parts.modules()]

    def take(self, batch: Batch, record: Record, step: Callable[[Batch], None]) -> None:
        """Takes a step: by a replay if one like it is recorded, or is now, and else by ``step``.

        :raises RuntimeError: where the step cannot be recorded.
        """
        key = self.key(batch)
        found = self.known.pop(key, 0)
        if isinstance(found, int) and self.due(found):
            found = self.recorded(batch)
        self.known[key] = found + 1 if isinstance(found, int) else found
        while len(self.known) > _KEPT:
            del self.known[next(iter(self.known))]
        if isinstance(found, int):
            with self.watched(last=found == WARM_UP - 1):
                step(batch)
        else:
            self.replay(found, batch, record)

    def due(self, seen: int) -> bool:
        """Whether a kind of steps that was seen so often is recorded now."""
        return seen == WARM_UP

    def recorded(self, batch: Batch) -> Any:
        """A recording of the step."""
        raise NotImplementedError

    def replay(self, found: Any, batch: Batch, record: Record) -> None:
        """Takes a step by what :meth:`recorded` gave, and notes it."""
        raise NotImplementedError

    def watched(self, *, last: bool) -> AbstractContextManager[None]:
        """In which steps are taken as they are.

        :param last: that the next one like it is recorded.
        """
        return nullcontext()

    def forget(self) -> None:
        """See :meth:`Steps.forget`."""
        self.known.clear()
        self.learner.optimiser.zero_grad(set_to_none=True)  # they lie in a graph's memory

    def key(self, batch: Batch) -> Any:
        """All that Python decides on, as far as it is known to change between steps."""
        weights = [each.weight for each in self.learner.elbo.regularizers] + self.learner.schedules
        return (
            *map(_kind, batch.args),
            *((name, _kind(value)) for name, value in batch.kwargs.items()),
            *(
                _number(each() if callable(each) else each)
                for each in weights
                if type(each) not in self.followed
            ),
            *(parameter.requires_grad for parameter in self.parameters),
            *(part.training for part in self.parts),
        )


class Recorded(Kinds):
    """Training steps on CUDA, whole: loss, gradients and optimiser.

    :raises ValueError: for an optimiser or a schedule that cannot be recorded.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        self.groups = learner.bare.param_groups
        adam = isinstance(learner.bare, (torch.optim.Adam, torch.optim.AdamW))
        plain = type(learner.bare) is torch.optim.SGD
        for group in self.groups:
            if not (plain or group.get("capturable") or (adam and group.get("fused"))):
                raise ValueError(
                    "optimizer must keep its state on the device for capture=True, but got "
                    f"{type(learner.bare).__name__}. Make it with fused=True (Adam, AdamW) or "
                    "capturable=True, or take SGD."
                )
        device = learner.runner.device
        self.rates = [  # which a schedule may change at each step
            torch.zeros((), dtype=torch.float32, device=device)
            if adam and not isinstance(group["lr"], Tensor)
            else None
            for group in self.groups
        ]

    def recorded(self, batch: Batch) -> _Recording:
        """See :meth:`Kinds.recorded`.

        :raises RuntimeError: where the step waits for the device or reads from it.
        """
        return _Recording(self, batch)

    def replay(self, found: _Recording, batch: Batch, record: Record) -> None:
        """See :meth:`Kinds.replay`."""
        for rate, group in zip(self.rates, self.groups, strict=True):
            if rate is not None:
                rate.fill_(group["lr"])
        found.replay(batch, record)

    def watched(self, *, last: bool) -> AbstractContextManager[None]:
        """See :meth:`Kinds.watched`."""
        return recordable() if last else nullcontext()

    def key(self, batch: Batch) -> Any:
        """See :meth:`Kinds.key`."""
        return (
            *super().key(batch),
            *(
                (name, id(value) if isinstance(value, Tensor) else repr(value))
                for group, rate in zip(self.groups, self.rates, strict=True)
                for name, value in group.items()
                if name != "params" and (name != "lr" or rate is None)
            ),
        )

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Has the optimiser take its rates from the device, and no number from there."""
        before = [dict(group) for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            if "capturable" in group:
                group["capturable"] = True
            if rate is not None:
                group["lr"] = rate
        try:
            yield
        finally:
            for group, values in zip(self.groups, before, strict=True):
                group.update(values)


class _Recording:
    """A recorded step on batches of one kind."""

    def __init__(self, steps: Recorded, batch: Batch) -> None:
        self.steps, self.batch = steps, batch.map(torch.clone)
        steps.learner.optimiser.zero_grad(set_to_none=True)
        self.graph = Graph()
        try:
            self.graph.record(self._step)
        except RuntimeError as error:
            raise _refusal(error) from error

    def _step(self) -> Tensor:
        learner, elbo = self.steps.learner, self.steps.learner.elbo
        loss = learner.compute(self.batch)
        sums = elbo.last_sums
        self.names, self.sizes = list(sums), sizes_of(elbo)
        noted = [loss.detach(), *(value for pair in sums.values() for value in pair)]
        self.like = [(value.shape, value.dtype) for value in noted]
        together = torch.cat([value.reshape(-1) for value in noted])
        with self.steps.on_device():
            learner.update(loss)
        return together

    def replay(self, batch: Batch, record: Record) -> None:
        """Takes the step, and notes it."""
        for own, new in zip(self.batch.tensors(), batch.tensors(), strict=True):
            own.copy_(new, non_blocking=True)
        together = self.graph.replay().clone()
        parts = together.split([shape.numel() for shape, _ in self.like])
        loss, *sums = (
            part.view(shape).to(dtype)
            for part, (shape, dtype) in zip(parts, self.like, strict=True)
        )
        pairs = zip(sums[::2], sums[1::2], strict=True)
        record.note(loss, dict(zip(self.names, pairs, strict=True)), *self.sizes)


def _kind(value: Any) -> Any:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else repr(value)


def _number(weight: Any) -> Any:
    """A weight as it is recorded: a number; a tensor on the device is read from there."""
    if not isinstance(weight, Tensor):
        return weight
    return tuple(weight.flatten().tolist()) if weight.device.type == "cpu" else None

"""Replay: training steps on a CPU, of which the loss and its gradients run without Python.

See :class:`~pyro_corex.training.flat.Flat`.  The optimiser takes its step as ever.  That a replay
gives what the programs give is proved when the step is recorded, and asked again at its replays 2,
4, 8, 16 and so on: from the same random state the loss, its terms and all gradients have to be
equal, by default to the last bit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_corex.batches import Batch
from pyro_corex.programs import Warmup
from pyro_corex.training.capture import WARM_UP, Kinds, Recorded, Steps, refusal
from pyro_corex.training.flat import Flat
from pyro_corex.training.history import Record, sizes_of
from pyro_corex.training.optimization import Learner
from pyro_corex.training.stock import is_stock, untouched

_READS = "it reads a number from a tensor (.item(), float(t), if t > 0), on which Python may decide"


PAYS = 1000
"""Steps like it that are to come, where a step is recorded by default.  Recording takes as long as
some hundred replays save; both go with the number of operations, not with their sizes."""


def steps(loop: Any, check: Callable[[Tensor], None]) -> Steps:
    """How the steps of a run are taken: as they are, or recorded.

    :param check: as in :class:`Replayed`.
    :raises ValueError: for an optimiser or a schedule that cannot be recorded.
    """
    learner, capture = loop.learner, loop.runner.capture
    if capture == "auto":
        pays = _left(loop) >= PAYS and untouched() and is_stock(*_called(loop))
        return ByDefault(learner, check, partial(_left, loop)) if pays else Steps()
    if not capture:
        return Steps()
    return Replayed(learner, check) if learner.runner.device.type == "cpu" else Recorded(learner)


def may_change(callbacks: Sequence[Any]) -> bool:
    """Whether a callback may change anything, as any may but the loggers of Lightning Fabric."""
    return not all(type(each).__module__.startswith("lightning_fabric.") for each in callbacks)


def _left(loop: Any) -> int:
    """How many steps are to come before a callback may change something, or the run ends."""
    epochs: int = 0 if may_change(loop.callbacks) else loop.epochs - loop.epoch
    return (epochs + 1) * loop.batches.size - loop.batch


def _called(loop: Any) -> list[Any]:
    """All that is called in an epoch."""
    learner, elbo = loop.learner, loop.elbo
    known = {"_pair", "_pairs", "_last", "_mean", "_registered"}  # what it found by itself
    return [
        *(loop.module, type(elbo), [v for name, v in vars(elbo).items() if name not in known]),
        *(loop.transform, vars(loop.batches), loop.held_out and vars(loop.held_out)),
        *(learner.schedules, learner.bare, learner.lr_schedule, learner.parts.from_store),
    ]


class Replayed(Kinds):
    """Training steps on a CPU.

    :param check: raises for a loss that is not finite.
    :raises ValueError: for a schedule that cannot be recorded.
    """

    followed = (Warmup,)

    def __init__(self, learner: Learner, check: Callable[[Tensor], None]) -> None:
        super().__init__(learner)
        self.check = check

    def recorded(self, batch: Batch) -> Any:
        """See :meth:`Kinds.recorded`.

        :raises RuntimeError: where the step reads a number from a tensor, draws from NumPy or
            Python, or has operations that cannot be replayed.
        """
        try:
            return Replay(self.learner, batch)
        except RuntimeError as error:
            cause = str(error).strip().partition("\n")[0]
            raise refusal(cause.rstrip(".")) from error

    def replay(self, found: Replay, batch: Batch, record: Record) -> None:
        """See :meth:`Kinds.replay`.

        :raises RuntimeError: where the programs no longer do what was recorded.
        """
        loss, *sums = found.evaluate(batch)
        pairs = zip(sums[::2], sums[1::2], strict=True)
        record.note(loss, dict(zip(found.names, pairs, strict=True)), *found.sizes)
        self.check(loss)
        self.learner.move()


class ByDefault(Replayed):
    """Steps that are replayed where that pays and gives the same to the last bit, and are taken as
    they are elsewhere.

    :param left: how many steps are to come before anything may change.
    """

    def __init__(
        self, learner: Learner, check: Callable[[Tensor], None], left: Callable[[], int]
    ) -> None:
        super().__init__(learner, check)
        self.left, self.taken, self.refused = left, 0, False

    def take(self, batch: Batch, record: Record, step: Callable[[Batch], None]) -> None:
        """See :meth:`Kinds.take`; nothing is refused."""
        self.taken += 1
        if self.refused:
            step(batch)
        else:
            super().take(batch, record, step)

    def due(self, seen: int) -> bool:
        """See :meth:`Kinds.due`: by the share that such steps had so far."""
        return seen >= WARM_UP and self.left() * (seen + 1) >= PAYS * self.taken

    def recorded(self, batch: Batch) -> Any:
        """See :meth:`Kinds.recorded`."""
        try:
            found = Replay(self.learner, batch)
        except Exception:  # if it is no matter of recording, the step itself will raise it
            self.refused = True
            return 0
        self.refused = not found.exact
        return 0 if self.refused else found

    def replay(self, found: Replay, batch: Batch, record: Record) -> None:
        """See :meth:`Replayed.replay`."""
        super().replay(found, batch, record)
        self.refused = not found.exact

    def forget(self) -> None:
        """See :meth:`Steps.forget`."""
        self.known.clear()
        self.taken = 0


class Replay:
    """The loss of batches of one kind, its terms and its gradients.

    :raises RuntimeError: where they cannot be recorded.
    """

    def __init__(self, learner: Learner, batch: Batch) -> None:
        self.learner, self.batch, self.count = learner, batch, 0
        self.parameters = [p for p in learner.parts.parameters() if p.requires_grad]
        schedules = [each for each in learner.schedules if type(each) is Warmup]
        self.weights = [(each, self.parameters[0].new_zeros(())) for each in schedules]
        before = self._state()
        try:
            for schedule, place in self.weights:
                place.fill_(schedule())
                schedule.place = place
            self.flat = Flat(self._plain, batch.tensors())
        except RuntimeError as error:
            if "value out of a tracing tensor" not in str(error):
                raise
            raise RuntimeError(_READS) from error
        finally:
            for schedule, _ in self.weights:
                schedule.place = None
            self._restore(before)
        self.exact = True
        """Whether it gave the same to the last bit, whenever that was asked."""
        if why := self._prove(batch):
            raise RuntimeError(why)

    def evaluate(self, batch: Batch) -> Sequence[Tensor]:
        """The loss and the sums of its terms, plain and weighted; sets the gradients.

        :raises RuntimeError: where the programs give something else.
        """
        self.count += 1
        if self.count > 1 and not self.count & (self.count - 1):
            before = self._state()
            if why := self._prove(batch):
                raise RuntimeError(
                    f"The step is no longer what was recorded: {why}. It changed "
                    f"in the last {self.count // 2} replays. What the programs decide in Python "
                    "must not change between callbacks: give capture=False."
                )
            self._restore(before)
        found = self._replayed(batch)
        at = len(found) - sum(self.moved)
        gradients = iter(found[at:])
        for parameter, moved in zip(self.parameters, self.moved, strict=True):
            parameter.grad = next(gradients) if moved else None
        return found[:at]

    def _replayed(self, batch: Batch) -> Sequence[Tensor]:
        for schedule, place in self.weights:
            place.fill_(schedule())
        return self.flat(*batch.tensors())

    def _plain(self, *tensors: Tensor) -> list[Tensor]:
        """The same by the programs."""
        given = iter(tensors)
        loss = self.batch.map(lambda _: next(given)).call(self.learner.parts)
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        elbo = self.learner.elbo
        sums = elbo.last_sums
        self.names, self.sizes = list(sums), sizes_of(elbo)
        self.moved = [gradient is not None for gradient in found]
        noted = [value for pair in sums.values() for value in pair]
        return [loss, *noted, *(gradient for gradient in found if gradient is not None)]

    def _prove(self, batch: Batch) -> str:
        """Why a replay is not what the programs give, if so; leaves the random state as it was."""
        before, buffers = self._state(), [*self.learner.parts.buffers()]
        replayed = self._replayed(batch)
        written = [value.clone() for value in buffers]
        self._restore(before)
        noise = _noise()
        plain = self._plain(*batch.tensors())
        other = _noise() != noise
        with torch.no_grad():
            self.exact &= all(map(_equal, [*plain, *buffers], [*replayed, *written]))
        self._restore(before)
        if other:
            return "it draws random numbers from NumPy or Python, which are recorded as they are"
        at = len(plain) - sum(self.moved)
        if not (_same(plain[:at], replayed[:at]) and _same(plain[at:], replayed[at:])):
            return "a replay gives another loss, or other gradients"
        return ""

    def _state(self) -> Any:
        """Of the random numbers, and of what a run of the networks writes into."""
        return torch.get_rng_state(), [(b, b.clone()) for b in self.learner.parts.buffers()]

    @torch.no_grad()
    def _restore(self, state: Any) -> None:
        torch.set_rng_state(state[0])
        for buffer, value in state[1]:
            buffer.copy_(value)


def _equal(a: Tensor, b: Tensor) -> bool:
    like = (a.shape, a.dtype) == (b.shape, b.dtype)
    return like and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


@torch.no_grad()
def _same(plain: Sequence[Tensor], replayed: Sequence[Tensor]) -> bool:
    """Whether tensors are equal but for rounding, which what cancels has more of: to half of the
    digits of each one's norm, or of a thousandth of the largest norm.
    """
    kinds = [(value.shape, value.dtype) for value in plain]
    if kinds != [(value.shape, value.dtype) for value in replayed]:
        return False
    norms = [float(value.nan_to_num(0.0, 0.0, 0.0).norm()) for value in plain]
    return all(
        torch.equal(a.isfinite(), b.isfinite())
        and float((a - b).nan_to_num(0.0, 0.0, 0.0).norm())
        <= torch.finfo(a.dtype).eps ** 0.5 * max(norm, 1e-3 * max(norms))
        for a, b, norm in zip(plain, replayed, norms, strict=True)
    )


def _noise() -> Any:
    legacy: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), legacy[1].tobytes(), legacy[2:]

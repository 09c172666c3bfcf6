"""Replay: training steps on a CPU, of which the loss and its gradients run without Python.

See :class:`~pyro_corex.training.flat.Flat`.  The optimiser takes its step as ever.  That a replay
gives what the programs give is proved when the step is recorded, and asked again after 64, 128, 256
and so on of its replays: from the same random state the loss, its terms and all gradients have to
be equal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_corex.batches import Batch
from pyro_corex.programs import Warmup
from pyro_corex.training.capture import Kinds, Recorded, refusal
from pyro_corex.training.flat import Flat
from pyro_corex.training.history import Record
from pyro_corex.training.optimization import Learner

PROVED_AFTER = 64
"""The number of replays, then doubled, after which one is compared with the programs."""

_READS = (
    "it reads a number from a tensor (.item(), float(t), if t > 0, a loop over a plate), on which "
    "Python may decide"
)


def steps(learner: Learner, check: Callable[[Tensor], None]) -> Kinds:
    """Recorded steps, for the device of the run.

    :param check: as in :class:`Replayed`.
    :raises ValueError: for an optimiser or a schedule that cannot be recorded.
    """
    on_cpu = learner.runner.device.type == "cpu"
    return Replayed(learner, check) if on_cpu else Recorded(learner)


class Replayed(Kinds):
    """Training steps on a CPU.

    :param check: raises for a loss that is not finite.
    :raises ValueError: for a schedule that cannot be recorded.
    """

    followed = (Warmup,)

    def __init__(self, learner: Learner, check: Callable[[Tensor], None]) -> None:
        super().__init__(learner)
        self.check = check

    def recorded(self, batch: Batch) -> Replay:
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
        record.note(loss, dict(zip(found.names, pairs, strict=True)), found.size)
        self.check(loss)
        self.learner.move()


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
        if why := self._prove(batch):
            raise RuntimeError(why)

    def evaluate(self, batch: Batch) -> Sequence[Tensor]:
        """The loss and the sums of its terms, plain and weighted; sets the gradients.

        :raises RuntimeError: where the programs give something else.
        """
        self.count += 1
        if self.count >= PROVED_AFTER and not self.count & (self.count - 1):
            before = self._state()
            if why := self._prove(batch):
                raise RuntimeError(
                    f"The step is no longer what was recorded for capture=True: {why}. It changed "
                    f"in the last {self.count // 2} replays. What the programs decide in Python "
                    "must not change between callbacks: leave capture out."
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
        self.names, self.size = list(sums), elbo.last_num_data
        self.moved = [gradient is not None for gradient in found]
        noted = [value for pair in sums.values() for value in pair]
        return [loss, *noted, *(gradient for gradient in found if gradient is not None)]

    def _prove(self, batch: Batch) -> str:
        """Why a replay is not what the programs give, if so; leaves the random state as it was."""
        before = self._state()
        replayed = self._replayed(batch)
        self._restore(before)
        noise = _noise()
        plain = self._plain(*batch.tensors())
        other = _noise() != noise
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

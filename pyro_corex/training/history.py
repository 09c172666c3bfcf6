"""What a training run was like: the record of its steps, and the history of its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_corex.objective import CorExELBO, CorExTerms

_WORDS = {
    "reconstruction": "the reconstruction of site {!r}",
    "kl": "the KL of site {!r}",
    "regularizer": "the regularizer {!r}",
}
_KEYS = {"kl": "kl_{}", "regularizer": "{}"}

Sums = dict[tuple[str, str], tuple[Tensor, Tensor]]
"""Of each term, by kind and name, its sum over data: as it is reported, and as it is weighted."""


class Record:
    """The steps of an epoch: the loss of each, in nats summed over the batch, and its terms, in
    nats per datum; left on the device until :meth:`read`, which is for every so many steps.
    """

    def __init__(
        self,
        names: Any = (),
        sizes: Any = (),
        table: Tensor | None = None,
        sums: Sequence[Sequence[Tensor]] = (),
        shares: Any = (),
    ) -> None:
        self.names: list[tuple[str, str]] = [(kind, name) for kind, name in names]
        self.sizes: list[float] = list(sizes)
        self.shares: list[float] = list(shares) or [1.0] * len(self.sizes)
        self._table = torch.zeros(0, 0, dtype=torch.float64) if table is None else table
        self._sums = [list(pair) for pair in sums]  # of each name: its value, and weighted
        self._steps: list[tuple[Tensor, Sums]] = []  # what was not read yet

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def unread(self) -> int:
        """The number of steps since :meth:`read`."""
        return len(self._steps)

    def add(self, loss: Tensor, elbo: CorExELBO) -> None:
        """Notes a step: the loss, and the terms that the objective was just made of."""
        self.note(loss.detach(), elbo.last_sums, *sizes_of(elbo))

    def note(self, loss: Tensor, sums: Sums, size: float, share: float) -> None:
        """Notes a step: the loss, the sums of each term, and :func:`sizes_of` it."""
        self.names = list(sums)
        self.sizes.append(size)
        self.shares.append(share)
        self._steps.append((loss, sums))

    def read(self) -> tuple[int, str] | None:
        """Reads what is new, and gives the first step that is not finite, from 0, and why."""
        if self._steps:
            new = self._add_up()
            self._table = torch.cat([self._table, new]) if self._table.numel() else new
            bad = (~new.isfinite()).any(-1).nonzero()
            if len(bad):
                row = int(bad[0])
                return len(self._table) - len(new) + row, self._why(new[row])
        return None

    def _add_up(self) -> Tensor:
        """Adds the new steps to the sums; of each the loss, and its terms in nats per datum."""
        losses, steps = zip(*self._steps, strict=True)
        new = [
            [torch.stack([s[key][i] for s in steps]).double() for i in (0, 1)] for key in self.names
        ]
        sizes, shares = (
            torch.tensor(given[-len(steps) :], dtype=torch.float64)
            for given in (self.sizes, self.shares)
        )
        totals = [v.reshape(len(steps), -1).sum(1).cpu() * shares / sizes for v, _ in new]
        known = self._sums or [[torch.zeros(())] * 2 for _ in new]
        self._sums = [
            [a + torch.tensordot(shares, b.cpu(), 1) for a, b in zip(old, own, strict=True)]
            for old, own in zip(known, new, strict=True)
        ]
        self._steps = []
        return torch.stack([torch.stack(losses).cpu().double(), *totals], 1)

    def sums(self) -> list[list[Tensor]]:
        """Of each name the sums over all data that were read: the value, and weighted."""
        return self._sums

    def _why(self, row: Tensor) -> str:
        found = []
        for (kind, name), value in zip(self.names, row[1:].tolist(), strict=True):
            if not math.isfinite(value):
                what = "NaN" if math.isnan(value) else "infinite"
                found.append(f"{_WORDS[kind].format(name)} is {what}")
        return "; ".join(found) or "its terms are finite, but their weighted sum is not"

    def totals(self) -> Tensor:
        """The sums over all data that were read, and their number: a row of its own."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64)[:, None]
        terms = (self._table[:, 1:] * sizes).sum(0)
        losses = self.losses() * torch.tensor(self.shares, dtype=torch.float64)
        return torch.cat([losses.sum(0, keepdim=True), terms, sizes.sum(0)])

    def losses(self) -> Tensor:
        """The loss of each step that was read."""
        return self._table[:, 0]

    def averages(self, totals: Tensor) -> dict[str, float]:
        """The terms in nats per datum, from the :meth:`totals` of one or more processes."""
        loss, *terms = (totals[:-1] / totals[-1]).tolist()
        named = dict(zip(self.names, terms, strict=True))
        kl = sum(value for (kind, _), value in named.items() if kind == "kl")
        reconstruction = sum(v for (kind, _), v in named.items() if kind == "reconstruction")
        return {
            "objective": -loss,
            "elbo": reconstruction - kl,
            **{_KEYS[kind].format(n): v for (kind, n), v in named.items() if kind in _KEYS},
        }

    def terms(self, like: Sums, gather: Any, num_data: float | None) -> CorExTerms:
        """The terms of all processes, each of which :func:`gather` asks.

        :param like: tensors of the dtype and on the device that they are to have.
        """
        parts = gather((self.sums(), sum(self.sizes)))
        size = sum(of_process for _, of_process in parts)
        sums = {
            name: (
                sum(own[i][0] for own, _ in parts).to(like[name][0]),
                sum(own[i][1] for own, _ in parts).to(like[name][0]),
            )
            for i, name in enumerate(self.names)
        }
        return CorExTerms.of_sums(sums, size, float(num_data or size))

    def state_dict(self) -> dict[str, Any]:
        """What was read, as data: what the constructor takes."""
        names = [list(name) for name in self.names]
        own = {"sizes": self.sizes, "shares": self.shares, "sums": self._sums}
        return {"names": names, "table": self._table, **own}


def sizes_of(elbo: CorExELBO) -> tuple[float, float]:
    """The number of data of the step that was just taken, and their share of those that its loss
    stands for: less than 1 where plates subsample.
    """
    return elbo.last_batch_size, elbo.last_batch_size / elbo.last_num_data


@dataclass
class History:
    """What a training run was like, epoch by epoch: what :func:`fit` returns."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    """For each epoch: "objective", "elbo", "kl_<site>" and each regularizer by its name, in nats
    per datum, and "seconds"; with validation data "val_elbo" and so on."""

    terms: CorExTerms | None = None
    """The terms of the last epoch: means over its data, in nats per datum, as in ``epochs``, while
    the parameters moved on.  They hold no data; ``None`` where this process took no step."""

    losses: list[float] = field(default_factory=list)
    """The loss of each training step of the finished epochs, in nats summed over the batch: what
    ``svi.step`` would return."""

    steps: int = 0
    """The number of training steps."""

    best_epoch: int | None = None
    """The epoch, from 1, with the highest "val_objective"."""

    stopped_early: bool = False
    """Whether ``patience`` ended the run."""

    def __getitem__(self, key: str) -> list[float]:
        """The values of one quantity over the epochs, e.g. ``history["elbo"]``."""
        return [epoch[key] for epoch in self.epochs]

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        last = ", ".join(f"{key}={value:.4g}" for key, value in self.epochs[-1].items())
        return f"History({len(self.epochs)} epochs; the last: {last})"

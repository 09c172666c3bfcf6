"""The loss and the terms of each training step, left on the device until they are asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_corex.objective import CorExELBO

_WORDS = {
    "reconstruction": "the reconstruction of site {!r}",
    "kl": "the KL of site {!r}",
    "regularizer": "the regularizer {!r}",
}
_KEYS = {"kl": "kl_{}", "regularizer": "{}"}


class Record:
    """The steps of an epoch: the loss of each, in nats summed over the batch, and its terms, in
    nats per datum.

    :meth:`add` reads nothing from the device; :meth:`read` does, and is for every so many steps.
    """

    def __init__(self, names: Any = (), sizes: Any = (), table: Tensor | None = None) -> None:
        self.names: list[tuple[str, str]] = [(kind, name) for kind, name in names]
        self.sizes: list[float] = list(sizes)
        self._table = torch.zeros(0, 0, dtype=torch.float64) if table is None else table
        self._rows: list[Tensor] = []  # what was not read yet

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def unread(self) -> int:
        """The number of steps since :meth:`read`."""
        return len(self._rows)

    def add(self, loss: Tensor, elbo: CorExELBO) -> None:
        """Notes a step: the loss, and the terms that the objective was just made of."""
        self.names = list(elbo.last_totals)
        self._rows.append(torch.stack([loss.detach(), *elbo.last_totals.values()]))
        self.sizes.append(elbo.last_num_data)

    def read(self) -> tuple[int, str] | None:
        """Reads what is new, and gives the first step that is not finite, from 0, and why."""
        if self._rows:
            new = torch.stack(self._rows).cpu().double()
            self._rows = []
            self._table = torch.cat([self._table, new]) if self._table.numel() else new
            bad = (~new.isfinite()).any(-1).nonzero()
            if len(bad):
                row = int(bad[0])
                return len(self._table) - len(new) + row, self._why(new[row])
        return None

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
        return torch.cat([self.losses().sum(0, keepdim=True), terms, sizes.sum(0)])

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

    def state_dict(self) -> dict[str, Any]:
        """What was read, as data: what the constructor takes."""
        return {
            "names": [list(name) for name in self.names],
            "sizes": self.sizes,
            "table": self._table,
        }

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
    "total_correlation": "the penalty on TC(z)",
    "mutual_information": "the reward for I(z:x) of site {!r}",
}
_KEYS = {"kl": "kl_{}", "total_correlation": "tc", "mutual_information": "mi_{}"}


class Record:
    """The steps of an epoch: a row of the loss and the terms for each, in nats summed over a batch.

    :meth:`add` reads nothing from the device; :meth:`read` does, and is for every so many steps.
    """

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.sizes: list[float] = []
        self._table = torch.zeros(0, 0, dtype=torch.float64)  # what was read
        self._rows: list[Tensor] = []  # what was not yet

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def unread(self) -> int:
        """The number of steps since :meth:`read`."""
        return len(self._rows)

    def add(self, loss: Tensor, elbo: CorExELBO) -> None:
        """Notes a step: the loss, and the terms that the objective was just made of."""
        sums = elbo.last_sums
        self.names = list(sums.value)
        row = [loss.detach()]
        row += [value.sum() if value.dim() else value for value in sums.value.values()]
        for extra, value in sums.extra.items():
            self.names.append(extra)
            row.append(value.sum() * sums.num_data)
        self._rows.append(torch.stack(row))
        self.sizes.append(sums.num_data * elbo.num_particles)

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
        """The sums over what was read, and the number of data: a row of its own."""
        sizes = torch.tensor([sum(self.sizes)], dtype=torch.float64)
        return torch.cat([self._table.sum(0), sizes])

    def losses(self) -> Tensor:
        """The loss of each step that was read."""
        return self._table[:, 0]

    def averages(self, totals: Tensor, num_particles: int) -> dict[str, float]:
        """The terms in nats per datum, from the :meth:`totals` of one or more processes."""
        loss, *terms, size = totals.tolist()
        n_data = size / num_particles
        named = dict(zip(self.names, (value / size for value in terms), strict=True))
        kl = sum(value for (kind, _), value in named.items() if kind == "kl")
        reconstruction = sum(v for (kind, _), v in named.items() if kind == "reconstruction")
        return {
            "objective": -loss / n_data,
            "elbo": reconstruction - kl,
            **{_KEYS[kind].format(n): v for (kind, n), v in named.items() if kind in _KEYS},
        }

    # ------------------------------------------------------------------ for checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What was read, as data."""
        return {
            "names": [list(name) for name in self.names],
            "sizes": self.sizes,
            "table": self._table,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Record:
        """Puts :meth:`state_dict` back."""
        record = cls()
        record.names = [(kind, name) for kind, name in state["names"]]
        record.sizes = list(state["sizes"])
        record._table = state["table"]
        return record

"""Neighbours: what stands in for a datum where no transformation of it is known."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_corex.batches import check_count
from pyro_corex.information.checks import check_finite, held


class Neighbours:
    """Gives in place of each datum one of those nearest to it, drawn at random.

    What lies close together is mostly of one class (Van Gansbeke et al. 2020).  So neighbours can
    be the copies of :func:`~pyro_corex.fit_stack` where nothing is known that leaves a class as it
    is, and where something is, too.  Distances are Euclidean: standardise columns of a table.

    >>> near = Neighbours(torch.tensor([[0.0], [1.0], [10.0], [12.0]]), n=1)
    >>> near(torch.tensor([[0.0], [12.0]])).flatten()
    tensor([ 1., 10.])

    :param x: those among which neighbours are looked for, shape ``(N, ...)``.
    :param n: one of how many is drawn, less than N; the very nearest, which is the datum itself,
        is left out.
    :raises ValueError: for numbers out of range, and data that are empty, NaN or infinite.
    :raises TypeError: for what holds no numbers.
    """

    def __init__(self, x: Tensor, n: int = 5) -> None:
        check_count("n", n)
        self.x, self.n = check_finite("x", held("x", x)), n
        if n >= len(self.x):
            raise ValueError(f"n must be less than the number of data, {len(self.x)}, but got {n}")

    def __call__(self, batch: Tensor) -> Tensor:
        """Neighbours of the data of ``batch``, of its shape, ``(B, ...)``.

        :raises ValueError: where its data have another shape than those of ``x``.
        """
        if batch.shape[1:] != self.x.shape[1:]:
            raise ValueError(
                f"batch must hold data of the shape {tuple(self.x.shape[1:])}, but got "
                f"{tuple(batch.shape[1:])}"
            )
        self.x = self.x.to(batch)
        all_of = self.x.flatten(1)
        near = torch.cat([
            torch.cdist(rows, all_of).topk(self.n + 1, largest=False).indices[:, 1:]
            for rows in batch.flatten(1).split(1000)
        ])  # fmt: skip
        drawn = torch.randint(self.n, (len(batch), 1), device=batch.device)
        return self.x[near.gather(1, drawn)[:, 0]]

    def __repr__(self) -> str:
        return f"Neighbours({len(self.x)} data, n={self.n})"

"""Batches: the order of the data, and who of several processes gets which of them.

Tensors and arrays lie on the device and are indexed there, without collating item by item.  The
order of an epoch follows from the seed and the epoch's number alone, so that a run that goes on
where another stopped sees what that one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from pyro_corex.information.batches import first_of

Data = Tensor | np.ndarray[Any, Any] | Dataset[Any] | DataLoader[Any]


class Batches(Protocol):
    """What the loop asks of the data."""

    num_data: int | None
    """The size of the data set, where it is known."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, but for the first ``start``."""

    def generators(self) -> list[torch.Generator]:
        """The random generators, other than the global ones, that decide on the batches."""


class Order:
    """Which data make up the batches of an epoch, for one of several processes.

    All processes together take ``batch_size`` data each for a step, so that a step of ``world``
    processes sees the data of one process with batches ``world`` times as large.  Of the last,
    incomplete batch all take the same number; up to ``world - 1`` data are left over.
    """

    def __init__(
        self,
        num_data: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.num_data, self.batch_size = num_data, batch_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.rank, self.world = rank, world

    def batches(self, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """The indices of each batch, which go to the device together."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
            order = torch.randperm(self.num_data, generator=generator)
        else:
            order = torch.arange(self.num_data)
        order = order.to(device)
        together = self.batch_size * self.world
        found = []
        for rows in order.split(together):
            share = len(rows) // self.world
            if share and not (self.drop_last and len(rows) < together):
                found.append(rows[self.rank * share : (self.rank + 1) * share])
        return found


def _mix(seed: int, epoch: int) -> int:
    state = np.random.SeedSequence([seed % 2**64, epoch]).generate_state(1, np.uint64)
    return int(state[0]) % 2**63


class TensorBatches:
    """Batches of a tensor that lies on the device."""

    def __init__(self, x: Tensor, order: Order) -> None:
        self.x, self.order = x, order
        self.num_data: int | None = len(x)

    def epoch(self, number: int, start: int = 0) -> Iterator[Tensor]:
        """See :class:`Batches`."""
        for rows in self.order.batches(number, self.x.device)[start:]:
            yield self.x[rows]

    def generators(self) -> list[torch.Generator]:
        """See :class:`Batches`."""
        return []


class _EpochSampler(Sampler[list[int]]):
    """The batches of an :class:`Order`, for a ``DataLoader``."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.at = (1, 0)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self.at
        return (rows.tolist() for rows in self.order.batches(epoch)[start:])

    def __len__(self) -> int:
        return len(self.order.batches(1)) - self.at[1]


class LoaderBatches:
    """The first entries of a loader's batches, on the device."""

    def __init__(self, loader: DataLoader[Any], device: torch.device, dtype: torch.dtype) -> None:
        self.loader, self.device, self.dtype = loader, device, dtype
        self.num_data = _length(loader.dataset)

    def epoch(self, number: int, start: int = 0) -> Iterator[Tensor]:
        """See :class:`Batches`.  A loader with an order of its own is read from its beginning."""
        sampler = self.loader.batch_sampler
        if isinstance(sampler, _EpochSampler):
            sampler.at, start = (number, start), 0
        for distributed in (self.loader.sampler, getattr(sampler, "sampler", None)):
            if isinstance(distributed, DistributedSampler):
                distributed.set_epoch(number)
        iterator = iter(self.loader)
        for _ in islice(iterator, start):  # now, not when the first batch is asked for
            pass
        return (first_of(b).to(self.device, self.dtype, non_blocking=True) for b in iterator)

    def generators(self) -> list[torch.Generator]:
        """See :class:`Batches`."""
        owners = [self.loader, self.loader.sampler, self.loader.batch_sampler]
        found = (getattr(owner, "generator", None) for owner in owners)
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def make_batches(
    data: Data,
    batch_size: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    shuffle: bool = True,
    rank: int = 0,
    world: int = 1,
    name: str = "The data",
) -> Batches:
    """The batches of ``data``.

    :raises ValueError: for data that are empty, and for a loader that several processes can not
        share.
    :raises TypeError: for data of another kind.
    """
    order = partial(Order, seed=seed, rank=rank, world=world)
    if isinstance(data, (Tensor, np.ndarray)):
        x = torch.as_tensor(data)
        if not x.dim() or not x.numel():
            raise ValueError(f"{name} are empty: their shape is {tuple(x.shape)}")
        return TensorBatches(x.to(device, dtype), order(len(x), batch_size, shuffle=shuffle))
    if isinstance(data, DataLoader):
        if world > 1:
            data = _shared(data, order, world, name)
        return LoaderBatches(data, device, dtype)
    if not isinstance(data, Dataset):
        raise TypeError(
            f"{name} must be a tensor, an array, a Dataset or a DataLoader, but got "
            f"{type(data).__name__}"
        )
    size = _length(data)
    if size is None or isinstance(data, IterableDataset):
        if world > 1:
            raise ValueError(
                f"{name} are an iterable data set, which {world} processes cannot share by "
                "themselves. Give a DataLoader whose data set gives each process its own part, or "
                "a data set with __len__ and __getitem__."
            )
        return LoaderBatches(DataLoader(data, batch_size=batch_size), device, dtype)
    if not size:
        raise ValueError(f"{name} are empty: {type(data).__name__} has the length 0")
    sampler = _EpochSampler(order(size, batch_size, shuffle=shuffle))
    return LoaderBatches(DataLoader(data, batch_sampler=sampler), device, dtype)


def _shared(
    loader: DataLoader[Any], order: Callable[..., Order], world: int, name: str
) -> DataLoader[Any]:
    """A loader of the same data of which each process gets its share."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if isinstance(loader.dataset, IterableDataset) or any(
        isinstance(sampler, DistributedSampler) for sampler in samplers
    ):
        return loader  # it sees to this itself
    kinds = (RandomSampler, SequentialSampler)
    if type(loader.sampler) not in kinds or loader.batch_size is None:
        raise ValueError(
            f"{name} come in the order of {type(loader.sampler).__name__}, which "
            f"{world} processes cannot share by themselves. Give the loader a "
            "DistributedSampler, or leave the order to fit: pass the data set."
        )
    sampler = _EpochSampler(
        order(
            _length(loader.dataset),
            loader.batch_size,
            shuffle=isinstance(loader.sampler, RandomSampler),
            drop_last=loader.drop_last,
        )
    )
    return DataLoader(
        loader.dataset,
        batch_sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None

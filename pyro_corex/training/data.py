"""The order of the data, and who of several processes gets which of them.

What lies in memory is put on the device and indexed there, without collating item by item.  The
order of an epoch follows from the seed and the epoch's number alone, so that a run that goes on
where another stopped sees what that one would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from pyro_corex.batches import Batch, Data, in_memory, placed


@dataclass(eq=False)
class Order(Sampler[list[int]]):
    """Which data make up the batches of an epoch, for one of several processes.

    All processes together take ``batch_size`` data each for a step, so that a step of ``world``
    processes sees the data of one process with batches ``world`` times as large.  Of the last,
    incomplete batch all take the same number; up to ``world - 1`` data are left over.
    """

    num_data: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    drop_last: bool = False
    least: int = 1
    """A last batch of fewer data is joined to the one before."""
    at: tuple[int, int] = (1, 0)
    """The epoch that a loader is to read, and the batches of it that it passes over."""

    def batches(self, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """The indices of each batch, which go to the device together."""
        order = torch.arange(self.num_data)
        if self.shuffle:
            mixed = np.random.SeedSequence([self.seed % 2**64, epoch]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(mixed[0]) % 2**63)
            order = torch.randperm(self.num_data, generator=generator)
        together = self.batch_size * self.world
        sizes = [min(together, self.num_data - at) for at in range(0, self.num_data, together)]
        if self.drop_last and sizes[-1] < together:
            sizes.pop()
        elif len(sizes) > 1 and 0 < sizes[-1] // self.world < self.least <= self.batch_size:
            last = sizes.pop()
            sizes[-1] += last
        found = []
        for rows in order[: sum(sizes)].to(device).split(sizes):
            if share := len(rows) // self.world:
                found.append(rows[self.rank * share : (self.rank + 1) * share])
        return found

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self.at
        return (rows.tolist() for rows in self.batches(epoch)[start:])

    def __len__(self) -> int:
        return len(self.batches(1)) - self.at[1]


class InMemory:
    """Batches of tensors that lie on the device."""

    def __init__(self, whole: Batch, order: Order) -> None:
        self.whole, self.order = whole, order
        self.num_data: int | None = order.num_data
        self.generators: list[torch.Generator] = []
        """Those, other than the global ones, that decide on the batches."""

    @cached_property
    def size(self) -> int:
        """The number of batches of an epoch; 0 where that is not known."""
        return len(self.order)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, but for the first ``start``."""
        device = self.whole.tensors()[0].device
        for rows in self.order.batches(number, device)[start:]:
            yield self.whole.map(lambda value, rows=rows: value[rows])  # type: ignore[misc]


class Loaded:
    """The batches of a loader, as the program takes them."""

    def __init__(self, loader: DataLoader[Any], module: nn.Module) -> None:
        self.loader, self.module = loader, module
        self.num_data, self.size = _length(loader.dataset), _length(loader) or 0
        owners = [loader, loader.sampler, loader.batch_sampler]
        found = (getattr(owner, "generator", None) for owner in owners)
        self.generators = list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """See :class:`InMemory`.  A loader with an order of its own is read from its beginning."""
        sampler = self.loader.batch_sampler
        if isinstance(sampler, Order):
            sampler.at, start = (number, start), 0
        for distributed in (self.loader.sampler, getattr(sampler, "sampler", None)):
            if isinstance(distributed, DistributedSampler):
                distributed.set_epoch(number)
        iterator = iter(self.loader)
        for _ in islice(iterator, start):  # now, not when the first batch is asked for
            pass
        return (placed(Batch.of(batch), self.module) for batch in iterator)


def digest(data: Any) -> str | None:
    """Tells data from others: of some million numbers of them; ``None`` where it takes reading."""
    if isinstance(data, (InMemory, Loaded)):
        return digest(data.whole if isinstance(data, InMemory) else data.loader.dataset)
    if isinstance(data, Batch):
        held = [*data.args, *(data.kwargs[name] for name in sorted(data.kwargs))]
    elif type(data) is TensorDataset:
        held = list(data.tensors)
    elif type(data) is Subset and (inner := digest(data.dataset)):
        held = [inner, torch.as_tensor(data.indices)]
    else:
        return None
    found = hashlib.sha256()
    for value in held:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            rows = value[:: max(1, value.numel() >> 20)] if value.dim() else value[None]
            found.update(rows.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        else:
            found.update(repr(value).encode())
    return found.hexdigest()[:16]


@contextmanager
def normalised() -> Iterator[None]:
    """Says what to do where batch normalisation refuses a batch of one datum."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "batch_size must be at least 2 where the program has batch normalisation, but got a "
            "batch of one datum. If it is the last one of a DataLoader, give that drop_last=True."
        ) from error


def make_batches(
    data: Data, module: nn.Module, order: Order, name: str = "The data"
) -> InMemory | Loaded:
    """The batches of ``data`` for one of several processes, as ``module`` takes them.

    :param order: what is asked for; the number of data is filled in, and that batch normalisation
        takes no batch of one datum.
    :raises ValueError: for data that are empty, and for a loader that several processes can not
        share.
    :raises TypeError: for data of another kind.
    """
    normalises = any(isinstance(part, _BatchNorm) for part in module.modules())
    if normalises and order.shuffle:  # evaluation does not shuffle, and normalises otherwise
        order = replace(order, least=2)
    whole = in_memory(data)
    if whole is not None:
        if not all(value.numel() for value in whole.tensors()):
            shapes = ", ".join(str(tuple(value.shape)) for value in whole.tensors())
            raise ValueError(f"{name} are empty: their shape is {shapes}")
        return InMemory(placed(whole, module), replace(order, num_data=len(whole)))
    if isinstance(data, DataLoader):
        return Loaded(data if order.world == 1 else _shared(data, order, name), module)
    if not isinstance(data, Dataset):
        raise TypeError(
            f"{name} must be a tensor, an array, a tuple or a dict of them, a Dataset or a "
            f"DataLoader, but got {type(data).__name__}"
        )
    size = _length(data)
    if size is None or isinstance(data, IterableDataset):
        if order.world > 1:
            raise ValueError(
                f"{name} are an iterable data set, which {order.world} processes cannot share by "
                "themselves. Give a DataLoader whose data set gives each process its own part, or "
                "a data set with __len__ and __getitem__."
            )
        return Loaded(DataLoader(data, batch_size=order.batch_size), module)
    if not size:
        raise ValueError(f"{name} are empty: {type(data).__name__} has the length 0")
    order = replace(order, num_data=size)
    return Loaded(DataLoader(data, batch_sampler=order), module)


def _shared(loader: DataLoader[Any], order: Order, name: str) -> DataLoader[Any]:
    """A loader of the same data of which each process gets its share."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if isinstance(loader.dataset, IterableDataset) or any(
        isinstance(sampler, DistributedSampler) for sampler in samplers
    ):
        return loader  # it sees to this itself
    size = _length(loader.dataset)
    own = type(loader.sampler) not in (RandomSampler, SequentialSampler)
    if own or loader.batch_size is None or size is None:
        raise ValueError(
            f"{name} come in the order of {type(loader.sampler).__name__}, which "
            f"{order.world} processes cannot share by themselves. Give the loader a "
            "DistributedSampler, or leave the order to fit: pass the data set."
        )
    order = replace(
        order,
        num_data=size,
        batch_size=loader.batch_size,
        shuffle=isinstance(loader.sampler, RandomSampler),
        drop_last=loader.drop_last,
    )
    kept = [
        *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator"),
        *("multiprocessing_context", "prefetch_factor", "persistent_workers"),
    ]
    options: dict[str, Any] = {option: getattr(loader, option) for option in kept}
    return DataLoader(loader.dataset, batch_sampler=order, **options)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None

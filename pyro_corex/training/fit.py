"""fit: the training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pyro_corex.objective import CorExELBO, CorExTerms

Data = Tensor | np.ndarray[Any, Any] | Dataset[Any] | DataLoader[Any]


@dataclass
class History:
    """What a training run was like, epoch by epoch."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    """For each epoch: "elbo", "objective" and "kl_<site>" in nats per datum, and "seconds"."""

    terms: CorExTerms | None = None
    """The terms of the last training step."""

    def __getitem__(self, key: str) -> list[float]:
        """The values of one quantity over the epochs, e.g. ``history["elbo"]``."""
        return [epoch[key] for epoch in self.epochs]

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        last = ", ".join(f"{key}={value:.4g}" for key, value in self.epochs[-1].items())
        return f"History({len(self.epochs)} epochs; the last: {last})"


def fit(
    module: nn.Module,
    data: Data,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    elbo: CorExELBO | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[int, nn.Module, dict[str, float]], Any] | None = None,
    progress: bool = True,
) -> History:
    """Trains a program with Adam.

    :param module: a program with ``.model(x)`` and ``.guide(x)``, such as
        :class:`~pyro_corex.CorExVAE`; it is trained in place and left in evaluation mode.
    :param data: the data, first axis the data: a tensor, an array, a ``Dataset`` or a
        ``DataLoader``.  Batches that are tuples or lists give x as their first entry.  They
        are converted to the dtype of the module's parameters.
    :param epochs: passes over the data.
    :param seed: of the order of the data and of all sampling; torch's own random state is put back
        afterwards.
    :param device: "auto" takes CUDA where there is one.
    :param elbo: the objective; ``CorExELBO()`` by default.
    :param transform: applied to each batch on the device, e.g. ``torch.bernoulli`` to binarise grey
        values anew in each epoch.
    :param callback: called after each epoch with its number from 1, the module and its record.
    :param progress: show a bar with the terms of the bound.
    :raises ValueError: for data that are empty or outside of the likelihood's support, and when
        the loss becomes NaN, naming the site and the term.
    :returns: the history; ``module`` holds the result.
    """
    _check(epochs, batch_size, lr)
    if not callable(getattr(module, "model", None)) or not callable(getattr(module, "guide", None)):
        raise TypeError(
            f"{type(module).__name__} must have the methods .model(x) and .guide(x), as CorExVAE "
            "has"
        )
    dtype = next((p.dtype for p in module.parameters()), torch.get_default_dtype())
    device = pick_device(device)
    elbo = CorExELBO() if elbo is None else elbo
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        _size_told(elbo, data),
    ):
        torch.manual_seed(seed)
        batches = _batches(data, batch_size, device, dtype)
        if isinstance(data, (Tensor, np.ndarray)) and transform is None:
            _check_support(module, torch.as_tensor(data))
        module.to(device).train()
        optimiser = torch.optim.Adam(module.parameters(), lr=lr)
        history = History()
        bar = tqdm(range(1, epochs + 1), disable=not progress, unit="epoch", dynamic_ncols=True)
        for epoch in bar:
            start = time.perf_counter()
            with pyro.validation_enabled(False):
                record = _train_epoch(module, batches, elbo, optimiser, transform)
            record["seconds"] = time.perf_counter() - start
            history.epochs.append(record)
            history.terms = elbo.last_terms
            bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k != "seconds"})
            if callback is not None:
                callback(epoch, module, record)
    module.eval()
    return history


def _train_epoch(
    module: nn.Module,
    batches: Iterable[Tensor],
    elbo: CorExELBO,
    optimiser: torch.optim.Optimizer,
    transform: Callable[[Tensor], Tensor] | None,
) -> dict[str, float]:
    model: Any = module.model
    guide: Any = module.guide
    seen: list[CorExTerms] = []
    for x in batches:
        x = x if transform is None else transform(x)
        optimiser.zero_grad(set_to_none=True)
        loss = elbo.differentiable_loss(model, guide, x)
        loss.backward()
        optimiser.step()
        seen.append(elbo.last_terms.without_data())  # else all batches of the epoch would stay
    if not seen:
        raise ValueError("The data are empty: there is no batch to train on")
    record = _average(seen)
    if not all(np.isfinite(list(record.values()))):
        elbo.loss(model, guide, x)  # names the site and the term, if it is not finite here too
        raise ValueError(f"The loss became NaN or infinite in this epoch: {record}")
    return record


def _average(seen: list[CorExTerms]) -> dict[str, float]:
    """The mean terms of an epoch, in nats per datum; only here is the device waited for."""
    n_data = sum(terms.num_data for terms in seen)

    def mean(values: Iterable[tuple[Tensor, float]]) -> float:
        products = [value.sum() * n for value, n in values]
        return float(torch.stack(products).sum()) / n_data if products else 0.0

    kl = {name: mean((terms.kl[name], terms.num_data) for terms in seen) for name in seen[0].kl}
    reconstruction = sum(
        mean((terms.reconstruction[name], terms.num_data) for terms in seen)
        for name in seen[0].reconstruction
    )
    weighted = sum(
        mean((terms.kl_weight[name] * terms.kl[name], terms.num_data) for terms in seen)
        for name in kl
    )
    penalties = [(t.total_correlation, t) for t in seen]
    penalty = mean((tc * t.tc_weight, t.num_data) for tc, t in penalties if tc is not None)
    return {
        "objective": reconstruction - weighted - penalty,
        "elbo": reconstruction - sum(kl.values()),
        **{f"kl_{name}": value for name, value in kl.items()},
    }


class _TensorBatches:
    """Shuffled batches of a tensor that lies on the device, without collating item by item."""

    def __init__(self, x: Tensor, batch_size: int) -> None:
        self.x = x
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.x), device=self.x.device)
        for rows in order.split(self.batch_size):
            yield self.x[rows]


class _LoaderBatches:
    """The first entries of a loader's batches, on the device."""

    def __init__(self, loader: DataLoader[Any], device: torch.device, dtype: torch.dtype) -> None:
        self.loader = loader
        self.device = device
        self.dtype = dtype

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.loader:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            yield x.to(self.device, self.dtype, non_blocking=True)


def _batches(
    data: Data, batch_size: int, device: torch.device, dtype: torch.dtype
) -> Iterable[Tensor]:
    if isinstance(data, (Tensor, np.ndarray)):
        x = torch.as_tensor(data)
        if not x.numel():
            raise ValueError(f"The data are empty: their shape is {tuple(x.shape)}")
        return _TensorBatches(x.to(device, dtype), batch_size)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=batch_size, shuffle=True)
    if isinstance(data, DataLoader):
        return _LoaderBatches(data, device, dtype)
    raise TypeError(
        f"data must be a tensor, an array, a Dataset or a DataLoader, but got {type(data).__name__}"
    )


@contextmanager
def _size_told(elbo: CorExELBO, data: Data) -> Iterator[None]:
    """Tells the objective the size of the data set, which an estimate of TC(z) needs."""
    told = elbo.tc_num_data
    whole = data.dataset if isinstance(data, DataLoader) else data
    if told is None and elbo.tc_weight and hasattr(whole, "__len__"):
        elbo.tc_num_data = len(whole)
    try:
        yield
    finally:
        elbo.tc_num_data = told


def pick_device(device: str | torch.device) -> torch.device:
    """The device that ``device`` names; "auto" is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _check_support(module: nn.Module, x: Tensor) -> None:
    likelihood = getattr(module, "likelihood", None)
    if likelihood is not None:
        likelihood.check(x)


def _check(epochs: int, batch_size: int, lr: float) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, but got {value!r}")
    if not lr > 0:
        raise ValueError(f"lr must be > 0, but got {lr!r}")

"""What both exports start from: the data as one tensor, and the terms of the bound on them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from pyro_corex.evaluation import TCBound, tc_bound
from pyro_corex.evaluation.bound import batches_for, dataset_terms, evaluating
from pyro_corex.information.batches import Data
from pyro_corex.objective import CorExTerms


def collect(
    module: Any,
    data: Data,
    batch_size: int,
    transform: Callable[[Tensor], Tensor] | None,
    seed: int,
) -> Tensor:
    """All data as one tensor ``(N, ...)``, as the program takes them, transformed once.

    :raises ValueError: for data that are empty.
    """
    with evaluating(module, seed):
        parts = list(batches_for(module, data, batch_size, transform))
    if not sum(len(part) for part in parts):
        raise ValueError("The data are empty: there is no datum to evaluate on")
    return torch.cat(parts)


def evaluate(
    module: Any, x: Tensor, *, batch_size: int, data_plates: Collection[str] | None, seed: int
) -> tuple[CorExTerms, TCBound | None, str]:
    """The terms of all data, the bound on TC(x) where it can be stated, and why if it cannot."""
    options: Any = {"batch_size": batch_size, "data_plates": data_plates, "seed": seed}
    try:
        bound = tc_bound(module, x, **options)
    except ValueError as error:
        return dataset_terms(module, x, **options), None, str(error)
    return bound.terms, bound, ""

"""What both exports start from: all data as one batch, and the terms of the bound on them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_corex.batches import Batch, Data, Transform, programs_of
from pyro_corex.evaluation import TCBound, tc_bound
from pyro_corex.evaluation.bound import batches_for, dataset_terms, evaluating
from pyro_corex.objective import CorExTerms


@dataclass(frozen=True)
class Evaluated:
    """A data set and the terms of a program on it."""

    data: Batch
    """All data, as the program takes them."""
    terms: CorExTerms
    bound: TCBound | None
    problem: str
    """Why there is no bound, if so."""

    @cached_property
    def shown(self) -> tuple[str | None, Tensor]:
        """The site and the tensor ``(N, ...)`` that pictures and tables are of.

        Of the observed sites the first that is one of the things that the program is given; where
        none is, the first of these, without a site unless there is only one.
        """
        for site, inputs in self.terms.evidence.inputs.items():
            for value in self.data.tensors():
                if value.numel() == inputs.values.numel():
                    flat = value.reshape(inputs.values.shape).to(inputs.values)
                    if torch.equal(flat, inputs.values):
                        return site, _floating(value)
        sites = list(self.terms.reconstruction)
        return sites[0] if len(sites) == 1 else None, _floating(self.data.tensors()[0])


def collect(
    module: Any, data: Data, batch_size: int, transform: Transform | None, seed: int
) -> Batch:
    """All data as one batch, as the program takes them, transformed once.

    :raises ValueError: for data that are empty.
    :raises TypeError: for a module without ``.model`` and ``.guide``.
    """
    programs_of(module)  # which refuses what is no program
    with evaluating(module, seed):
        parts = list(batches_for(module, data, batch_size, transform))
    if not sum(len(part) for part in parts):
        raise ValueError("The data are empty: there is no datum to evaluate on")
    columns = zip(*(part.tensors() for part in parts), strict=True)
    whole = iter([torch.cat(column) for column in columns])
    return parts[0].map(lambda _: next(whole))


def evaluate(
    module: Any,
    data: Batch,
    *,
    batch_size: int,
    seed: int,
    data_plates: Collection[str] | None = None,
) -> Evaluated:
    """The terms of all data, the bound on TC(x) where it can be stated, and why if it cannot."""
    options: Any = {"batch_size": batch_size, "data_plates": data_plates, "seed": seed}
    try:
        bound = tc_bound(module, data, **options)
    except ValueError as error:
        return Evaluated(data, dataset_terms(module, data, **options), None, str(error))
    return Evaluated(data, bound.terms, bound, "")


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())

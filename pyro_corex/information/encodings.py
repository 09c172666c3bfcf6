"""Encodings: what a program's ``encode`` returns, as the tensors that are kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
)


def choose(encoded: Any, layer: int) -> Any:
    """What was returned of a layer, where there are several."""
    if not isinstance(encoded, (tuple, list)):
        if layer not in (0, -1):
            raise ValueError(f"layer = {layer}, but the module has a single layer; use -1")
        return encoded
    if not -len(encoded) <= layer < len(encoded):
        raise ValueError(
            f"layer = {layer}, but the module has {len(encoded)} layers; choose from "
            f"{-len(encoded)} to {len(encoded) - 1}"
        )
    return encoded[layer]


def parameters_of(encoded: Any, families: set[type[Distribution]]) -> tuple[Tensor, ...]:
    """(loc, scale), each (B, m), or (probs,) of shape (B, m, K), or a family's own (B, m).

    :param families: gains what it is, of which there may be one.
    """
    base: Distribution | Any = encoded
    while isinstance(base, Independent):
        base = base.base_dist
    found: tuple[Tensor, ...] = ()
    family: type[Distribution] = type(base)
    if isinstance(base, Normal) and base.loc.dim() == 2:
        family, found = Normal, (base.loc, base.scale)
    elif isinstance(base, (Categorical, OneHotCategorical)) and base.probs.dim() in (2, 3):
        family = Categorical
        found = (base.probs if base.probs.dim() == 3 else base.probs[:, None],)
    elif isinstance(base, Bernoulli) and base.probs.dim() == 2:
        family, found = Categorical, (torch.stack([1 - base.probs, base.probs], -1),)
    elif _is_family(base):
        found = tuple(getattr(base, n).expand(base.batch_shape) for n in names_of(family))
    if found and not families - {family}:
        families.add(family)
        return found
    shape = f" with batch shape {tuple(base.batch_shape)}" if hasattr(base, "batch_shape") else ""
    raise TypeError(
        f"encode(x) returned {type(base).__name__}{shape}, but must return a Normal whose loc and "
        "scale are (B, m), a Categorical whose probs are (B, K) or (B, m, K), or for all batches "
        "one other family with a density for single numbers, of batch shape (B, m). Of a Normal "
        "that is transformed let it return the Normal, which has the same information"
    )


def _is_family(base: Any) -> bool:
    """Whether latents are single numbers with a density that its parameters give."""
    if not isinstance(base, Distribution) or len(base.batch_shape) != 2 or base.event_shape:
        return False
    support, names = getattr(base, "support", None), names_of(type(base))
    if support is None or support.is_discrete or {"probs", "logits"} & {*names}:
        return False
    numbers = (isinstance(getattr(base, name, None), Tensor) for name in names)
    return bool(names) and all(numbers) and not isinstance(base, Delta)


def names_of(family: Any) -> tuple[str, ...]:
    """The parameters of a family."""
    found = getattr(family, "arg_constraints", None)
    return tuple(found) if isinstance(found, dict) else ()


@contextmanager
def drawing(device: torch.device, seed: int) -> Iterator[None]:
    """Draws that follow a seed, and leave the global random state alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

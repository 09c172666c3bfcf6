"""Kept until training.data no longer asks for it."""

from typing import Any

from torch import Tensor


def first_of(batch: Any) -> Tensor:
    """The first of a batch."""
    found: Tensor = batch[0] if isinstance(batch, (tuple, list)) else batch
    return found

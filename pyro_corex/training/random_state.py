"""The random states that a run depends on, as data."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

PER_PROCESS = 0x9E3779B97F4A7C15  # sets the noise of one process apart from that of the next


@contextmanager
def seeded(seed: int, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Seeds torch, NumPy and Python, and puts their states back afterwards.

    Each process has noise of its own; that of the first is that of ``torch.manual_seed(seed)``.
    """
    before = capture(device)
    try:
        torch.manual_seed(seed if not rank else (seed + rank * PER_PROCESS) % 2**63)
        sequence = np.random.SeedSequence([seed % 2**64, rank])
        np.random.seed(sequence.generate_state(4))  # noqa: NPY002 -- what data sets use
        random.seed(int(sequence.generate_state(1)[0]))
        yield
    finally:
        restore(before, device)


@contextmanager
def kept(generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Puts the global random states, and those of ``generators``, back afterwards."""
    device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    before = capture(device, generators)
    try:
        yield
    finally:
        restore(before, device, generators)


def capture(device: torch.device, generators: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """The global random states, and those of ``generators``."""
    legacy: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, position, has_gauss, gauss = legacy
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
        "generators": [generator.get_state() for generator in generators],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(
    state: dict[str, Any], device: torch.device, generators: Sequence[torch.Generator] = ()
) -> None:
    """Puts :func:`capture` back."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    for generator, value in zip(generators, state["generators"], strict=True):
        generator.set_state(value)
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)

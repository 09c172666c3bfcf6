"""What the estimator's parameters may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from pyro_corex.estimator.columns import Array


@dataclass(frozen=True)
class Options:
    """The estimator's parameters, checked, as a layer is fitted with them."""

    layers: tuple[int, ...]
    """Latents in each layer; empty where their number is to be chosen."""
    n_states: tuple[int, ...] | int = 2
    hidden: tuple[int, ...] = ()
    max_iter: int = 400
    batch_size: int = 256
    lr: float = 0.02
    tol: float = 1e-4
    seed: int = 0
    rotation: str | None = "oblimin"
    style: Any = "auto"
    anchors: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    """Latent -> column, counted among those that vary -> strength."""
    dtype: torch.dtype = torch.float64
    weight: Array | None = None
    """Of the rows that are fitted, ``(N,)``; they add up to their effective number."""

    @property
    def n_hidden(self) -> int:
        """The number of latents of the first layer."""
        return self.layers[0]


def check_parameters(e: Any) -> Options:
    """The estimator's parameters, checked.

    :raises ValueError: for values out of range.
    :raises TypeError: for values of another type.
    """
    layers = _layers(e.n_hidden)
    if e.latent not in ("gaussian", "categorical"):
        raise ValueError(f"latent must be 'gaussian' or 'categorical', but got {e.latent!r}")
    for name in ("max_iter", "batch_size"):
        value = getattr(e, name)
        if not _is_int(value) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, but got {value!r}")
    for name, low in (("lr", 0.0), ("tol", 0.0), ("anchor_strength", 1.0)):
        value = getattr(e, name)
        fine = isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value))
        if not fine or value < low or (name == "lr" and value == 0):
            sign = ">" if name == "lr" else ">="
            raise ValueError(f"{name} must be a number {sign} {low:g}, but got {value!r}")
    if e.cv not in ("auto", None) and (not _is_int(e.cv) or e.cv < 2):
        raise ValueError(f"cv must be 'auto', None or an integer >= 2, but got {e.cv!r}")
    if e.rotation not in ("oblimin", "varimax", None):
        raise ValueError(f"rotation must be 'oblimin', 'varimax' or None, but got {e.rotation!r}")
    if not (isinstance(e.style, bool) or e.style == "auto"):
        raise ValueError(f"style must be 'auto', True or False, but got {e.style!r}")
    hidden = (e.hidden,) if _is_int(e.hidden) else e.hidden
    if not isinstance(hidden, (tuple, list)) or any(not _is_int(s) or s < 1 for s in hidden):
        raise ValueError(
            "hidden must be the sizes of hidden layers, e.g. (32,), or () for a linear program, "
            f"but got {e.hidden!r}"
        )
    _check_together(e, layers, hidden)
    automatic = isinstance(e.n_states, str) and e.n_states == "auto"
    n_states = 2 if automatic else _states(e.n_states, layers)
    return Options(
        layers, n_states, tuple(hidden), e.max_iter, e.batch_size, e.lr, e.tol,
        rotation=e.rotation, style=e.style,
    )  # fmt: skip


def _check_together(e: Any, layers: Sequence[int], hidden: Sequence[int]) -> None:
    """Raises where parameters do not go together."""
    categorical = e.latent == "categorical"
    if categorical and hidden:
        raise ValueError(f"hidden={e.hidden!r} is for Gaussian latents. Leave hidden out.")
    if categorical and len(layers) > 1:
        raise ValueError(
            f"n_hidden={e.n_hidden!r} has several layers, which are for Gaussian latents. Give one "
            "number, or latent='gaussian'."
        )
    if e.anchors and hidden:
        raise ValueError(
            "anchors need a linear program: what a network does cannot be kept to chosen latents. "
            "Leave hidden out."
        )
    if len(layers) > 1 and e.rotation != "oblimin":
        raise ValueError(
            f"rotation={e.rotation!r} keeps latents uncorrelated, so that a layer above has "
            f"nothing to explain, but n_hidden={e.n_hidden!r}. Use 'oblimin', or one layer."
        )
    if e.style is True and (categorical or e.anchors or hidden):
        raise ValueError(
            "style=True needs Gaussian latents of a linear program without anchors. Use "
            "style='auto', or leave the others out."
        )
    if e.anchors and not layers:
        raise ValueError("anchors name latents, so their number must be known, but n_hidden='auto'")


def _layers(n_hidden: Any) -> tuple[int, ...]:
    if isinstance(n_hidden, str) and n_hidden == "auto":
        return ()
    layers = (n_hidden,) if _is_int(n_hidden) else n_hidden
    if not isinstance(layers, (tuple, list)) or not layers or not all(map(_is_int, layers)):
        raise (ValueError if isinstance(n_hidden, str) else TypeError)(
            f"n_hidden must be an integer, a tuple of them or 'auto', but got {n_hidden!r}. A "
            "tuple, such as (10, 3, 1), is from the data upwards."
        )
    if any(m < 1 for m in layers):
        raise ValueError(f"n_hidden must be >= 1 in every layer, but got {n_hidden!r}")
    if any(above >= below for below, above in pairwise(layers)):
        raise ValueError(
            f"n_hidden={n_hidden!r} does not get smaller from the data upwards: a layer explains "
            "the dependence among the latents below it, and needs fewer. Try (10, 3, 1)."
        )
    return tuple(int(m) for m in layers)


def _states(n_states: Any, layers: Sequence[int]) -> tuple[int, ...] | int:
    several = (n_states,) if _is_int(n_states) else n_states
    if not isinstance(several, (tuple, list)) or not all(map(_is_int, several)):
        raise TypeError(
            f"n_states must be an integer, a list with one for each latent, or 'auto', but got "
            f"{n_states!r}"
        )
    if any(s < 2 for s in several):
        each = "" if several == (n_states,) else " for every latent"
        raise ValueError(f"n_states must be >= 2{each}, but got {n_states!r}")
    if _is_int(n_states):
        return int(n_states)
    if len(layers) != 1 or len(n_states) != layers[0]:
        wanted = f"n_hidden={layers[0]}" if len(layers) == 1 else "one layer of a given size"
        raise ValueError(
            f"n_states has {len(n_states)} entries, but a list needs one for each latent of "
            f"{wanted}. Give one number for all."
        )
    return tuple(int(s) for s in n_states)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, (bool, np.bool_))

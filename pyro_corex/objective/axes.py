"""Axes: which batch dimensions of the sites index data, and how many data there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.sites import PARTICLE_PLATE, Site
from pyro_corex.objective.term import Axis

Places = Mapping[Axis, int]
"""Axis -> batch dimension, counted from the right."""


class Axes:
    """The axes of the sites of one pair of traces, and which of them index data.

    Data run along the plates that observed and latent sites share; where none is shared, along
    those of the observed sites.  Of these, ones that not all observed sites are in are dimensions
    of the others.  Two plates may be *crossed*, with a latent in each that is not in the other: a
    latent for each gene beside one for each cell.  Then one of them indexes the dimensions of a
    datum, and the data are what the programs' arguments run along.  Plates that no site is in both
    of hold different data.

    :param model: the sites of the model's trace; ``guide`` those of the guide's.
    :param told: the axes that index data, or ``None`` to find them.
    :param first: gives the first tensor that the programs are given; its first axis is the data's.
    """

    def __init__(
        self,
        model: Mapping[str, Site],
        guide: Mapping[str, Site],
        *,
        max_plate_nesting: float,
        told: Collection[str] | None,
        first: Callable[[], Tensor | None],
    ) -> None:
        self._sites = {
            (role, name): site
            for role, nodes in (("model", model), ("guide", guide))
            for name, site in nodes.items()
        }
        self.of = {key: _places(site, max_plate_nesting) for key, site in self._sites.items()}
        self.deterministic = {key for key, site in self._sites.items() if is_deterministic(site)}
        """Sites that are no random variables."""
        self.factors = {key for key, site in self._sites.items() if is_factor(site)}
        """Sites that are ``pyro.factor`` statements."""
        self.guess = ""
        """What was chosen without a reason that is sure, as a sentence."""
        self.by_place = False
        """Whether it was decided from where tensors lie, which no :func:`signature` says."""
        self._arguments = first
        self._observed = {
            key: places
            for key, places in self.of.items()
            if key[0] == "model" and self._sites[key]["is_observed"] and not self.no_term(*key)
        }
        self.data = self._told(told) if told is not None else self._found()
        self.num_data, self.batch_size, self.particles = self._count()
        del self._sites, self._observed, self._arguments  # so that it may be kept
        vars(self).pop("_first", None)

    def no_term(self, role: str, name: str) -> bool:
        """Whether a site has neither data nor latents: a deterministic one, or a factor."""
        return (role, name) in self.deterministic or (role, name) in self.factors

    def _count(self) -> tuple[float, float, int]:
        """The number of data that the terms stand for, of those that are there, and of vectorised
        particles.
        """
        size: dict[Axis, int] = {}
        drawn: dict[Axis, int] = {}
        particles = 1
        for key, places in self.of.items():
            for frame in self._sites[key]["cond_indep_stack"]:
                if frame.name == PARTICLE_PLATE:
                    particles = frame.size
            for axis in self.data & set(places):
                there, full = self._sizes(key, axis)
                size[axis] = max(size.get(axis, 1), full)
                drawn[axis] = max(drawn.get(axis, 1), there)
        groups = {frozenset(self.data & set(places)) for places in self.of.values()}
        groups = {own for own in groups if not any(own < other for other in groups)}
        num_data, batch_size = (
            float(sum(math.prod(of[axis] for axis in own) for own in groups))
            for of in (size, drawn)
        )
        return num_data, batch_size, particles

    # ------------------------------------------------------------------ inside

    def _told(self, told: Collection[str]) -> set[Axis]:
        known = {axis for places in self.of.values() for axis in places}
        missing = set(told) - known
        if missing:
            raise ValueError(
                f"data_plates names {sorted(missing)}, but the programs have the plates "
                f"{sorted(str(a) for a in known)}. Give the names of plates that index data."
            )
        return set(told)

    def _found(self) -> set[Axis]:
        observed = [set(places) for places in self._observed.values()]
        seen = {name for _, name in self._observed}
        latent = [
            set(places)
            for key, places in self.of.items()
            if key[1] not in seen and not self.no_term(*key)
        ]
        every = set[Axis]().union(*observed)
        data = every & set[Axis]().union(*latent)
        if not data:  # no latent says which
            data, latent = every, [{axis} for axis in every]
        elif data != every:
            along = self._along(every)
            if len(along) == 1 and data.isdisjoint(along):  # columns with latents, data without
                self._guessed(data, f"but the programs' arguments run along {along[0]!r}", along[0])
                data = set(along)
        while crossed := [pair for pair in _crossed(data, latent) if _meet(pair, observed)]:
            chosen = self._choose(sorted(set().union(*crossed), key=self._outermost))
            data -= {axis for pair in crossed if chosen in pair for axis in pair} - {chosen}
        shared = [axes for axes in observed if axes]
        return (data & set[Axis].intersection(*shared) if shared else set()) or data

    def _choose(self, candidates: list[Axis]) -> Axis:
        """The one of crossed axes, outermost first, that is the data's."""
        along = self._along(candidates)
        if len(along) > 1:
            along = [axis for axis in along if self._leads(axis)] or along
        choice = (along or candidates)[0]
        if len(along) != 1:
            self._guessed(candidates, "and the programs' arguments do not tell which", choice)
        return choice

    def _guessed(self, plates: Collection[Axis], why: str, choice: Axis) -> None:
        names = " or ".join(repr(axis) for axis in plates)
        self.guess = (
            f"By the latents the data are indexed by {names}, {why}: {choice!r} was taken. Say "
            f"which is meant, with data_plates=[{choice!r}] of CorExELBO and tc_bound."
        )

    def _along(self, axes: Collection[Axis]) -> list[Axis]:
        """Those of the axes that have the size of the arguments' first."""
        rows = _rows(self._first)
        return [
            axis
            for axis in axes
            if any(rows in self._sizes(k, axis) for k, own in self._observed.items() if axis in own)
        ]

    def _leads(self, axis: Axis) -> bool:
        """Whether an observed value is the first argument, and this axis is its first."""
        self.by_place = True
        for key, places in self._observed.items():
            value, first = self._sites[key]["value"], self._first
            if first is None or axis not in places or value.dim() != first.dim():
                continue
            dim = places[axis] - len(getattr(self._sites[key]["fn"], "event_shape", ()))
            if value.untyped_storage().data_ptr() == first.untyped_storage().data_ptr():
                if value.stride(dim) == first.stride(0):
                    return True
            elif dim == -value.dim() and value.shape == first.shape:
                return True
        return False

    def _outermost(self, axis: Axis) -> int:
        return min(places[axis] for places in self.of.values() if axis in places)

    def _sizes(self, key: tuple[str, str], axis: Axis) -> tuple[int, int]:
        """The size of a site's axis in the batch, and last that of all that it stands for."""
        site = self._sites[key]
        frame = next((f for f in site["cond_indep_stack"] if f.name == axis), None)
        if frame is not None and frame.full_size not in (None, -1):
            return frame.size, frame.full_size
        size = sites.batch_shape(site)[self.of[key][axis]]
        return size, size

    @cached_property
    def _first(self) -> Tensor | None:
        return self._arguments()


class Known:
    """The axes of the last few kinds of traces of two programs."""

    def __init__(self) -> None:
        self._found: dict[Any, Axes] = {}

    def axes(
        self,
        model: Mapping[str, Site],
        guide: Mapping[str, Site],
        *,
        max_plate_nesting: float,
        told: Collection[str] | None,
        first: Callable[[], Tensor | None],
    ) -> Axes:
        """As :class:`Axes`, found anew where a site, a plate or a shape is another."""
        given = first()
        key = signature(model), signature(guide), max_plate_nesting, told, _rows(given)
        found = self._found.get(key)
        if found is None:
            found = Axes(
                model, guide, max_plate_nesting=max_plate_nesting, told=told, first=lambda: given
            )
            if not found.by_place:
                while len(self._found) >= _KINDS:
                    del self._found[next(iter(self._found))]
                self._found[key] = found
        return found


_KINDS = 8  # of batches: those of training and evaluation, the last ones of an epoch, and some more


def signature(nodes: Mapping[str, Site]) -> tuple[Any, ...]:
    """All of a program's sites that :class:`Axes` are made of, but for where tensors lie."""
    return tuple(
        (
            name,
            type(fn := site["fn"]),
            getattr(fn, "batch_shape", None),
            getattr(fn, "event_shape", None),
            getattr(site["value"], "shape", None),
            site["is_observed"],
            is_deterministic(site),
            # a frame is equal to one of another full size
            *((f.name, f.dim, int(f.size), f.full_size) for f in site["cond_indep_stack"]),
        )
        for name, site in nodes.items()
    )


def _rows(first: Tensor | None) -> int | None:
    return first.shape[0] if first is not None and first.dim() else None


def is_deterministic(site: Site) -> bool:
    """Whether the site is no random variable: a ``pyro.deterministic`` statement, or what
    ``poutine.reparam`` leaves in the place of a site that it has taken apart.
    """
    fn = site["fn"]
    masked = isinstance(fn, dist.MaskedDistribution) and fn._mask is False
    observed = bool(site["is_observed"])
    return bool(site["infer"].get("_deterministic")) or (observed and masked and sites.is_delta(fn))


def is_factor(site: Site) -> bool:
    """Whether the site is a ``pyro.factor`` statement."""
    return bool(site["is_observed"]) and isinstance(site["fn"], dist.Unit)


def _places(site: Site, max_plate_nesting: float) -> dict[Axis, int]:
    """The batch axes of a site that are neither enumeration's nor the particles'."""
    axes: dict[Axis, int] = {}
    particle_dim = None
    for frame in site["cond_indep_stack"]:
        if frame.name == PARTICLE_PLATE:
            particle_dim = frame.dim
        elif frame.vectorized:
            axes[frame.name] = frame.dim
    shape = getattr(site["fn"], "batch_shape", None) or sites.batch_shape(site)
    if len(shape) <= len(axes) + (particle_dim is not None):
        return axes
    for dim in range(-int(min(len(shape), max_plate_nesting)), 0):
        if shape[dim] > 1 and dim not in axes.values() and dim != particle_dim:
            axes[dim] = dim
    return axes


def _crossed(axes: Collection[Axis], latent: list[set[Axis]]) -> list[tuple[Axis, Axis]]:
    """The pairs of axes of which each has a latent that is not in the other."""
    alone = {(a, b) for own in latent for a in own & set(axes) for b in set(axes) - own}
    return [(a, b) for a, b in alone if (b, a) in alone]


def _meet(pair: tuple[Axis, Axis], observed: list[set[Axis]]) -> bool:
    return any(set(pair) <= axes for axes in observed)

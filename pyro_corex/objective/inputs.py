"""Inputs: what the model's densities depend on beside the latents.

The bound on TC(x) is of a model p(x, z).  A program that is given a covariate y is one of
p(x, z|y): its bound is on TC(x) + I(x:y), which is more.  And one whose likelihood is told x
itself, such as an autoregressive decoder, keeps its bound on TC(x), but what the decoder knows from
x is not what the latents tell.

Which is the case is found from values and not from the code, since ``len(x)`` or ``x.new_zeros(3)``
are innocent: the model is run again with the draws of the latents and the random numbers held, and
with the rows of one argument moved on by one.  Densities at the same values that are others then
depend on the argument of each datum.  (What all data share, such as ``x.mean(0)`` or a scale, is as
good as a parameter.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.axes import is_deterministic, is_factor, tensors
from pyro_corex.objective.closed_form import Program, Runs, guide_parents, unseen
from pyro_corex.objective.sites import Site
from pyro_corex.objective.term import Term, layout

_CONDITIONAL = (
    "The model is conditional on {of}: its densities depend on more of that than is observed. The "
    "terms would bound TC(x) + I(x : {of}), which is more than TC(x). Make it an observed site, "
    "pyro.sample(..., obs=...), for a bound on the total correlation of all that is observed; or "
    "evaluate the data of each of its values on their own, for bounds on TC(x) given that value."
)
_OWN = (
    "The decoder sees {of} itself, so the terms bound TC(x), but not what the latents explain: "
    "what it knows from x is not told by z. tc_bound stays right; for the rest use a decoder that "
    "is given the latents alone."
)
_COMPUTED = (
    "What the model observes is computed from the latents, so it is no datum and has no entropy of "
    "its own. Observe the data themselves, and let the distribution depend on the latents."
)


class Sight(NamedTuple):
    """What the model's densities depend on beside the latents: reasons, empty where it doesn't."""

    conditional: str = ""
    """Why there is no bound on TC(x)."""
    own: str = ""
    """Why the bound on TC(x) is not on what the latents explain."""

    @staticmethod
    def join(parts: Iterable[Sight]) -> Sight:
        """What any of several batches has shown."""
        every = list(parts)
        return Sight(*(next(filter(None, reasons), "") for reasons in zip(*every, strict=True)))


class Programs:
    """A pair of programs and what they were called with, for questions that are asked later."""

    def __init__(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        self.model, self.guide = model, guide
        self.args, self.kwargs = args, kwargs

    def detach(self) -> Programs:
        """Lets go of a graph that the arguments may have."""
        self.args, self.kwargs = _map(lambda x: x.detach(), (self.args, self.kwargs))
        return self

    @property
    def first(self) -> Tensor | None:
        """The first tensor among the arguments."""
        return next(tensors((self.args, self.kwargs)), None)

    def parents(self) -> dict[str, frozenset[str]] | None:
        """Guide site -> the sites that it is drawn from; ``None`` if that cannot be followed."""
        return guide_parents(self.guide, self.args, self.kwargs)

    def sight(self, terms: Sequence[Term], rows: Collection[int], reference: Any = ()) -> Sight:
        """What the model's densities depend on beside the latents.

        Programs of which nothing can be said, such as ones with random numbers from elsewhere, get
        the benefit of the doubt.

        :param terms: of these traces, for the places of the data.
        :param rows: sizes of the data axis that an argument may have.
        :param reference: rows of other data, one for each tensor of the arguments, to put in place
            of what is the same for all data of the batch.
        """
        try:
            with unseen():
                return _Look(self, terms, rows).sight(reference)
        except Exception:  # a program need not run twice: nothing is known of it
            return Sight()


class _Look:
    """Runs of the model with the latents held, next to one that is the rule."""

    def __init__(self, programs: Programs, terms: Sequence[Term], rows: Collection[int]) -> None:
        self._programs, self._rows = programs, rows
        self._args = (programs.args, programs.kwargs)
        self._runs = Runs(programs.model, programs.guide, programs.args, programs.kwargs)
        self._drawn = self._runs.guide()
        self._terms = {term.site: term for term in terms if term.kind == "reconstruction"}
        self._base = _sites(self._runs.model(self._drawn))
        self._density = self._densities(self._base)
        self._observed = self._values(self._base)

    def sight(self, reference: Sequence[Tensor]) -> Sight:
        again = _sites(self._runs.model(self._drawn))
        if self._differ(again) or self._moved(again).any():
            return Sight()  # it differs without a reason
        computed = self._moved(_sites(self._runs.model(self._redrawn()))).any()
        if computed:
            return Sight(_COMPUTED)
        own = ""
        if self._differ(_sites(self._runs.model(self._drawn, _Move(self._terms)))):
            own = _OWN.format(of=" and ".join(map(repr, self._terms)))
        for place, (label, leaf) in enumerate(self._leaves()):
            other = reference[place] if place < len(reference) else None
            try:
                found = self._of(_Argument(leaf, self._rows, other))
            except Exception:  # a program need not take its data in another order
                continue
            if found == "conditional":
                return Sight(_CONDITIONAL.format(of=label))
            own = own or (_OWN.format(of=label) if found == "own" else "")
        return Sight("", own)

    def _of(self, argument: _Argument) -> str:
        """How the densities depend on an argument: not at all, on what is observed, or on more."""
        if not argument.size or not self._differ(self._run(argument, argument.all)):
            return ""
        rest = argument.all & ~argument.equal_to(self._observed)
        if rest.any():
            found = self._run(argument, rest)
            if not self._differ(found):
                return "own"
            if not self._moved(found).any():
                return "conditional"
            return self._of_transformed(argument, rest)
        return "own"

    def _of_transformed(self, argument: _Argument, rest: Tensor) -> str:
        """The same where what is observed is computed from the argument, column by column.

        A column is observed if one column of what is observed, and no more, depends on it alone.
        """
        source = self._sources(argument, rest)
        columns, count = source[source >= 0].unique(return_counts=True)
        single = torch.zeros_like(rest)
        single[columns[count == 1]] = True
        if self._differ(self._run(argument, rest & ~single)):
            return "conditional"
        # what the transformation does away with, such as the grey of values that are made binary
        keep = argument.moved(rest)
        changed = self._moved(self._run(argument, rest))
        of = [(k, j) for k, j in enumerate(source.tolist()) if j >= 0 and single[j]]
        if changed.shape[0] != keep.shape[0] or not of:
            return "own"
        for k, j in of:
            keep[changed[:, k], j] = argument.columns[changed[:, k], j]
        found = self._run(argument, keep)
        hidden = self._differ(found) and not self._moved(found).any()
        return "conditional" if hidden else "own"

    def _sources(self, argument: _Argument, rest: Tensor) -> Tensor:
        """For each column that is observed the one of the argument that it is computed from.

        Or -1 where there is none, or are several: each column has a number, and for each binary
        digit those with a 0 and those with a 1 are moved.
        """
        number = torch.cumsum(rest, 0)
        width = sum(values.shape[1] for values in self._observed.values())
        code = torch.zeros(width, dtype=torch.long, device=number.device)
        several = torch.zeros(width, dtype=torch.bool, device=number.device)
        some = several.clone()
        for digit in range(int(number.max()).bit_length()):
            bit = (number >> digit) & 1 == 1
            zero, one = (
                self._moved(self._run(argument, rest & which)).any(0) for which in (~bit, bit)
            )
            several, some = several | (zero & one), some | zero | one
            code = code + (one.long() << digit)
        place = torch.searchsorted(number, code)
        return torch.where(some & ~several & (code > 0), place, -torch.ones_like(place))

    # ------------------------------------------------------------------ runs and what they give

    def _run(self, argument: _Argument, moved: Tensor) -> dict[str, Site]:
        """The model's sites where columns of an argument are moved, or has other values."""
        new = argument.with_columns(argument.moved(moved) if moved.dim() == 1 else moved)
        args, kwargs = _map(lambda x: new if x is argument.leaf else x, self._args)
        programs = self._programs
        return _sites(Runs(programs.model, programs.guide, args, kwargs).model(self._drawn))

    def _redrawn(self) -> Any:
        """The guide's trace with other draws."""
        trace = self._drawn.copy()
        torch.manual_seed(1)  # of every device; the caller has forked them
        for name, site in _sites(trace).items():
            if not site["is_observed"]:
                trace.nodes[name] = {**site, "value": site["fn"](*site["args"], **site["kwargs"])}
        return trace

    def _densities(self, found: dict[str, Site]) -> dict[str, Tensor]:
        """The log densities of sites, each at the value that it had to begin with."""
        return {
            name: sites.log_prob_at(name, {**site, "value": self._base[name]["value"]})[0]
            for name, site in found.items()
        }

    def _differ(self, found: dict[str, Site]) -> bool:
        new = self._densities(found)
        return any(not _same(old, new[name]) for name, old in self._density.items())

    def _values(self, found: dict[str, Site]) -> dict[str, Tensor]:
        """What is observed, as ``(N, d)`` for each site."""
        return {
            name: layout(_expanded(found[name], term), term.event_dims, term)
            for name, term in self._terms.items()
        }

    def _moved(self, found: dict[str, Site]) -> Tensor:
        """Which elements of what is observed are others: shape ``(N, d)``, of all sites."""
        new = self._values(found)
        return torch.cat([_other(old, new[name]) for name, old in self._observed.items()], 1)

    def _leaves(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the arguments, each with the name of its argument."""
        args, kwargs = self._args
        try:
            names = list(inspect.signature(self._programs.model).parameters)
        except (TypeError, ValueError):
            names = []
        labels = [*names[: len(args)], *(f"argument {i + 1}" for i in range(len(names), len(args)))]
        for label, value in (*zip(labels, args, strict=True), *kwargs.items()):
            for leaf in tensors(value):
                yield repr(label), leaf


class _Argument:
    """A tensor among the arguments, as rows of data and columns."""

    def __init__(self, leaf: Tensor, rows: Collection[int], reference: Tensor | None) -> None:
        self.leaf = leaf
        dims = [dim for dim, size in enumerate(leaf.shape) if size in rows and size > 1]
        self._dim = dims[0] if dims else 0
        self.size = leaf.shape[dims[0]] if dims else 0
        self.columns = leaf.movedim(self._dim, 0).flatten(1) if leaf.dim() > 1 else leaf[:, None]
        self._reference = reference

    @cached_property
    def all(self) -> Tensor:
        """Every column."""
        return torch.ones(self.columns.shape[1], dtype=torch.bool, device=self.leaf.device)

    def moved(self, which: Tensor) -> Tensor:
        """The columns, of which some have their rows moved on by one."""
        rolled = self.columns.roll(1, 0)
        if self._reference is not None:
            same = (self.columns == self.columns[:1]).all(0)
            rolled = torch.where(same, self._reference.flatten().to(rolled), rolled)
        return torch.where(which, rolled, self.columns)

    def with_columns(self, columns: Tensor) -> Tensor:
        """The argument with other columns."""
        moved = self.leaf.movedim(self._dim, 0)
        return columns.reshape(moved.shape).movedim(0, self._dim)

    def equal_to(self, observed: Mapping[str, Tensor]) -> Tensor:
        """Which columns are the same as one that is observed."""
        known = {
            _bytes(column)
            for values in observed.values()
            if len(values) == self.size
            for column in values.T
        }
        found = [
            bool((column != column[0]).any()) and _bytes(column) in known
            for column in self.columns.T
        ]
        return torch.tensor(found, dtype=torch.bool, device=self.leaf.device)


class _Move(Messenger):
    """What the program gets back from an observed site is that of the datum before."""

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.terms = terms

    def _pyro_post_sample(self, msg: Site) -> None:
        term = self.terms.get(msg["name"])
        if term is not None and term.data_dims:
            events = len(getattr(msg["fn"], "event_shape", ()))
            dim = term.data_dims[0] - events
            if -dim <= msg["value"].dim():
                msg["value"] = msg["value"].roll(1, dim)


def _sites(trace: Any) -> dict[str, Site]:
    """The sites of a trace that have a density."""
    return {
        name: site
        for name, site in sites.samples(trace).items()
        if not (site_is_subsample(site) or is_deterministic(site) or is_factor(site))
    }


def _expanded(site: Site, term: Term) -> Tensor:
    value = site["value"]
    return value.expand(torch.broadcast_shapes(value.shape, term.value.shape))


def _other(a: Tensor, b: Tensor) -> Tensor:
    return (a != b) & ~((a != a) & (b != b))  # NaN is NaN


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether log densities are the same, but for the order in which something was summed."""
    if a.shape != b.shape:
        return False
    return bool(torch.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True).all())


def _bytes(column: Tensor) -> bytes:
    return (column.double() + 0.0).cpu().numpy().tobytes()  # no minus zero


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``function`` of each tensor in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: _map(function, each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        found = [_map(function, each) for each in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    return value

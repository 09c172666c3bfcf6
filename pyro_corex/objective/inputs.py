"""Inputs: what the model's densities depend on beside the latents.

The bound on TC(x) is of a model p(x, z).  A program that is given a covariate y is one of
p(x, z|y): its bound is on TC(x) + I(x:y), which is more.  Where y is discrete, I(x:y) is at most
H(y), and with that taken off it is one on TC(x) again.  And one whose likelihood is told x
itself, such as an autoregressive decoder, keeps its bound on TC(x), but what the decoder knows from
x is not what the latents tell.

Which is the case is found from values and not from the code, since ``len(x)`` or ``x.new_zeros(3)``
are innocent: the model is run again with the draws of the latents and the random numbers held, and
with the rows of one argument moved on by one.  Densities at the same values that are others then
depend on the argument of each datum.  (What all data share, such as ``x.mean(0)`` or a scale, is as
good as a parameter.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.arguments import Argument, Note, Programs, Swap, tensors
from pyro_corex.objective.axes import is_deterministic, is_factor
from pyro_corex.objective.closed_form import Runs, unseen
from pyro_corex.objective.sight import Sight, Told, conditional
from pyro_corex.objective.sites import Site
from pyro_corex.objective.term import Term, layout

Sites = dict[str, Site]

_OWN = (
    "The decoder sees {of} itself, so the terms bound TC(x), but not what the latents explain: "
    "what it knows from x is not told by z. tc_bound stays right; for the rest use a decoder that "
    "is given the latents alone."
)
_NO_ORDER = (
    "The model sees {of} itself, and not in an order in which each dimension is told those before "
    "it alone (and each latent the sites before it). Its densities are then of no joint "
    "distribution, and the terms bound nothing. Use a decoder and a prior that are given the "
    "latents, or earlier dimensions."
)
_COMPUTED = (
    "What the model observes is computed from the latents, so it is no datum and has no entropy of "
    "its own. Observe the data themselves, and let the distribution depend on the latents."
)
_HELD = "a tensor of shape {} that the program holds"
_FEW = 64  # columns at most of which every single one is moved


def sight(
    programs: Programs,
    terms: Sequence[Term],
    rows: Collection[int],
    reference: Sequence[Tensor] = (),
) -> Sight:
    """What the model's densities depend on beside the latents.

    Programs of which nothing can be said, such as ones that are not the same when they are run
    again, get the benefit of the doubt.

    :param terms: of these traces, for the places of the data.
    :param rows: the numbers of rows that an argument may have which holds something of each
        datum.
    :param reference: rows of other data, one for each tensor of the arguments, to put in place
        of what is the same for all data of the batch.
    """
    try:
        with unseen():
            return _Look(programs, terms).sight(rows, reference)
    except Exception:  # a program need not run twice: nothing is known of it
        return Sight()


class _Look:
    """Runs of the model with the latents held and with something moved, next to one without."""

    def __init__(self, programs: Programs, terms: Sequence[Term]) -> None:
        self._programs, self._args = programs, (programs.args, programs.kwargs)
        self._drawn = Runs(programs.model, programs.guide, *self._args).guide()
        self._terms = {term.site: term for term in terms if term.kind == "reconstruction"}
        drawn = [site.get("value") for site in self._drawn.nodes.values()]
        note = Note(ignore=tensors((self._args, drawn)))
        with note:
            self._base = self._run()
        self._held = note.found
        """What the program works with, and is not given: tensors of a module, a closure."""
        self._density = self._densities(self._base)
        self._observed = self._values(self._base)
        self._site = [name for name in self._terms for _ in self._observed[name].T]
        self._links: list[tuple[Argument, Tensor]] = []
        """Arguments, and for each of their columns the one that is observed, or -1."""

    def sight(self, rows: Collection[int], reference: Sequence[Tensor]) -> Sight:
        """What is found, argument by argument."""
        of, again, told = "", self._run(), list[Told]()
        if self._differ(again) or self._moved(again).any():
            return Sight()  # without a reason
        if self._moved(self._run(drawn=self._redrawn())).any():
            return Sight(_COMPUTED)
        if self._differ(self._with(self._every())):
            of = " and ".join(map(repr, self._terms))
        given = [*self._programs.leaves()]
        held = [(_HELD.format(tuple(leaf.shape)), leaf) for leaf in self._held]
        for place, (name, leaf) in enumerate([*given, *held]):
            argument = Argument(leaf, rows, reference[place] if place < len(reference) else None)
            try:
                seen = argument.by_datum and self._differ(self._replaced(argument, argument.all))
                seen = seen and (place < len(given) or self._is_by_datum(argument, rows))
                more = self._more_than_observed(argument) if seen else None
                if more is not None and place >= len(given):
                    return Sight(conditional(name))
                if more is not None:
                    told.append(Told(name, place, more))
                    seen = self._differ(self._replaced(argument, self._links[-1][1] >= 0))
            except Exception:  # a program need not take its data in another order
                continue
            of = of or (name if seen else "")
        if of and not self._has_order():
            return Sight(_NO_ORDER.format(of=of))
        return Sight("", of and _OWN.format(of=of), tuple(told))

    # ------------------------------------------------------------------ what of an argument

    def _is_by_datum(self, argument: Argument, rows: Collection[int]) -> bool:
        """Whether the densities of no datum depend on both halves of a tensor's rows.

        As those of all data do, where the rows are of a weight.
        """
        count = len(argument.columns)
        half = (torch.arange(count)[:, None] < count // 2).to(self._every())
        changed = []
        for kept in (half, ~half):
            new = self._densities(self._replaced(argument, argument.all, kept))
            where = {name: ~_close(old, new[name]) for name, old in self._density.items()}
            changed.append({n: Argument(w, rows, None).columns.any(1) for n, w in where.items()})
        return not any(bool((one & changed[1][name]).any()) for name, one in changed[0].items())

    def _more_than_observed(self, argument: Argument) -> Tensor | None:
        """The columns of an argument that the densities depend on beside what is observed."""
        link = argument.among(self._observed)
        rest, more = link < 0, None
        found = self._replaced(argument, rest)
        if self._differ(found):
            if not self._moved(found).any():
                more = self._needed(argument, rest)
            else:
                more = self._made_of(argument, rest, link)
        self._links.append((argument, link))
        return more

    def _needed(self, argument: Argument, more: Tensor) -> Tensor:
        """Of few columns those without which the densities do not stay the same."""
        idle = torch.zeros_like(more)
        for column in more.nonzero()[:, 0].tolist() if int(more.sum()) <= _FEW else ():
            one = torch.zeros_like(more)
            one[column] = True
            idle[column] = not self._differ(self._replaced(argument, one))
        return more if self._differ(self._replaced(argument, idle)) else more & ~idle

    def _made_of(self, argument: Argument, rest: Tensor, link: Tensor) -> Tensor | None:
        """The same, where what is observed is computed from some of them; adds these to a link."""
        source = self._sources(argument, rest)
        _, back, count = source.unique(return_inverse=True, return_counts=True)
        # a column is observed if one column of what is observed, and no more, is made of it
        single = (source >= 0) & (count[back] == 1)
        link[source[single]] = single.nonzero()[:, 0]
        if self._differ(self._replaced(argument, link < 0)):
            return link < 0
        if self._hidden(argument, rest, link):
            return argument.all
        return None

    def _hidden(self, argument: Argument, rest: Tensor, link: Tensor) -> bool:
        """Whether they depend on what is lost where data are made of columns: the grey of bits.

        Then they differ though each element is moved only where what is made of it stays the same.
        """
        changed = self._moved(self._replaced(argument, rest))
        if len(changed) != len(argument.columns):
            return False
        kept = ~rest | ((link >= 0) & changed[:, link.clamp_min(0)])
        found = self._replaced(argument, rest, kept)
        return self._differ(found) and not bool(self._moved(found).any())

    def _sources(self, argument: Argument, rest: Tensor) -> Tensor:
        """For each column that is observed the one of the argument that it is computed from.

        Or -1 where there is none, or are several: each column has a number, and for each binary
        digit those with a 0 and those with a 1 are moved.
        """
        number = torch.cumsum(rest, 0)
        every = self._every()
        code, several, some = every.long() * 0, ~every, ~every
        for digit in range(int(number.max()).bit_length()):
            bit = (number >> digit) & 1 == 1
            zero, one = (
                self._moved(self._replaced(argument, rest & which)).any(0) for which in (~bit, bit)
            )
            several, some = several | (zero & one), some | zero | one
            code = code + (one.long() << digit)
        place = torch.searchsorted(number, code)
        return torch.where(some & ~several & (code > 0), place, -torch.ones_like(place))

    # ------------------------------------------------------------------ in which order

    def _has_order(self) -> bool:
        """Whether the model is one of a joint distribution: each density is told what precedes it.

        In the order of the columns of each site, or in the reverse one; of few, in any.
        """
        before: dict[int | str, set[int | str]] = {}
        every = self._every()
        for name in self._terms:
            columns, latents = self._told(torch.tensor([s == name for s in self._site]).to(every))
            others = {self._site[k] for k in columns.nonzero()[:, 0].tolist()} - {name}
            self._add(before, name, name, (*others, *latents))
        order = _order(before)
        if not order:
            return False
        rank = [order.index(name) for name in self._site]
        within = range(len(rank))
        if any(
            self._follows(sorted(within, key=lambda k: (rank[k], sign * k)), order)
            for sign in (1, -1)
        ):
            return True
        before = {}
        for column in within if len(rank) <= _FEW else ():
            columns, latents = self._told(every & (torch.arange(len(rank)) == column).to(every))
            told = (*columns.nonzero()[:, 0].tolist(), *latents)
            self._add(before, column, self._site[column], told)
        return bool(_order(before))

    def _add(
        self,
        before: dict[int | str, set[int | str]],
        node: int | str,
        name: str,
        told: Iterable[int | str],
    ) -> None:
        """Adds what a node of a site tells, and that it is told by the latents before the site."""
        for each in told:
            before.setdefault(each, set()).add(node)
        program = list(self._base)
        latents = program[: program.index(name)]
        before.setdefault(node, set()).update(each for each in latents if each not in self._terms)

    def _follows(self, columns: list[int], order: list[int | str]) -> bool:
        """Whether moving the last columns of an order changes no density of an earlier one.

        Of many columns at so many places.
        """
        width = len(columns)
        for start in sorted({width * i // _FEW for i in range(_FEW)}):
            moved = ~self._every()
            moved[columns[start:]] = True
            found, latents = self._told(moved)
            first = order.index(self._site[columns[start]])
            if bool(found[columns[: start + 1]].any()) or any(
                order.index(name) < first for name in latents
            ):
                return False
        return True

    def _told(self, moved: Tensor) -> tuple[Tensor, list[str]]:
        """The columns that are observed, and the latents, whose densities differ."""
        new = self._densities(self._with(moved))
        columns = [
            ~_close(self._rows(name, self._density[name]), self._rows(name, new[name])).all(0)
            for name in self._terms
        ]
        latents = [
            name
            for name, old in self._density.items()
            if name not in self._terms and not bool(_close(old, new[name]).all())
        ]
        return torch.cat(columns), latents

    # ------------------------------------------------------------------ runs and what they give

    def _run(
        self, new: Mapping[int, Tensor] | None = None, handler: Any = None, drawn: Any = None
    ) -> Sites:
        """The model's sites that have a density, with others in place of some tensors."""
        swap = Swap(new or {})
        runs = Runs(self._programs.model, self._programs.guide, *swap.within(self._args))
        with swap if new else nullcontext():
            return _sites(runs.model(drawn or self._drawn, handler))

    def _replaced(self, argument: Argument, moved: Tensor, kept: Tensor | None = None) -> Sites:
        """The same where columns of an argument are moved, but for the elements that are kept."""
        columns = argument.moved(moved)
        columns = columns if kept is None else torch.where(kept, argument.columns, columns)
        return self._run({id(argument.leaf): argument.with_columns(columns)})

    def _with(self, moved: Tensor) -> Sites:
        """The same where columns of what is observed are moved, wherever the model has it from."""
        new = {
            id(argument.leaf): argument.with_columns(
                argument.moved((link >= 0) & moved[link.clamp_min(0)])
            )
            for argument, link in self._links
        }
        split = moved.split([len(values.T) for values in self._observed.values()])
        return self._run(new, _Move(self._terms, dict(zip(self._terms, split, strict=True))))

    def _redrawn(self) -> Any:
        """The guide's trace with other draws."""
        trace = self._drawn.copy()
        torch.manual_seed(1)  # of every device; the caller has forked them
        for name, site in _sites(trace).items():
            if not site["is_observed"]:
                trace.nodes[name] = {**site, "value": site["fn"](*site["args"], **site["kwargs"])}
        return trace

    def _densities(self, found: Sites) -> dict[str, Tensor]:
        """The log densities of sites, each at the value that it had to begin with."""
        return {
            name: sites.log_prob_at(name, {**site, "value": self._base[name]["value"]})[0]
            for name, site in found.items()
        }

    def _differ(self, found: Sites) -> bool:
        new = self._densities(found)
        return not all(bool(_close(old, new[name]).all()) for name, old in self._density.items())

    def _rows(self, name: str, value: Tensor) -> Tensor:
        """Something of an observed site as ``(N, d)``."""
        term = self._terms[name]
        value = value.expand(torch.broadcast_shapes(value.shape, term.value.shape))
        return layout(value, term.event_dims, term)

    def _values(self, found: Sites) -> dict[str, Tensor]:
        return {name: self._rows(name, found[name]["value"]) for name in self._terms}

    def _moved(self, found: Sites) -> Tensor:
        """Which elements of what is observed are others: shape ``(N, d)``, of all sites."""
        new = self._values(found)
        return torch.cat([_other(old, new[name]) for name, old in self._observed.items()], 1)

    def _every(self) -> Tensor:
        """A mask of all columns that are observed."""
        device = next(iter(self._observed.values())).device
        return torch.ones(len(self._site), dtype=torch.bool, device=device)


class _Move(Messenger):
    """What the program gets back from an observed site has columns of the datum before."""

    def __init__(self, terms: Mapping[str, Term], moved: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.terms, self.moved = terms, moved

    def _pyro_post_sample(self, msg: Site) -> None:
        term = self.terms.get(msg["name"])
        if term is None or not term.data_dims:
            return
        value, dim = msg["value"], term.data_dims[0] - len(getattr(msg["fn"], "event_shape", ()))
        if -dim <= value.dim():
            found = Argument(value, {value.shape[dim]}, None)
            if found.columns.shape[1] == len(self.moved[msg["name"]]):
                msg["value"] = found.with_columns(found.moved(self.moved[msg["name"]]))


def _sites(trace: Any) -> Sites:
    """The sites of a trace that have a density."""
    return {
        name: site
        for name, site in sites.samples(trace).items()
        if not (site_is_subsample(site) or is_deterministic(site) or is_factor(site))
    }


def _other(a: Tensor, b: Tensor) -> Tensor:
    return (a != b) & ~((a != a) & (b != b))  # NaN is NaN


def _close(a: Tensor, b: Tensor) -> Tensor:
    """Where log densities are the same, but for the order in which something was summed."""
    a, b = torch.broadcast_tensors(a, b)
    return torch.isclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)


def _order(before: Mapping[int | str, set[int | str]]) -> list[int | str]:
    """The nodes of a graph in an order that it allows; none, where it allows none."""
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError:
        return []

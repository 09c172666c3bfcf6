"""Traces: running a model and a guide, with particles, replay, enumeration and checks."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from pyro.util import check_model_guide_match, check_site_shape, check_traceenum_requirements

from pyro_corex.objective import sites
from pyro_corex.objective.auxiliary import Auxiliaries
from pyro_corex.objective.axes import Known
from pyro_corex.objective.closed_form import ClosedForms
from pyro_corex.objective.sites import Recorder, Site

Program = Callable[..., Any]


class Enumerate(EnumMessenger):
    """``EnumMessenger`` that gives up at a sequentially enumerated site.

    It also leaves out the guards against warnings of ``torch.jit.trace``, which cost time.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if sites.enumerated(msg) and msg["infer"]["enumerate"] == "sequential":
            raise SequentialSiteError
        EnumMessenger._pyro_sample.__wrapped__(self, msg)


class SequentialSiteError(Exception):
    """The guide has a site that is enumerated one value at a time."""


class Pair:
    """A model and a guide, and what has been found out about them."""

    def __init__(self, model: Program, guide: Program) -> None:
        self.model, self.guide = model, guide
        self.closed_forms = ClosedForms(model, guide)
        self.auxiliaries = Auxiliaries(guide)
        self.axes = Known()
        self.sequential = False
        """Whether sites are enumerated one value at a time."""
        self._told = False

    def tell(self, guess: str) -> None:
        """Warns of what was chosen for these programs without a sure reason, once."""
        if not self._told:
            self._told = True
            warnings.warn(guess, stacklevel=2)


class Runner(TraceEnum_ELBO):
    """The part of an objective that runs the programs.

    The draws are those of the Pyro objective in whose place it stands.
    """

    max_plate_nesting: float
    _warn_unenumerated: bool = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pair: Pair | None = None
        self._pairs: list[Pair] = []  # the last few, such as those of training and evaluation

    def pair(self, model: Program, guide: Program) -> Pair:
        """What is known of these two programs."""
        known = (p for p in self._pairs if (p.model, p.guide) == (model, guide))
        self._pair = next(known, None) or Pair(model, guide)
        self._pairs = [self._pair, *(p for p in self._pairs if p is not self._pair)][:8]
        return self._pair

    def rerun_guide(self, guide: Program, args: Any, kwargs: Any) -> dict[str, Any]:
        """The guide's sites at other arguments, enumerated as in the traces.

        :raises ValueError: for a guide that runs the model.
        """
        if runs_the_model(guide):
            raise ValueError(
                "The guide is to be run on its own, which a guide that runs the model does not "
                "allow. Write the guide as a program of its own, or leave that regularizer out "
                "(for Invariance, invariance=None)."
            )
        if self.max_plate_nesting < float("inf"):
            if self.vectorize_particles:
                guide = self._vectorized_num_particles(guide)
            guide = Enumerate(first_available_dim=-1 - int(self.max_plate_nesting))(guide)
        trace = Recorder()(guide).get_trace(*args, **kwargs)
        return {n: s for n, s in sites.samples(trace).items() if not site_is_subsample(s)}

    # ------------------------------------------------------------------ what Pyro calls

    def _get_traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Yields the traces of each particle.

        Enumeration needs ``max_plate_nesting``.  Where it is not known, the programs are run as
        they are; if that run meets a site marked for enumeration, it gives the nesting and its
        traces are dropped, as :class:`~pyro.infer.TraceEnum_ELBO` does.
        """
        pair = self.pair(model, guide)
        if runs_the_model(guide):
            yield from self._validated(ELBO._get_traces(self, model, guide, args, kwargs))
            return
        if self.max_plate_nesting == float("inf") and self.vectorize_particles:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        if self.max_plate_nesting == float("inf"):
            for _ in range(self.num_particles):
                traces = self._get_trace(model, guide, args, kwargs)
                if _enumerates(*traces):  # sites that only the model has are enumerated below
                    self._prepare(*traces)
                    self.max_plate_nesting = _plate_nesting(*traces)
                    break
                self._validate(*traces)
                yield traces
            else:
                return
        if not pair.sequential:
            state = torch.get_rng_state()
            found = self._enumerated_traces(model, guide, args, kwargs)
            try:
                traces = next(found)
            except SequentialSiteError:
                pair.sequential = True
                torch.set_rng_state(state)
            else:
                yield from self._validated(itertools.chain([traces], found))
                return
        yield from self._validated(super()._get_traces(model, guide, args, kwargs))

    def _enumerated_traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[Any, Any]]:
        """As in the base class, without the queue that only sequential enumeration needs."""
        if self.vectorize_particles:
            guide = self._vectorized_num_particles(guide)
            model = self._vectorized_num_particles(model)
        guide = Enumerate(first_available_dim=-1 - int(self.max_plate_nesting))(guide)
        model = Enumerate()(model)  # goes on where the guide stopped allocating dimensions
        for _ in range(1 if self.vectorize_particles else self.num_particles):
            yield self._get_trace(model, guide, args, kwargs)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if runs_the_model(guide):
            guide(*args, **kwargs)
            return poutine.unwrap(guide).get_traces()
        guide_trace = Recorder()(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        return Recorder()(replayed).get_trace(*args, **kwargs), guide_trace

    # ------------------------------------------------------------------ checks

    def _validated(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for traces in pairs:
            self._validate(*traces)
            yield traces

    def _validate(self, model_trace: Any, guide_trace: Any) -> None:
        checked = is_validation_enabled()
        _check_sites(sites.samples(model_trace), sites.samples(guide_trace))
        if checked:
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        self._prepare(model_trace, guide_trace)
        if checked:
            check_traceenum_requirements(model_trace, guide_trace)
            self._check_enumeration(model_trace, guide_trace)

    def _prepare(self, *traces: Any) -> None:
        """Drops the choice of subsamples, and checks that batch shapes are those of the plates."""
        for trace in traces:
            for name, site in list(trace.nodes.items()):
                if site_is_subsample(site):
                    trace.remove_node(name)
            if is_validation_enabled():
                for site in sites.samples(trace).values():
                    placeholder = site["value"].new_empty(()).expand(sites.batch_shape(site))
                    check_site_shape({**site, "log_prob": placeholder}, self.max_plate_nesting)

    def _check_enumeration(self, model_trace: Any, guide_trace: Any) -> None:
        if not self._warn_unenumerated:
            return
        could_be = [
            name
            for name, site in sites.samples(guide_trace).items()
            if sites.needs_weight(site) and getattr(site["fn"], "has_enumerate_support", False)
        ]
        if not (could_be or self.strict_enumeration_warning) or _enumerates(
            model_trace, guide_trace
        ):
            return
        if could_be:
            warnings.warn(
                f"The guide sites {could_be} are discrete and not enumerated: their gradients are "
                'estimated with the score function, which is noisy. Mark them infer={"enumerate": '
                '"parallel"} to sum over them exactly, or pass strict_enumeration_warning=False.',
                stacklevel=2,
            )
        else:
            warnings.warn(
                "CorExELBO found no sample sites configured for enumeration, and "
                "strict_enumeration_warning=True asks to be told.",
                stacklevel=2,
            )


def runs_the_model(guide: Program) -> bool:
    """Whether a guide is a handler that runs the model itself, as Pyro's ``EasyGuide`` may."""
    return isinstance(poutine.unwrap(guide), Messenger)


def _check_sites(model: Mapping[str, Site], guide: Mapping[str, Site]) -> None:
    """Raises ``ValueError`` for a latent that only one of the programs has: with its density alone
    the sum of the terms is no bound.
    """
    lacking = [
        name
        for name in model.keys() - guide.keys()
        if not (model[name]["is_observed"] or site_is_subsample(model[name]))
        and not sites.is_delta(model[name]["fn"])
        and model[name]["infer"].get("enumerate") is None
    ]
    if lacking:
        raise ValueError(
            f"The guide must draw every latent of the model, but it lacks {sorted(lacking)}. Draw "
            "them in the guide, too (from the prior, if they are to follow it), give data for them,"
            ' or, if they are discrete, sum them out: infer={"enumerate": "parallel"} in the model.'
        )
    foreign = [
        name
        for name in guide.keys() - model.keys()
        if not (guide[name]["infer"].get("is_auxiliary") or guide[name]["is_observed"])
        and not site_is_subsample(guide[name])
    ]
    if foreign:
        raise ValueError(
            f"The model must have every latent that the guide draws, but it lacks {sorted(foreign)}"
            ". Give them the same names in both programs, or mark what only the guide needs "
            'infer={"is_auxiliary": True}.'
        )


def _enumerates(model_trace: Any, guide_trace: Any) -> bool:
    """Whether enumeration would do something for these traces."""
    guide_sites = sites.samples(guide_trace)
    if any(sites.enumerated(site) for site in guide_sites.values()):
        return True
    return any(
        sites.enumerated(site) and site["infer"]["enumerate"] == "parallel"
        for name, site in sites.samples(model_trace).items()
        if name not in guide_sites
    )


def _plate_nesting(*traces: Any) -> int:
    """How many batch dimensions the plates of these traces take."""
    dims = [
        frame.dim
        for trace in traces
        for site in sites.samples(trace).values()
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    ]
    return -min(dims, default=0)

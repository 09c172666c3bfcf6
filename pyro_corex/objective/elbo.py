"""CorExELBO: the CorEx bound as a Pyro objective."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.util import (
    check_model_guide_match,
    check_traceenum_requirements,
)
from torch import Tensor

from pyro_corex.objective import discrete, sites
from pyro_corex.objective.contributions import Contributions
from pyro_corex.objective.invariance import Invariance
from pyro_corex.objective.pair import Pair, Program
from pyro_corex.objective.sums import Sums
from pyro_corex.objective.terms import CorExTerms
from pyro_corex.objective.traces import (
    Enumerate,
    Recorder,
    SequentialSiteError,
    check_shapes,
    enumerates,
    plate_nesting,
)


class CorExELBO(TraceEnum_ELBO):
    r"""The variational lower bound of the CorEx objective (Gao et al. 2018, Eq. 10 and 21).

    .. math::

        \sum_i \langle \ln q_\phi(x_i|z) \rangle
        - \sum_j w_j\, D_{KL}(p_\theta(z_j|x) \,\|\, r_\alpha(z_j))

    which, with all weights :math:`w_j` at 1 and the constant :math:`\sum_i H(x_i)` added, bounds
    the total correlation TC(x) that the latents explain.  It stands wherever
    :class:`~pyro.infer.Trace_ELBO`, :class:`~pyro.infer.TraceMeanField_ELBO` or
    :class:`~pyro.infer.TraceEnum_ELBO` may stand, and chooses the estimator site by site:

    - a KL is taken in closed form where torch or Pyro registers one and no parent of the site in
      the model is its descendant in the guide; elsewhere the log-ratio is sampled.  A guide site
      with ``infer={"analytic_kl": False}`` is always sampled;
    - guide sites marked ``infer={"enumerate": "parallel"}`` or ``"sequential"`` are summed over
      exactly, in the same program in which other sites have a closed form;
    - guide sites that are neither enumerated nor reparameterised get a score-function estimator
      whose baseline is the mean cost of the *other* elements of the site's plates (of the other
      particles, if ``vectorize_particles``).

    The weights :math:`w_j` are those of :func:`~pyro_corex.anchor`, or of any
    :func:`pyro.poutine.scale` that is the same on model and guide.

    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))  # the posterior
    >>> terms = CorExELBO().terms(model, guide, torch.zeros(10, 2))
    >>> terms.kl["z"]  # (ln 2 - 1/2) / 2, nats
    tensor([0.0966, 0.0966])

    To train, ``SVI(model, guide, optim, CorExELBO())``; :attr:`last_terms` is what the last step
    was made of.

    :param num_particles: samples of the guide for one estimate.
    :param vectorize_particles: draw them in one pass, in an outermost plate.
    :param max_plate_nesting: the number of plate dimensions; found from the programs by default.
        Needed only where sites are enumerated or particles vectorised.
    :param tc_weight: the weight of a penalty on TC(z), beta - 1 in Sec. 7, from the stratified
        minibatch estimator (:func:`pyro_corex.information.pairwise_total_correlation`).  The
        guide's latents have to be reparameterised and factorised.
    :param tc_sites: the latents whose TC(z), taken together, is penalised.  By default they are
        the top layer: all those from which the guide draws no other latent (Eq. 15).
    :param tc_num_data: the size of the data set that a batch is from.  By default it is that of
        the data plate, which is right where the plate subsamples; the ready-made programs see only
        the batch, and :func:`~pyro_corex.fit` fills this in for them.
    :param mi_weight: guide site -> the weight of a reward for I(z:x), in nats: how much the bound
        is raised for each nat that this discrete latent knows of the datum.  The estimate is exact
        for the batch, H(mean q) - mean H(q).  Where the guide draws the site given another latent,
        it is I(z : that latent), which is not less.  A weight of 0 reports it only.
    :param invariance: an :class:`~pyro_corex.Invariance`, a penalty on what discrete latents tell
        about how a datum was transformed.
    :param data_plates: the names of the plates that index data.  By default they are the plates
        that observed and latent sites share.  The other plates of a site index its dimensions.
    :param strict_enumeration_warning: ``"auto"`` warns where nothing is enumerated though a
        discrete guide site could be; ``True`` wherever nothing is enumerated, as
        :class:`~pyro.infer.TraceEnum_ELBO` does; ``False`` never.
    :param retain_graph: keep the graph after ``loss_and_grads``.
    :raises ValueError: for numbers out of range; when it is evaluated, for programs that do not fit
        each other or an option, naming the site.
    :raises TypeError: for options of another type.
    """

    def __init__(
        self,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = float("inf"),
        *,
        tc_weight: float = 0.0,
        tc_sites: Collection[str] | None = None,
        tc_num_data: int | None = None,
        mi_weight: Mapping[str, float] | None = None,
        invariance: Invariance | None = None,
        data_plates: Collection[str] | None = None,
        strict_enumeration_warning: bool | Literal["auto"] = "auto",
        ignore_jit_warnings: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        if not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(f"num_particles must be an integer >= 1, but got {num_particles!r}")
        if not tc_weight >= 0:
            raise ValueError(f"tc_weight must be a number >= 0, but got {tc_weight!r}")
        if tc_num_data is not None and not tc_num_data >= 1:
            raise ValueError(f"tc_num_data must be an integer >= 1, but got {tc_num_data!r}")
        if invariance is not None and not isinstance(invariance, Invariance):
            raise TypeError(f"invariance must be an Invariance, but got {invariance!r}")
        for option, names in (("data_plates", data_plates), ("tc_sites", tc_sites)):
            if isinstance(names, str):
                raise TypeError(
                    f"{option} must be a collection of names, e.g. [{names!r}], "
                    f"but got the string {names!r}"
                )
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            strict_enumeration_warning=strict_enumeration_warning is True,
            ignore_jit_warnings=ignore_jit_warnings,
            retain_graph=retain_graph,
        )
        self.max_plate_nesting: float
        self.tc_weight = tc_weight
        self.tc_sites = None if tc_sites is None else tuple(tc_sites)
        self.tc_num_data = tc_num_data
        self.mi_weight = discrete.check_weights("mi_weight", mi_weight)
        self.invariance = invariance
        self.data_plates = None if data_plates is None else frozenset(data_plates)
        self._warn_unenumerated = bool(strict_enumeration_warning)
        self._pair: Pair | None = None
        self._pairs: list[Pair] = []  # the last few, such as those of training and evaluation
        self._last: Sums | None = None

    def __repr__(self) -> str:
        given: dict[str, tuple[Any, Any]] = {
            "num_particles": (self.num_particles, 1),
            "vectorize_particles": (self.vectorize_particles, False),
            "tc_weight": (self.tc_weight, 0.0),
            "tc_sites": (self.tc_sites and list(self.tc_sites), None),
            "tc_num_data": (self.tc_num_data, None),
            "mi_weight": (self.mi_weight, {}),
            "invariance": (self.invariance, None),
            "data_plates": (self.data_plates and sorted(self.data_plates), None),
        }
        shown = ", ".join(f"{k}={v!r}" for k, (v, default) in given.items() if v != default)
        return f"{type(self).__name__}({shown})"

    # ------------------------------------------------------------------ what Pyro calls

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the objective, in nats summed over the data, without a gradient.

        :raises ValueError: if it is NaN, naming the site and the term.
        """
        with torch.no_grad():
            sums = Sums()
            for particle in self._particles(model, guide, args, kwargs):
                sums.merge(particle)
        return self._finish(sums)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the objective as a 0-dim tensor to differentiate, in nats summed over the data.

        Nothing is read back from the device; the value is not checked.
        """
        total: Tensor | float = 0.0
        sums = Sums()
        for particle in self._particles(model, guide, args, kwargs):
            total = total + particle.elbo()
            sums.merge(particle)
        self._last = sums
        loss = -total / self.num_particles
        return loss if isinstance(loss, Tensor) else torch.tensor(loss)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Computes the loss, in nats, adds its gradients to the parameters, and returns it.

        :raises ValueError: if it is NaN, naming the site and the term, before its gradients are
            computed.  (Of several particles that are not vectorised, those before the first NaN
            have added theirs.)
        """
        at_once = self.num_particles == 1 or self.vectorize_particles
        sums = Sums()
        losses = []
        for particle in self._particles(model, guide, args, kwargs):
            sums.merge(particle)
            loss = -particle.elbo() / self.num_particles
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                continue
            if at_once or particle.shares_graph:
                losses.append(loss)
            else:  # one particle's graph at a time
                if bool(loss.isnan()):
                    raise ValueError(sums.describe_non_finite())
                loss.backward(retain_graph=self.retain_graph)
        value = self._finish(sums)
        if losses:
            torch.stack(losses).sum().backward(retain_graph=self.retain_graph)
        return value

    # ------------------------------------------------------------------ the terms

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> CorExTerms:
        """The terms of the bound at these arguments, in nats per datum.

        Runs the programs without a gradient and steps no optimiser; parameters are left alone.
        """
        self.loss(model, guide, *args, **kwargs)
        return self.last_terms

    @property
    def last_terms(self) -> CorExTerms:
        """The terms of the last call, from the tensors that were computed then.

        :raises RuntimeError: before the first call.
        """
        return self.last_sums.terms(self.num_particles)

    @property
    def last_sums(self) -> Sums:
        """What :attr:`last_terms` are made from: sums over the data and the particles."""
        if self._last is None:
            raise RuntimeError(
                "CorExELBO has no terms yet: they are kept by a training step or an evaluation. "
                "Call elbo.terms(model, guide, *args), or take a step first."
            )
        return self._last

    def _finish(self, sums: Sums) -> float:
        self._last = sums
        elbo = sums.elbo()
        loss = -float(elbo) / self.num_particles
        self._check(loss, sums)
        return loss

    def _check(self, loss: Tensor | float, sums: Sums) -> None:
        if math.isfinite(loss):
            return
        message = sums.describe_non_finite()
        if math.isnan(loss):
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)

    # ------------------------------------------------------------------ traces

    def _particles(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[Sums]:
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            pair = self._pair
            assert pair is not None
            found = Contributions(
                model_trace,
                guide_trace,
                analytic=pair.analytic(model_trace, guide_trace, args, kwargs),
                max_plate_nesting=self.max_plate_nesting,
                data_plates=self.data_plates,
            )
            if self.tc_weight:
                names = pair.penalised(found.latents(), self.tc_sites, args, kwargs)
                found.penalise(self.tc_weight, names, self.tc_num_data)
            found.inform(self.mi_weight)
            if self.invariance is not None:
                copies = [self._copy(guide, args, kwargs) for _ in range(self.invariance.copies)]
                found.compare(self.invariance.weights, copies)
            yield found.sums

    def _copy(self, guide: Program, args: Any, kwargs: Any) -> Mapping[str, Any]:
        """The guide's sites for a transformed copy of the data."""
        assert self.invariance is not None
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            raise ValueError(
                "invariance runs the guide on its own, which a guide that runs the model does not "
                "allow. Write the guide as a program of its own, or set invariance=None."
            )
        if self.max_plate_nesting < float("inf"):
            if self.vectorize_particles:
                guide = self._vectorized_num_particles(guide)
            guide = Enumerate(first_available_dim=-1 - int(self.max_plate_nesting))(guide)
        trace = Recorder()(guide).get_trace(*self.invariance.copy(args), **kwargs)
        return {name: site for name, site in trace.nodes.items() if sites.is_sample(site)}

    def _get_traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[Any, Any]]:
        """Yields the traces of each particle.

        Enumeration needs ``max_plate_nesting``.  Where it is not known, the programs are run as
        they are; if that run meets a site marked for enumeration, it gives the nesting and its
        traces are dropped, as :class:`~pyro.infer.TraceEnum_ELBO` does.  The draws are therefore
        those of the Pyro objective that this one replaces.
        """
        known = (p for p in self._pairs if (p.model, p.guide) == (model, guide))
        self._pair = next(known, None) or Pair(model, guide)
        self._pairs = [self._pair, *(p for p in self._pairs if p is not self._pair)][:8]
        if isinstance(poutine.unwrap(guide), poutine.messenger.Messenger):
            yield from self._validated(ELBO._get_traces(self, model, guide, args, kwargs))
            return
        if self.max_plate_nesting == float("inf") and self.vectorize_particles:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        if self.max_plate_nesting == float("inf"):
            for _ in range(self.num_particles):
                traces = self._get_trace(model, guide, args, kwargs)
                if enumerates(*traces):  # sites that only the model has are enumerated below
                    self._prepare(*traces)
                    self.max_plate_nesting = plate_nesting(*traces)
                    break
                self._validate(*traces)
                yield traces
            else:
                return
        if not self._pair.sequential:
            state = torch.get_rng_state()
            found = self._enumerated_traces(model, guide, args, kwargs)
            try:
                traces = next(found)
            except SequentialSiteError:
                self._pair.sequential = True
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

    def _validated(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for traces in pairs:
            self._validate(*traces)
            yield traces

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Any, Any]:
        unwrapped = poutine.unwrap(guide)
        if isinstance(unwrapped, poutine.messenger.Messenger):  # a guide that runs the model
            guide(*args, **kwargs)
            model_trace, guide_trace = unwrapped.get_traces()
        else:
            guide_trace = Recorder()(guide).get_trace(*args, **kwargs)
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = Recorder()(replayed).get_trace(*args, **kwargs)
        return model_trace, guide_trace

    def _validate(self, model_trace: Any, guide_trace: Any) -> None:
        checked = is_validation_enabled()
        if checked:
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        self._prepare(model_trace, guide_trace)
        if checked:
            check_traceenum_requirements(model_trace, guide_trace)
            self._check_enumeration(model_trace, guide_trace)

    def _prepare(self, *traces: Any) -> None:
        """Drops the choice of subsamples, and checks what is left for its shapes."""
        for trace in traces:
            for name in [n for n, s in trace.nodes.items() if sites.is_subsample(s)]:
                trace.remove_node(name)
            if is_validation_enabled():
                check_shapes(trace, self.max_plate_nesting)

    def _check_enumeration(self, model_trace: Any, guide_trace: Any) -> None:
        if not self._warn_unenumerated or enumerates(model_trace, guide_trace):
            return
        could_be = [
            name
            for name, site in guide_trace.nodes.items()
            if sites.is_sample(site)
            and sites.needs_weight(site)
            and getattr(site["fn"], "has_enumerate_support", False)
        ]
        if could_be:
            warnings.warn(
                f"The guide sites {could_be} are discrete and not enumerated: their gradients are "
                'estimated with the score function, which is noisy. Mark them infer={"enumerate": '
                '"parallel"} to sum over them exactly, or pass strict_enumeration_warning=False.',
                stacklevel=2,
            )
        elif self.strict_enumeration_warning:
            warnings.warn(
                "CorExELBO found no sample sites configured for enumeration, and "
                "strict_enumeration_warning=True asks to be told.",
                stacklevel=2,
            )

    # ------------------------------------------------------------------ Pyro's own extras

    def compute_marginals(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`pyro.infer.TraceEnum_ELBO.compute_marginals`."""
        return self._traceenum().compute_marginals(model, guide, *args, **kwargs)

    def sample_posterior(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`pyro.infer.TraceEnum_ELBO.sample_posterior`."""
        return self._traceenum().sample_posterior(model, guide, *args, **kwargs)

    def _traceenum(self) -> TraceEnum_ELBO:
        return TraceEnum_ELBO(
            num_particles=self.num_particles,
            max_plate_nesting=self.max_plate_nesting,
            strict_enumeration_warning=False,
        )

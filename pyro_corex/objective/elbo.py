"""CorExELBO: the CorEx bound as a Pyro objective."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, Literal

import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyro_corex.objective import sites
from pyro_corex.objective.arguments import Programs
from pyro_corex.objective.contributions import Contributions
from pyro_corex.objective.dependence import TotalCorrelation
from pyro_corex.objective.regularizers import Invariance, MutualInformation
from pyro_corex.objective.step import (
    Regularizer,
    Step,
    check_regularizers,
    register,
    regularize,
)
from pyro_corex.objective.terms import CorExTerms, describe_non_finite
from pyro_corex.objective.traces import Program, Runner


class CorExELBO(Runner):
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
    :param regularizers: terms of one's own, or of :mod:`pyro_corex.regularizers`: objects with a
        name, a weight and a call that gets what the step has; see
        :class:`~pyro_corex.regularizers.Regularizer`.
    :param tc_weight: shorthand for :class:`~pyro_corex.regularizers.TotalCorrelation`, a penalty
        on TC(z) with this weight, beta - 1 in Sec. 7; ``tc_sites`` says of which latents.
    :param mi_weight: shorthand for :class:`~pyro_corex.regularizers.MutualInformation`, a reward
        for I(z:x) of discrete latents: guide site -> weight.
    :param invariance: shorthand for one more regularizer, an :class:`~pyro_corex.Invariance`.
    :param data_plates: the names of the plates that index data.  By default they are the plates
        that observed and latent sites share; of two that each have latents of their own, the one
        that the arguments run along.  The other plates of a site index its dimensions.
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
        regularizers: Sequence[Regularizer] = (),
        tc_weight: float = 0.0,
        tc_sites: Collection[str] | None = None,
        mi_weight: Mapping[str, float] | None = None,
        invariance: Invariance | None = None,
        data_plates: Collection[str] | None = None,
        strict_enumeration_warning: bool | Literal["auto"] = "auto",
        ignore_jit_warnings: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        if not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(f"num_particles must be an integer >= 1, but got {num_particles!r}")
        if not _is_number(max_plate_nesting) or max_plate_nesting not in (math.inf, *range(99)):
            raise ValueError(
                "max_plate_nesting must be an integer >= 0, the number of dimensions that plates "
                f"take, or infinity, which has it found, but got {max_plate_nesting!r}"
            )
        if not _is_number(tc_weight) or not tc_weight >= 0:
            raise ValueError(f"tc_weight must be a number >= 0, but got {tc_weight!r}")
        if invariance is not None and not isinstance(invariance, Invariance):
            raise TypeError(f"invariance must be an Invariance, but got {invariance!r}")
        if isinstance(data_plates, str):
            raise TypeError(
                f"data_plates must be a collection of names, e.g. [{data_plates!r}], "
                f"but got the string {data_plates!r}"
            )
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            strict_enumeration_warning=strict_enumeration_warning is True,
            ignore_jit_warnings=ignore_jit_warnings,
            retain_graph=retain_graph,
        )
        penalty = TotalCorrelation(tc_weight, tc_sites)
        shorthands: list[Regularizer] = [penalty] if tc_weight else []
        if mi_weight:
            shorthands.append(MutualInformation(mi_weight))
        if invariance is not None:
            shorthands.append(invariance)
        self.regularizers = check_regularizers(shorthands, regularizers)
        self.regularizer_modules = nn.ModuleList(
            each for each in self.regularizers if isinstance(each, nn.Module)
        )
        """Those that may have parameters, to be trained with the programs'."""
        self.num_data: float | None = None
        """The size of the data set for regularizers, where someone has told it, as ``fit`` does;
        else they are given that of the data plate, which is right where the plate subsamples."""
        self.data_plates = None if data_plates is None else frozenset(data_plates)
        self._warn_unenumerated = bool(strict_enumeration_warning)
        self._last: list[Contributions] = []
        self._mean: CorExTerms | None = None
        self._registered: dict[int, str] = {}

    def __repr__(self) -> str:
        given: dict[str, tuple[Any, Any]] = {
            "num_particles": (self.num_particles, 1),
            "vectorize_particles": (self.vectorize_particles, False),
            "regularizers": (list(self.regularizers), []),
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
            return self._checked(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Minus the objective as a 0-dim tensor to differentiate, in nats summed over the data.

        Nothing is read back from the device; the value is not checked.
        """
        total: Tensor | float = 0.0
        for found in self._evaluate(model, guide, args, kwargs):
            total = total + found.objective()
        loss = -total / self.num_particles
        return loss if isinstance(loss, Tensor) else torch.tensor(loss)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Computes the loss, in nats, adds its gradients to the parameters, and returns it.

        :raises ValueError: if it is NaN, naming the site and the term, before its gradients are
            computed.  (Of several particles that are not vectorised, those before the first NaN
            have added theirs.)
        """
        at_once = self.num_particles == 1 or self.vectorize_particles
        total: Tensor | float = 0.0
        together: Tensor | float = 0.0
        for found in self._evaluate(model, guide, args, kwargs):
            loss = -found.objective() / self.num_particles
            graph = isinstance(loss, Tensor) and loss.requires_grad
            total = total + (loss.detach() if isinstance(loss, Tensor) else loss)
            if graph and (at_once or found.sequential):
                together = together + loss
            elif graph:  # one particle's graph at a time
                if bool(loss.isnan()):
                    raise ValueError(describe_non_finite([found]))
                loss.backward(retain_graph=self.retain_graph)
        value = self._checked(total)
        if isinstance(together, Tensor):
            together.backward(retain_graph=self.retain_graph)
        return value

    def _evaluate(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[Contributions]:
        """The terms of each trace, with their graph until the next one is asked for."""
        _check_programs(model, guide)
        self._last, self._mean = [], None
        for module in self.regularizer_modules:
            register(module, self._registered)
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            pair = self.pair(model, guide)
            of_model, of_guide = sites.samples(model_trace), sites.samples(guide_trace)
            found = Contributions(
                model_trace,
                guide_trace,
                of_model,
                of_guide,
                cleared=pair.closed_forms.cleared(of_model, of_guide, args, kwargs),
                plan=pair.auxiliaries.plan(of_model, of_guide, args, kwargs),
                max_plate_nesting=self.max_plate_nesting,
                data_plates=self.data_plates,
                programs=Programs(model, guide, args, kwargs),
                known=pair.axes,
            )
            if found.guess:
                pair.tell(found.guess)
            if self.regularizers:
                known = pair.closed_forms
                step = Step(
                    found,
                    model,
                    guide,
                    args,
                    kwargs,
                    num_data=self.num_data,
                    parents=partial(known.guide_parents, guide=of_guide, args=args, kwargs=kwargs),
                    rerun=partial(self.rerun_guide, guide),
                    above=partial(
                        known.above_in_model,
                        model=of_model,
                        guide=of_guide,
                        args=args,
                        kwargs=kwargs,
                    ),
                )
                regularize(found, self.regularizers, step)
            yield found
            self._last.append(found.detach())

    def _checked(self, loss: Tensor | float) -> float:
        value = float(loss)
        if math.isnan(value):
            raise ValueError(self.describe_non_finite())
        if math.isinf(value):
            warnings.warn(self.describe_non_finite(), stacklevel=3)
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

        After :func:`~pyro_corex.fit` those of its last epoch, on average, without data.

        :raises RuntimeError: before the first call.
        """
        return self._mean or CorExTerms.of(self._kept(), self.num_particles)

    @last_terms.setter
    def last_terms(self, terms: CorExTerms) -> None:
        self._mean = terms

    @property
    def last_sums(self) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        """Each term of the last call in nats summed over data, as it is reported and as it is
        weighted in the loss, of shape ``(m,)`` or as ``last_terms`` has it.

        The keys are a kind, ``"reconstruction"``, ``"kl"`` or ``"regularizer"``, and the name of a
        site or a regularizer.

        :raises RuntimeError: before the first call.
        """
        found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        for each in (kept := self._kept()):
            parts: dict[tuple[str, str], tuple[Tensor, Tensor]] = {
                key: (of_site.value, of_site.weighted) for key, of_site in each.sums.items()
            }
            for name, (value, weight) in each.regularizers.items():
                value = value * (each.num_data * self.num_particles / len(kept))
                parts["regularizer", name] = value, value * weight
            for key, (value, weighted) in parts.items():
                if before := found.get(key):
                    value, weighted = before[0] + value, before[1] + weighted
                found[key] = value, weighted
        if self.num_particles > 1:
            found = {
                k: (v / self.num_particles, w / self.num_particles) for k, (v, w) in found.items()
            }
        return found

    @property
    def last_num_data(self) -> float:
        """The number of data that the loss of the last call, in nats, stands for."""
        return self._kept()[-1].num_data

    @property
    def last_batch_size(self) -> float:
        """The number of data of the last call, without those that subsampled plates stand for."""
        return self._kept()[-1].batch_size

    @property
    def last_local(self) -> set[str]:
        """The sites of the last call that are drawn or observed for each datum."""
        return self._kept()[-1].recorded.local

    @property
    def last_shared(self) -> list[str]:
        """The latent sites of the last call that all of its data share."""
        return self._kept()[-1].recorded.shared

    def describe_non_finite(self) -> str:
        """Which terms of the last call are NaN or infinite, as a sentence."""
        return describe_non_finite(self._kept())

    def _kept(self) -> list[Contributions]:
        if not self._last:
            raise RuntimeError(
                "CorExELBO has no terms yet: they are kept by a training step or an evaluation. "
                "Call elbo.terms(model, guide, *args), or take a step first."
            )
        return self._last

    # ------------------------------------------------------------------ Pyro's own extras

    def compute_marginals(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`pyro.infer.TraceEnum_ELBO.compute_marginals`."""
        _check_programs(model, guide)
        return self._traceenum().compute_marginals(model, guide, *args, **kwargs)

    def sample_posterior(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`pyro.infer.TraceEnum_ELBO.sample_posterior`."""
        _check_programs(model, guide)
        return self._traceenum().sample_posterior(model, guide, *args, **kwargs)

    def _traceenum(self) -> TraceEnum_ELBO:
        return TraceEnum_ELBO(
            num_particles=self.num_particles,
            max_plate_nesting=self.max_plate_nesting,
            strict_enumeration_warning=False,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Tensor))


def _check_programs(model: Any, guide: Any) -> None:
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program):
            raise TypeError(
                f"{name} must be a function, such as vae.{name}, but got {type(program).__name__}: "
                "the order is model, guide and then the data"
            )

"""From a pair of traces to the terms of the bound, one tensor a site.

This is the only place where a term is computed: the loss that is trained is the sum of the tensors
made here, and :class:`~pyro_corex.objective.terms.CorExTerms` reports the very same tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from torch import Tensor

from pyro_corex.objective import discrete, sites, tc_penalty
from pyro_corex.objective.enumeration import Expectation, Ordinal, ordinal
from pyro_corex.objective.evidence import Batch
from pyro_corex.objective.reductions import (
    as_kept,
    is_one,
    mask,
    plus,
    reduce,
    scale_and_mask,
    to_axes,
)
from pyro_corex.objective.scales import check_same_scale
from pyro_corex.objective.sites import PARTICLE_PLATE, Factored, Site, is_sample
from pyro_corex.objective.sums import Kind, Sums

Axis = str | int  # the name of a plate, or the place of a batch dimension outside of all plates


class Contributions:
    """The terms of one pair of traces.

    :param analytic: the sites whose KL may be taken in closed form.
    :param data_plates: the plates that index data, or ``None`` to find them from the traces.
    """

    def __init__(
        self,
        model_trace: Any,
        guide_trace: Any,
        *,
        analytic: Collection[str],
        max_plate_nesting: float,
        data_plates: Collection[str] | None,
    ) -> None:
        self.model = {n: s for n, s in model_trace.nodes.items() if is_sample(s)}
        self.guide = {n: s for n, s in guide_trace.nodes.items() if is_sample(s)}
        self.max_plate_nesting = max_plate_nesting
        self.analytic = analytic
        sequential = any("_enum_total" in site["infer"] for site in self.guide.values())
        self.batch = Batch(analytic=analytic, partial=sequential)
        self.sums = Sums(batch=self.batch, shares_graph=sequential)
        self._totals: list[tuple[Ordinal, Tensor, str]] = []  # costs, for the baselines
        self._axes = {
            (role, name): self._site_axes(site)
            for role, nodes in (("model", self.model), ("guide", self.guide))
            for name, site in nodes.items()
        }
        self.data_axes = self.batch.data_axes = self._find_data_axes(data_plates)
        self.sums.num_data = self._count_data()
        self._fill(model_trace, guide_trace)

    def latents(self) -> list[str]:
        """The sites that the guide draws for each datum, from a density."""
        return [
            name
            for name in tc_penalty.candidates(self.guide)
            if not self.data_axes.isdisjoint(self._axes["guide", name])
        ]

    def penalise(self, weight: float, names: Collection[str], num_data: int | None) -> None:
        """Takes ``weight`` times the TC of the guide's sites ``names`` off the bound.

        :param num_data: the size of the data set, where the data plate does not tell.
        """
        value = tc_penalty.total_correlation(
            self.guide,
            list(names),
            axes={name: self._axes["guide", name] for name in names},
            data_axes=self.data_axes,
            particle_plate=PARTICLE_PLATE,
            max_plate_nesting=self.max_plate_nesting,
            num_data=int(self.sums.num_data) if num_data is None else num_data,
        )
        self.sums.add_extra("total_correlation", "", value, weight)

    def inform(self, weights: Mapping[str, float]) -> None:
        """Adds to the bound ``weights`` times what the guide's discrete sites know of the datum."""
        for name, weight in weights.items():
            found = discrete.mutual_information(self._table("mi_weight", name, self.guide))
            self.sums.add_extra("mutual_information", name, found, weight)

    def _table(self, option: str, name: str, guide: Mapping[str, Site]) -> discrete.Table:
        return discrete.table(
            option,
            name,
            guide,
            axes=self._site_axes(guide[name]) if name in guide else {},
            data_axes=self.data_axes,
            max_plate_nesting=self.max_plate_nesting,
        )

    # ------------------------------------------------------------------ the terms

    def _fill(self, model_trace: Any, guide_trace: Any) -> None:
        marginalised = {
            name
            for name, site in self.model.items()
            if name not in self.guide and site["infer"].get("_enumerate_dim") is not None
        }
        weighted = [
            name
            for name, site in self.guide.items()
            if marginalised or sites.needs_weight(site) or name not in self.analytic
        ]
        log_q = {name: sites.log_prob_at(name, self.guide[name]) for name in weighted}
        for name in weighted:
            site = self.guide[name]
            if marginalised or sites.needs_weight(site):
                site["score_parts"] = sites.score_parts(site, log_q[name].total())
        self.expectation: Expectation | None = None
        self.plate_to_symbol: dict[str, str] = {}
        if marginalised or any(sites.needs_weight(s) for s in self.guide.values()):
            guide_trace.symbolize_dims()
            model_trace.symbolize_dims(guide_trace.plate_to_symbol)
            self.plate_to_symbol = guide_trace.plate_to_symbol
            self.expectation = Expectation(guide_trace)

        absorbed = self._marginalise(model_trace, guide_trace) if marginalised else set()
        self.batch.model_order = tuple(self.model)
        for name, site in self.model.items():
            if site["is_observed"] and not sites.is_deterministic(site):
                self.batch.note_observed(name, site)
            q = self.guide.get(name)
            if name in absorbed:
                if q is not None:
                    self._add("kl", name, q, log_q[name], role="guide")
            elif sites.is_deterministic(site):
                continue
            elif site["is_observed"]:
                log_p = sites.log_prob_at(name, site)
                self._add("reconstruction", name, site, log_p)
            elif q is None:
                log_p = sites.log_prob_at(name, site)
                self._add("kl", name, site, log_p, sign=-1.0)
            else:
                check_same_scale(name, site, q)
                for sign, share in self._kl(name, q, site, log_q):
                    self._add("kl", name, q, share, role="guide", sign=sign)
        for name, site in self.guide.items():
            if not sites.is_deterministic(site):
                self.batch.note_latent(name, site)
            if name not in self.model and not sites.is_deterministic(site):  # an auxiliary site
                self._add("kl", name, site, log_q[name], role="guide")
        if self.expectation is not None:
            self._add_baselines(self.expectation)

    def _kl(
        self, name: str, q: Site, p: Site, log_q: dict[str, Factored]
    ) -> list[tuple[float, Factored]]:
        """KL per latent dimension: in closed form, or the log-ratio at the guide's sample.

        The two halves of a log-ratio are kept apart where one of them has more enumerated
        dimensions than the other, so that the smaller one is not repeated along them.
        """
        if name in self.analytic:
            kl = sites.analytic_kl(q["fn"], p["fn"])
            if kl is not None:
                return [(1.0, kl)]
        if name not in log_q:
            log_q[name] = sites.log_prob_at(name, q)
        up, down = log_q[name], sites.log_prob_at(name, p)
        if up.n_dims != down.n_dims:
            up, down = Factored(up.total(), 0), Factored(down.total(), 0)
        if up.value.shape != down.value.shape and self.expectation is not None:
            return [(1.0, up), (-1.0, down)]
        self.batch.below[name] = Factored(down.value.detach(), down.n_dims)
        return [(1.0, Factored(up.value - down.value, up.n_dims))]

    def _marginalise(self, model_trace: Any, guide_trace: Any) -> set[str]:
        """Sums out the sites that are enumerated in the model; returns the sites that went in.

        What is left is the log of a sum over several sites, so it has no value per dimension.  It
        counts as the reconstruction of the observed sites that went in.
        """
        for name, site in self.model.items():
            log_p = sites.log_prob_at(name, site).total()
            site["unscaled_log_prob"] = log_p
            site["log_prob"] = scale_and_mask(log_p, site)
        for site in self.guide.values():
            parts = site["score_parts"]
            site["unscaled_log_prob"] = parts.log_prob
            site["score_parts"] = parts.scale_and_mask(site["scale"], site["mask"])
            site["log_prob"] = site["score_parts"].log_prob
        guide_trace.pack_tensors()
        model_trace.pack_tensors(guide_trace.plate_to_symbol)
        _, log_factors, _, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
        absorbed = {
            name
            for name, site in self.model.items()
            if not sum_dims.isdisjoint(site["packed"]["log_prob"]._pyro_dims)
        }
        sizes = {
            dim: size
            for terms in log_factors.values()
            for term in terms
            for dim, size in zip(term._pyro_dims, term.shape, strict=True)
        }
        observed = [n for n in self.model if n in absorbed and self.model[n]["is_observed"]]
        kind: Kind = "reconstruction" if observed else "kl"
        label = "+".join(observed or [n for n in self.model if n in absorbed])
        with shared_intermediates() as cache:
            ring = SampleRing(cache=cache, dim_to_size=sizes)
            marginals = contract_tensor_tree(log_factors, sum_dims, ring=ring)
        for where, terms in marginals.items():
            for term in terms:
                cost = packed.scale_and_mask(term, scale=scale)
                self._add_packed(kind, label, where, cost if observed else -cost, term._pyro_dims)
        return absorbed

    # ------------------------------------------------------------------ adding up

    def _add(
        self,
        kind: Kind,
        name: str,
        site: Site,
        detail: Factored,
        role: str = "model",
        sign: float = 1.0,
    ) -> None:
        """Adds ``sign * detail``, of shape ``batch + dims``, as the site's (share of a) term."""
        axes = self._axes[role, name]
        keep = sorted(dim for axis, dim in axes.items() if axis not in self.data_axes)
        detail = mask(detail, site["mask"])
        weight, dims = self._weight(site, detail)
        self.batch.note(kind, name, sign, detail, weight, axes)
        keep = [dim for dim in keep if dim >= detail.n_dims - detail.value.dim()]
        finite = sites.has_density_everywhere(site["fn"])
        plates = sites.plate_scale(site)
        value = reduce(detail, weight, keep, finite)
        if plates * sign != 1.0:
            value = value * (plates * sign)
        scale = (
            site["scale"] / plates
            if isinstance(site["scale"], Tensor) or plates != 1.0
            else (site["scale"])
        )
        anchor: Tensor | float | None = scale
        if isinstance(scale, Tensor) and scale.dim():
            anchor = as_kept(scale, keep, detail.n_dims)
            if anchor is None:  # the weight differs between data
                scaled = scale.reshape(scale.shape + (1,) * detail.n_dims) * detail.value
                weighted = reduce(Factored(scaled, detail.n_dims), weight, keep, finite)
                weighted = weighted * (plates * sign)
            else:
                weighted = value * anchor
        else:
            weighted = value if is_one(scale) else value * scale
        event_weight = sites.event_weight(site["fn"]) if kind == "kl" else None
        if event_weight is not None and detail.n_dims:
            weighted = weighted * event_weight
            anchor = event_weight * (1.0 if anchor is None else anchor)
        if kind == "reconstruction":
            value = weighted
        else:
            self.sums.weight.setdefault(name, anchor)
        self.sums.add(kind, name, value, weighted)
        if self.expectation is not None and self.expectation.score_factors():
            self._remember(sign if kind == "reconstruction" else -sign, site, detail, weight, dims)

    def _add_packed(self, kind: Kind, name: str, where: Ordinal, cost: Tensor, dims: str) -> None:
        assert self.expectation is not None
        self.batch.summed_out.append(name)
        weight, weight_dims = self.expectation.weight(where, dims)
        if isinstance(weight, Tensor):
            out = "".join(sorted(set(dims) | set(weight_dims)))
            cost, weight = (
                to_axes(cost, dims, out),
                to_axes(weight, weight_dims, out),
            )
            cost = cost.masked_fill(weight == 0, 0.0) * weight
        elif weight != 1.0:
            cost = cost * weight
        self.sums.weight.setdefault(name, 1.0) if kind == "kl" else None
        self.sums.add(kind, name, cost.sum(), cost.sum())

    def _weight(self, site: Site, detail: Factored) -> tuple[Tensor | float, str]:
        """The guide's weight for a cost, shaped to multiply its batch dimensions."""
        if self.expectation is None:
            return 1.0, ""
        symbols = site["infer"]["_dim_to_symbol"]
        rank = detail.value.dim() - detail.n_dims
        shape = detail.value.shape[:rank]
        where = ordinal(site, self.plate_to_symbol)
        if self.expectation.exact:
            if rank <= self.max_plate_nesting:
                return 1.0, ""  # it depends on no enumerated value
            depends = any(size > 1 for size in shape[: rank - int(self.max_plate_nesting)])
            only = self.expectation.only_weight(where, symbols, depends)
            if only is not None:
                return only, ""
        try:
            dims = "".join(symbols[i - rank] for i, size in enumerate(shape) if size > 1)
        except KeyError:
            raise ValueError(
                f"Site {site['name']!r} has the batch shape {tuple(shape)}, and not all of its "
                f"dimensions are in a plate. Enumerated and score-function sites need every "
                f"batch dimension in a pyro.plate, or declared with .to_event()."
            ) from None
        weight, weight_dims = self.expectation.weight(where, dims)
        if not isinstance(weight, Tensor):
            return weight, ""
        position = {symbol: dim for dim, symbol in symbols.items()}
        order = sorted(weight_dims, key=lambda s: position[s])
        weight = weight.permute([weight_dims.index(s) for s in order])
        full = [1] * max([rank, *(-position[s] for s in order)])
        for symbol, size in zip(order, weight.shape, strict=True):
            full[position[symbol]] = size
        return weight.reshape(full), dims

    # ------------------------------------------------------------------ baselines

    def _remember(
        self, sign: float, site: Site, detail: Factored, weight: Tensor | float, dims: str
    ) -> None:
        """Keeps what a cost adds to the bound, per element of its plates."""
        with torch.no_grad():
            where = ordinal(site, self.plate_to_symbol)
            cost = scale_and_mask(detail.total(), site) * weight
            symbols = site["infer"]["_dim_to_symbol"]
            names = [symbols.get(d) for d in range(-cost.dim(), 0)]
            kept = [i for i, s in enumerate(names) if s in where and cost.shape[i] > 1]
            drop = [i for i in range(cost.dim()) if i not in kept]
            cost = cost.sum(drop) if drop else cost
            self._totals.append((where, sign * cost, "".join(names[i] or "" for i in kept)))

    def _add_baselines(self, expectation: Expectation) -> None:
        r"""Control variates for the score-function sites.

        The score of a site is multiplied with the downstream cost less a baseline: the mean of the
        same cost over the *other* elements of the site's plates (over the other particles, where
        particles are vectorised), on which this element's value has no influence.
        """
        particles = self.plate_to_symbol.get(PARTICLE_PLATE, "")
        for factor in expectation.score_factors():
            assert isinstance(factor.log_weight, Tensor)
            plates = "".join(sorted(s for s in factor.dims if s in factor.ordinal))
            if not plates:
                continue
            downstream: Tensor | None = None
            for where, cost, dims in self._totals:
                if factor.ordinal <= where and set(plates) <= set(dims):
                    drop = [i for i, s in enumerate(dims) if s not in plates]
                    cost = cost.sum(drop) if drop else cost
                    cost = to_axes(cost, "".join(s for s in dims if s in plates), plates)
                    downstream = cost if downstream is None else downstream + cost
            if downstream is None:
                continue
            over = [i for i, s in enumerate(plates) if not particles or s == particles]
            if particles and particles not in plates:
                over = list(range(len(plates)))
            n = math.prod(downstream.shape[i] for i in over)
            if n < 2:
                continue
            baseline = (downstream.sum(over, keepdim=True) - downstream) / (n - 1)
            weight, weight_dims = expectation.weight(factor.ordinal, factor.dims)
            out = "".join(sorted(set(factor.dims) | set(weight_dims)))
            term = to_axes(baseline, plates, out) * to_axes(factor.log_weight, factor.dims, out)
            if isinstance(weight, Tensor):
                term = term * to_axes(weight, weight_dims, out)
            zero = term.sum()  # of value 0: it changes the gradient only
            self.sums.weighted["kl", factor.name] = plus(
                self.sums.weighted.get(("kl", factor.name)), zero
            )

    # ------------------------------------------------------------------ axes

    def _site_axes(self, site: Site) -> dict[Axis, int]:
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
        for dim in range(-int(min(len(shape), self.max_plate_nesting)), 0):
            if shape[dim] > 1 and dim not in axes.values() and dim != particle_dim:
                axes[dim] = dim
        return axes

    def _find_data_axes(self, told: Collection[str] | None) -> set[Axis]:
        if told is not None:
            known = {axis for axes in self._axes.values() for axis in axes}
            missing = set(told) - known
            if missing:
                raise ValueError(
                    f"data_plates names {sorted(missing)}, but the programs have the plates "
                    f"{sorted(str(a) for a in known)}. Give the names of plates that index data."
                )
            return set(told)
        observed: set[Axis] = set()
        latent: set[Axis] = set()
        for (role, name), axes in self._axes.items():
            if sites.is_deterministic((self.model if role == "model" else self.guide)[name]):
                continue
            seen = name in self.model and self.model[name]["is_observed"]
            (observed if seen else latent).update(axes)
        return (observed & latent) or observed

    def _count_data(self) -> float:
        size: dict[Axis, float] = {}
        for (role, name), axes in self._axes.items():
            site = (self.model if role == "model" else self.guide)[name]
            frames = {f.name: f for f in site["cond_indep_stack"]}
            for axis, dim in axes.items():
                if axis not in self.data_axes:
                    continue
                frame = frames.get(axis)
                full = frame.full_size if frame is not None else None
                if full is None or full == -1:
                    full = sites.batch_shape(site)[dim]
                size[axis] = max(size.get(axis, 1), full)
        return float(math.prod(size.values()))

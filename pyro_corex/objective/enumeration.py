"""Enumeration: the weights of enumerated values, and the baselines of score-function sites.

Every cost in the objective is an expectation under the guide.  Where a guide site is summed over
exactly, the cost is weighted by the site's probabilities; where it was drawn without a
reparameterisation, by a factor of value one whose gradient is the score function (DiCE, Foerster
et al. 2018).  Both are log-weights that live on named dimensions, so both are handled as one: a
log-sum-exp contraction down to the dimensions of the cost.

Nothing here looks at a value on the host, so a training step stays asynchronous on CUDA.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from opt_einsum import contract, shared_intermediates
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import compute_site_dice_factor
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.sites import PARTICLE_PLATE, Site
from pyro_corex.objective.term import Axis, Kind, Term

Ordinal = frozenset[str]
DimToSymbol = Mapping[int, str]


class Factor(NamedTuple):
    """The log-weight of one guide site."""

    name: str
    ordinal: Ordinal  # symbols of the plates that the site is in
    log_weight: Tensor | float
    dims: str  # one symbol an axis of ``log_weight``
    own_dim: str  # the symbol of the site's enumerated values, over which they sum to one
    score: bool  # a score-function factor: value 0, gradient of log q


def ordinal(site: Site, plate_to_symbol: Mapping[str, str]) -> Ordinal:
    """The symbols of the vectorised plates that a site is in."""
    return frozenset(plate_to_symbol[f.name] for f in site["cond_indep_stack"] if f.vectorized)


class Marginal(NamedTuple):
    """The logarithm of a sum over what the model enumerates."""

    kind: Kind
    label: str
    """The sites whose term it is a part of."""
    sites: list[str]
    """Those that went in."""
    drawn: list[str]
    """Those of the label."""
    value: Tensor
    probability: Tensor | float
    axes: dict[Axis, int]
    scale: Tensor | float
    sign: float


class Expectation:
    """The weights under which the guide's costs are summed.

    Of both traces the dimensions get symbols.

    :param log_q: guide site -> its log density, of those that need a weight (or, where the model
        enumerates sites of its own, of all).
    """

    def __init__(
        self,
        model_trace: Any,
        guide_trace: Any,
        log_q: Mapping[str, sites.Factored],
        max_plate_nesting: float,
    ) -> None:
        self.factors: list[Factor] = []
        self.max_plate_nesting = max_plate_nesting
        self._log_denominators: list[tuple[Ordinal, float]] = []
        self._operations: dict[Any, Any] = {}
        self._cache: dict[tuple[Ordinal, frozenset[str]], tuple[Tensor | float, str]] = {}
        self._aligned: tuple[DimToSymbol, Tensor]  # of the last exact factor, not packed
        self._costs: list[tuple[Ordinal, Tensor, str]] = []  # for the baselines
        guide_trace.symbolize_dims()
        model_trace.symbolize_dims(guide_trace.plate_to_symbol)
        self.plate_to_symbol: dict[str, str] = guide_trace.plate_to_symbol
        for name, value in log_q.items():
            site = guide_trace.nodes[name]
            site["score_parts"] = sites.score_parts(site, sites.total(value))
            self._add(name, site, ordinal(site, self.plate_to_symbol))

    def _add(self, name: str, site: Site, where: Ordinal) -> None:
        symbols = site["infer"]["_dim_to_symbol"]
        marked = site["infer"].get("enumerate")
        if marked == "parallel" and site["infer"].get("num_samples") is None:
            log_prob = site["score_parts"].log_prob
            own_dim = symbols[site["infer"]["_enumerate_dim"]]
            log_weight = packed.pack(log_prob, symbols)
            self.factors.append(
                Factor(name, where, log_weight, log_weight._pyro_dims, own_dim, False)
            )
            self._aligned = (symbols, log_prob)
            return
        parts = ScoreParts(*(packed.pack(part, symbols) for part in site["score_parts"]))
        site.setdefault("packed", {}).update(score_parts=parts, log_prob=parts.log_prob)
        log_weight, log_denominator = compute_site_dice_factor(site)
        if not is_identically_zero(log_denominator):
            self._log_denominators.append((where, log_denominator))
        if not is_identically_zero(log_weight):
            dims = getattr(log_weight, "_pyro_dims", "")
            self.factors.append(Factor(name, where, log_weight, dims, "", not marked))

    @property
    def exact(self) -> bool:
        """Whether all weights are probabilities that sum to one, in one trace."""
        return not self._log_denominators and all(f.own_dim for f in self.factors)

    def only_weight(self, where: Ordinal, symbols: DimToSymbol, depends: bool) -> Tensor | None:
        """The weight where one enumerated site is all there is, shaped as its log density.

        :param symbols: of the cost's dimensions.
        :returns: ``None`` where the cost needs the general :meth:`weight`.
        """
        own_symbols, log_prob = self._aligned
        if len(self.factors) != 1 or not depends or not self.factors[0].ordinal <= where:
            return None
        if any(
            symbols.get(dim) != own_symbols[dim]
            for dim in range(-log_prob.dim(), 0)
            if log_prob.shape[dim] > 1
        ):
            return None
        return log_prob.exp()

    def weight(self, where: Ordinal, dims: str) -> tuple[Tensor | float, str]:
        """The weight of a cost that is in the plates ``where`` and has the axes ``dims``.

        Returns the weight and its own axes, a subset of ``dims`` and ``where``.
        """
        key = (where, frozenset(dims))
        if key not in self._cache:
            self._cache[key] = self._weight(where, frozenset(dims))
        return self._cache[key]

    def _weight(self, where: Ordinal, dims: frozenset[str]) -> tuple[Tensor | float, str]:
        constant = math.exp(-sum(d for at, d in self._log_denominators if not at <= where))
        factors = _relevant([f for f in self.factors if f.ordinal <= where], dims)
        if not factors:
            return constant, ""
        kept = "".join(sorted(set().union(*(f.dims for f in factors)) & (dims | where)))
        if len(factors) == 1 and set(factors[0].dims) == set(kept):
            kept, logits = factors[0].dims, torch.as_tensor(factors[0].log_weight)
        else:
            equation = ",".join(f.dims for f in factors) + "->" + kept
            operands = [torch.as_tensor(f.log_weight) for f in factors]
            with shared_intermediates(self._operations):
                logits = contract(equation, *operands, backend="pyro.ops.einsum.torch_log")
        weight = logits.exp()
        return (weight if constant == 1.0 else weight * constant), kept

    def weigh(self, term: Term, site: Site) -> None:
        """Gives a term its weight, shaped to multiply its batch dimensions."""
        symbols = site["infer"]["_dim_to_symbol"]
        rank = term.value.dim() - term.event_dims
        shape = term.value.shape[:rank]
        where = ordinal(site, self.plate_to_symbol)
        if self.exact:
            if rank <= self.max_plate_nesting or not self.factors:
                return  # it depends on no value that the guide enumerates
            depends = any(size > 1 for size in shape[: rank - int(self.max_plate_nesting)])
            only = self.only_weight(where, symbols, depends)
            if only is not None:
                term.probability = only
                return
        try:
            dims = "".join(symbols[i - rank] for i, size in enumerate(shape) if size > 1)
        except KeyError:
            raise ValueError(
                f"Site {site['name']!r} has the batch shape {tuple(shape)}, and not all of its "
                f"dimensions are in a plate. Enumerated and score-function sites need every "
                f"batch dimension in a pyro.plate, or declared with .to_event()."
            ) from None
        weight, weight_dims = self.weight(where, dims)
        if isinstance(weight, Tensor):
            position = {symbol: dim for dim, symbol in symbols.items()}
            order = sorted(weight_dims, key=lambda s: position[s])
            weight = weight.permute([weight_dims.index(s) for s in order])
            full = [1] * max([rank, *(-position[s] for s in order)])
            for symbol, size in zip(order, weight.shape, strict=True):
                full[position[symbol]] = size
            weight = weight.reshape(full)
        term.probability = weight
        if any(factor.score for factor in self.factors):
            self._remember(term, site, where)

    def unpacked(
        self, packed_value: Any, where: Ordinal, of: Sequence[Site]
    ) -> tuple[Tensor, Tensor | float, dict[Axis, int]]:
        """A packed cost of some sites with its plates in their places, its weight, and its axes."""
        dims = packed_value._pyro_dims
        weight, weight_dims = self.weight(where, dims)
        frames = {
            self.plate_to_symbol[f.name]: f
            for site in of
            for f in site["cond_indep_stack"]
            if f.vectorized and self.plate_to_symbol[f.name] in where
        }
        outermost = max([0, *(-f.dim for f in frames.values())])
        others = sorted(set(dims) - set(frames))
        out = others + [" "] * outermost
        for symbol, frame in frames.items():
            out[frame.dim] = symbol
        value = _to_axes(packed_value, dims, "".join(out))
        shape = [
            frames[s].size if s in frames else n for s, n in zip(out, value.shape, strict=True)
        ]
        if isinstance(weight, Tensor):
            weight = _to_axes(weight, weight_dims, "".join(out))
        axes: dict[Axis, int] = {f.name: f.dim for f in frames.values() if f.name != PARTICLE_PLATE}
        return value.expand(shape), weight, axes

    # ------------------------------------------------------------------ baselines

    @torch.no_grad()
    def _remember(self, term: Term, site: Site, where: Ordinal) -> None:
        """Keeps what a term adds to the bound, per element of its plates."""
        cost = sites.total((term.value, term.event_dims)) * term.weight * term.subsampling
        cost = (
            cost * term.probability * (term.sign if term.kind == "reconstruction" else -term.sign)
        )
        symbols = site["infer"]["_dim_to_symbol"]
        names = [symbols.get(d) for d in range(-cost.dim(), 0)]
        kept = [i for i, s in enumerate(names) if s in where and cost.shape[i] > 1]
        drop = [i for i in range(cost.dim()) if i not in kept]
        cost = cost.sum(drop) if drop else cost
        self._costs.append((where, cost, "".join(names[i] or "" for i in kept)))

    def baselines(self) -> Tensor | None:
        r"""Control variates for the score-function sites: a number that is 0, with a gradient.

        The score of a site is multiplied with the downstream cost less a baseline: the mean of the
        same cost over the *other* elements of the site's plates (over the other particles, where
        particles are vectorised), on which this element's value has no influence.
        """
        particles = self.plate_to_symbol.get(PARTICLE_PLATE, "")
        found: Tensor | None = None
        for factor in self.factors:
            plates = "".join(sorted(s for s in factor.dims if s in factor.ordinal))
            downstream = self._downstream(factor, plates) if factor.score and plates else None
            if downstream is None:
                continue
            over = [i for i, s in enumerate(plates) if not particles or s == particles]
            if particles and particles not in plates:
                over = list(range(len(plates)))
            n = math.prod(downstream.shape[i] for i in over)
            if n < 2:
                continue
            baseline = (downstream.sum(over, keepdim=True) - downstream) / (n - 1)
            weight, weight_dims = self.weight(factor.ordinal, factor.dims)
            out = "".join(sorted(set(factor.dims) | set(weight_dims)))
            log_weight = torch.as_tensor(factor.log_weight)
            zero = _to_axes(baseline, plates, out) * _to_axes(log_weight, factor.dims, out)
            if isinstance(weight, Tensor):
                zero = zero * _to_axes(weight, weight_dims, out)
            found = zero.sum() if found is None else found + zero.sum()
        return found

    def _downstream(self, factor: Factor, plates: str) -> Tensor | None:
        """The cost on which the value of a site has an influence, per element of its plates."""
        total: Tensor | None = None
        for where, cost, dims in self._costs:
            if factor.ordinal <= where and set(plates) <= set(dims):
                drop = [i for i, s in enumerate(dims) if s not in plates]
                cost = cost.sum(drop) if drop else cost
                cost = _to_axes(cost, "".join(s for s in dims if s in plates), plates)
                total = cost if total is None else total + cost
        return total


def marginalise(
    model_trace: Any,
    guide_trace: Any,
    model: Mapping[str, Site],
    guide: Mapping[str, Site],
    expectation: Expectation,
) -> tuple[list[Marginal], set[str]]:
    r"""Sums out the sites that are enumerated in the model.

    With c summed out, :math:`\ln \sum_c p(c) p(z|c) p(x|z,c)` is split into
    :math:`\ln p(z) = \ln \sum_c p(c) p(z|c)`, which belongs to the KL of z, and
    :math:`\ln p(x|z)`, the rest, which is the reconstruction of x.

    :returns: the logarithms of sums, and the sites that depend on what is summed out.
    """
    for name, site in model.items():
        log_p = sites.total(sites.log_prob_at(name, site))
        site["unscaled_log_prob"] = log_p
        site["log_prob"] = scale_and_mask(log_p, site["scale"], site["mask"])
    for site in guide.values():
        parts = site["score_parts"]
        site["unscaled_log_prob"] = parts.log_prob
        site["score_parts"] = parts.scale_and_mask(site["scale"], site["mask"])
        site["log_prob"] = site["score_parts"].log_prob
    guide_trace.pack_tensors()
    model_trace.pack_tensors(guide_trace.plate_to_symbol)
    _, log_factors, _, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
    factors = [factor for of_plates in log_factors.values() for factor in of_plates]
    names = {  # in the order of the model
        name: own[0]
        for name, site in model.items()
        if (own := [f for f in factors if any(f is log_p for log_p in site["packed"].values())])
    }
    sizes = {d: n for f in factors for d, n in zip(f._pyro_dims, f.shape, strict=True)}
    found = []
    with shared_intermediates() as cache:
        ring = SampleRing(cache=cache, dim_to_size=sizes)

        def log_sum(part: list[str], kind: Kind, label: list[str], sign: float) -> Marginal:
            tree: OrderedDict[Ordinal, list[Tensor]] = OrderedDict()
            for name in part:
                where = ordinal(model[name], expectation.plate_to_symbol)
                tree.setdefault(where, []).append(names[name])
            dims = sum_dims.intersection(*[{d for n in part for d in names[n]._pyro_dims}])
            ((where, (value,)),) = contract_tensor_tree(tree, dims, ring=ring).items()
            values = expectation.unpacked(value, where, [model[name] for name in part])
            return Marginal(kind, "+".join(label), part, label, *values, scale, sign)

        for group in _connected(list(names), names, sum_dims):
            sites.check_one_at_a_time(group, model, guide)
            seen = [name for name in group if model[name]["is_observed"]]
            if seen:
                found.append(log_sum(group, "reconstruction", seen, 1.0))
            for part in _connected([n for n in group if n not in seen], names, sum_dims):
                drawn = [n for n in part if n in guide or "_enumerate_dim" not in model[n]["infer"]]
                if not drawn:
                    continue  # the prior of what is summed out, whose sum is 1
                found.append(prior := log_sum(part, "kl", drawn, -1.0))
                if seen:
                    value = prior.value.masked_fill(prior.value == -math.inf, 0.0)
                    rest = prior._replace(kind="reconstruction", label="+".join(seen), value=value)
                    found.append(rest)
    return found, set(names)


def _connected(
    chosen: list[str], factors: Mapping[str, Any], sum_dims: Collection[str]
) -> list[list[str]]:
    """Groups of sites that share what is summed out."""
    groups: list[tuple[list[str], set[str]]] = []
    for name in chosen:
        dims = set(factors[name]._pyro_dims) & set(sum_dims)
        touching = [group for group in groups if group[1] & dims]
        groups = [group for group in groups if not group[1] & dims]
        together = [n for group in touching for n in group[0]]
        groups.append(([*together, name], dims.union(*(group[1] for group in touching))))
    return [[name for name in chosen if name in group] for group, _ in groups]


def _to_axes(value: Tensor, dims: str, out: str) -> Tensor:
    """Permutes a packed tensor to the axes ``out``, with size 1 where it has none."""
    order = [s for s in out if s in dims]
    value = value.permute([dims.index(s) for s in order])
    sizes = iter(value.shape)
    return value.reshape([next(sizes) if s in dims else 1 for s in out])


def _relevant(factors: list[Factor], dims: frozenset[str]) -> list[Factor]:
    """Drops the probabilities of sites that neither the cost nor any site left depends on.

    Summed over their own dimension they give one, exactly.
    """
    kept = list(factors)
    while True:
        for factor in kept:
            needed = dims.union(*(other.dims for other in kept if other is not factor))
            if factor.own_dim and factor.own_dim not in needed:
                kept.remove(factor)
                break
        else:
            return kept

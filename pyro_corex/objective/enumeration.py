"""Expectations over guide sites that are enumerated or sampled without reparameterisation.

Every cost in the objective is an expectation under the guide.  Where a guide site is summed over
exactly, the cost is weighted by the site's probabilities; where it was drawn without a
reparameterisation, by a factor of value one whose gradient is the score function (DiCE, Foerster
et al. 2018).  Both are log-weights that live on named dimensions, so both are handled as one: a
log-sum-exp contraction down to the dimensions of the cost.

Nothing here looks at a value on the host, so a training step stays asynchronous on CUDA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from opt_einsum import contract, shared_intermediates
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import compute_site_dice_factor
from pyro.ops import packed
from torch import Tensor

from pyro_corex.objective.sites import Site, is_sample

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


class Expectation:
    """The weights under which the guide's costs are summed.

    :param guide_trace: a trace whose dimensions have symbols, and whose sites that need a weight
        have ``site["score_parts"]``.
    """

    def __init__(self, guide_trace: Any) -> None:
        self.factors: list[Factor] = []
        self._log_denominators: list[tuple[Ordinal, float]] = []
        self._operations: dict[Any, Any] = {}
        self._cache: dict[tuple[Ordinal, frozenset[str]], tuple[Tensor | float, str]] = {}
        self._aligned: tuple[DimToSymbol, Tensor]  # of the last exact factor, not packed
        for name, site in guide_trace.nodes.items():
            if is_sample(site) and "score_parts" in site:
                self._add(name, site, ordinal(site, guide_trace.plate_to_symbol))

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

    def score_factors(self) -> list[Factor]:
        """The factors of sites that were drawn without a reparameterisation."""
        return [f for f in self.factors if f.score]


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

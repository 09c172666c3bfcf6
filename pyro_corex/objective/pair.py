"""What is found out once about a model and a guide, and then kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any

from pyro.infer.util import is_validation_enabled

from pyro_corex.objective import dependencies, sites, tc_penalty

Program = Callable[..., Any]


class Pair:
    """What is found out once about a model and a guide."""

    def __init__(self, model: Program, guide: Program) -> None:
        self.model = model
        self.guide = guide
        self.sequential = False  # has sites that are enumerated one value at a time
        self._cleared: dict[tuple[tuple[str, ...], tuple[str, ...]], frozenset[str]] = {}
        self._top: dict[tuple[str, ...], list[str]] = {}

    def penalised(
        self, latents: list[str], told: Collection[str] | None, args: Any, kwargs: Any
    ) -> list[str]:
        """The latents whose TC(z) is penalised: those told, or the top layer."""
        if told is not None:
            missing = sorted(set(told) - set(latents))
            if missing or not told:
                raise ValueError(
                    f"tc_sites names {missing}, but the latents that the guide draws for each "
                    f"datum are {latents}. Name one or more of these."
                )
            return [name for name in latents if name in told]
        key = tuple(latents)
        if key not in self._top:
            parents = None
            if len(latents) > 1:
                parents = dependencies.guide_parents(self.guide, args, kwargs)
            self._top[key] = tc_penalty.top_layer(latents, parents)
        return self._top[key]

    def analytic(
        self, model_trace: Any, guide_trace: Any, args: Any, kwargs: Any
    ) -> frozenset[str]:
        """The sites whose KL may be taken in closed form."""
        model = tuple(n for n, s in model_trace.nodes.items() if sites.is_sample(s))
        guide = tuple(n for n, s in guide_trace.nodes.items() if sites.is_sample(s))
        if (model, guide) not in self._cleared:
            both = {
                name
                for name in set(model) & set(guide)
                if not guide_trace.nodes[name]["infer"].get("enumerate")
                and guide_trace.nodes[name]["infer"].get("analytic_kl", True)
            }
            doubtful = {
                name
                for name in both & dependencies.suspects(list(model), list(guide))
                if sites.analytic_kl(guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"])
                is not None
            }
            wrong: set[str] = set()
            if doubtful:
                wrong = dependencies.violations(doubtful, self.model, self.guide, args, kwargs)
            if wrong and is_validation_enabled():
                warnings.warn(
                    f"The KL of {sorted(wrong)} is estimated from a sample: the model draws "
                    "it given a site that the guide draws from it, where a closed form would be "
                    'wrong. Mark the guide site infer={"analytic_kl": False} to say that this '
                    "is meant.",
                    stacklevel=2,
                )
            self._cleared[model, guide] = frozenset(both - wrong)
        return self._cleared[model, guide]

"""A KL term has one weight: the model's and the guide's have to agree."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_corex.objective import sites
from pyro_corex.objective.reductions import is_one
from pyro_corex.objective.sites import Site


def check_same_scale(name: str, model_site: Site, guide_site: Site) -> None:
    """Raises ``ValueError`` for a negative scale, and for one that differs between the programs."""
    pairs = [("scale", model_site["scale"], guide_site["scale"])]
    wp, wq = sites.event_weight(model_site["fn"]), sites.event_weight(guide_site["fn"])
    if wp is not None or wq is not None:
        one = 1.0
        pairs.append(("per-dimension weight", one if wp is None else wp, one if wq is None else wq))
    for what, p, q in pairs:
        if p is q and is_one(p):
            continue
        for scale in (p, q):
            if _holds(lambda s: s < 0, scale):
                raise ValueError(
                    f"Site {name!r} has the negative {what} {scale}. A KL weight must be >= 0: "
                    "1 is the bound itself, less than 1 lets the latent carry more, 0 takes the "
                    "pressure off."
                )
        if p is not q and _holds(lambda a, b: a != b, p, q):
            raise ValueError(
                f"Site {name!r} has the {what} {p} in the model but {q} in the guide. "
                "A KL term has one weight: wrap both programs with the same weights, "
                "anchor(model, weights) and anchor(guide, weights)."
            )


def _holds(condition: Any, *values: Tensor | float) -> bool:
    """Whether a condition holds anywhere, asked only where the answer costs no synchronisation.

    Values on an accelerator are looked at when Pyro's validation is on, which synchronises anyway.
    """
    tensors = [v for v in values if isinstance(v, Tensor)]
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type == "meta":
            return False
        if tensor.device.type != "cpu" and not is_validation_enabled():
            return False
    result = condition(*values)
    return bool(result.any()) if isinstance(result, Tensor) else bool(result)

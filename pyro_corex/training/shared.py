"""Latents that batches have in common, though their programs do not know of it."""

from __future__ import annotations

import warnings

from pyro.infer.autoguide import AutoGuide
from torch import nn

from pyro_corex.objective import CorExELBO


def check_shared(module: nn.Module, elbo: CorExELBO, num_data: int | None) -> None:
    """Looks at the first step of a run in batches.

    Warns where latents that all data share pay their KL in each batch, as if it were all.

    :param num_data: of all batches, if it is known.
    :raises ValueError: where one of Pyro's autoguides has latents for each datum of a batch.
    """
    n = elbo.last_num_data
    if num_data is None or n >= num_data:
        return
    if names := elbo.last_shared:
        warnings.warn(
            f"The data share {names}, whose KL each batch pays in full, as its {n:.0f} data stand "
            f"for no more: it weighs {num_data / n:.3g} times as much as it should. Let the plate "
            f"of the data stand for all, in both programs: plate(name, {num_data}, subsample=x).",
            stacklevel=2,
        )
    for part in module.modules():
        if isinstance(part, AutoGuide) and (own := _of_rows(part, elbo)):
            raise ValueError(
                f"{type(part).__name__} has a value of {own} for each of the {n:.0f} data of a "
                f"batch, so that the other {num_data - n:.0f} data would have none of their own. "
                f"Train on all at once, batch_size={num_data}, or write a guide that computes "
                f"{own[0]!r} from the data."
            )


def _of_rows(guide: AutoGuide, elbo: CorExELBO) -> list[str]:
    """The latent sites of an autoguide that are drawn for each datum."""
    trace, local = guide.prototype_trace, elbo.last_local
    sites = () if trace is None else trace.nodes.items()
    return [name for name, site in sites if name in local and not site["is_observed"]]

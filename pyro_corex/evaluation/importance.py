"""The importance-weighted lower bound on ln p(x) (Burda et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_corex.batches import Batch, place_of, programs_of
from pyro_corex.objective import CorExELBO, CorExTerms
from pyro_corex.objective.evidence import Evidence

# A guide that runs like this draws each latent, where training would sum over it or use a formula.
_SAMPLED: Mapping[str, Any] = {"enumerate": None, "analytic_kl": False}


def sampled(module: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and the guide of a program that draws each latent from the guide."""
    model, guide = (poutine.infer_config(each, lambda _: _SAMPLED) for each in programs_of(module))
    return model, guide


class ImportanceWeights:
    r"""For each datum the logarithm of the mean of :math:`w = q_\phi(x, z) / p_\theta(z|x)`.

    Nothing but its running sum is kept of the draws.  The data of a batch are repeated up to
    ``rows`` rows, so that one run of the programs makes several draws; programs that do not take
    that, such as a plate of fixed size, are run once for each draw.
    """

    def __init__(
        self,
        module: Any,
        samples: int,
        *,
        rows: int,
        data_plates: Collection[str] | None,
        seed: int,
    ) -> None:
        self._model, self._guide = sampled(module)
        self._elbo = CorExELBO(data_plates=data_plates, strict_enumeration_warning=False)
        self._samples, self._rows, self._seed = samples, rows, seed
        device, _ = place_of(module)
        self._cuda = [device] if device is not None and device.type == "cuda" else []
        self._repeats = True
        self._parts: list[Tensor] = []

    def look(self, batch: Batch, terms: CorExTerms) -> None:
        """Draws for the data of a batch, of which the plain bound has these terms.

        The random state is put back, so that the plain bound is what it is without this.

        :raises ValueError: for programs that have no weight for each datum.
        """
        with torch.random.fork_rng(devices=self._cuda), torch.no_grad():
            torch.manual_seed(0x1A_B0_5EED + 0x10001 * self._seed + len(self._parts))
            self._parts.append(self._log_mean(batch, terms.evidence))

    def log_likelihood(self) -> Tensor:
        """The bound on ln p(x) for each datum of all batches, in nats: shape ``(N,)``."""
        return torch.cat(self._parts)

    def _log_mean(self, batch: Batch, plain: Evidence) -> Tensor:
        found, left = None, self._samples
        while left:
            copies = min(left, max(1, self._rows // plain.size)) if self._repeats else 1
            draws = self._several(batch, plain, copies) if copies > 1 else None
            if draws is None:
                copies, draws = 1, self._draw(batch, plain, 1)
            draws = draws.logsumexp(0)
            found = draws if found is None else torch.logaddexp(found, draws)
            left -= copies
        assert found is not None
        if bool(found.isnan().any()):
            raise ValueError(
                f"The importance weights of {int(found.isnan().sum())} data are NaN. "
                + self._elbo.describe_non_finite()
            )
        return found - math.log(self._samples)

    def _several(self, batch: Batch, plain: Evidence, copies: int) -> Tensor | None:
        """As :meth:`_draw`; nothing, from now on, where the programs do not take it."""
        try:
            return self._draw(batch.map(lambda x: _repeat(x, copies)), plain, copies)
        except Exception:  # whatever it is: if it is no fault of the repetition, it will come again
            self._repeats = False
            return None

    def _draw(self, batch: Batch, plain: Evidence, copies: int) -> Tensor:
        """One draw for each row: the logarithms of their weights, shape ``(copies, B)``."""
        self._elbo.differentiable_loss(self._model, self._guide, *batch.args, **batch.kwargs)
        evidence = self._elbo.last_terms.evidence
        shared = {t.site for t in evidence.sources[0].terms if t.kind == "kl" and not t.data_dims}
        if shared:
            raise ValueError(
                "importance_samples needs latents that each datum has for itself, but all data "
                f"share {', '.join(map(repr, sorted(shared)))}: a weight would be of the whole "
                "data set. Leave importance_samples out, or hold what is shared as a parameter."
            )
        for name, inputs in plain.inputs.items():
            if not torch.equal(evidence.inputs[name].values, _repeat(inputs.values, copies)):
                raise ValueError(
                    f"importance_samples needs programs that observe the same data each time they "
                    f"are run, but site {name!r} observes others. Draw what is random of the data "
                    "with transform=..., and choose data outside of the programs."
                )
        if evidence.size != copies * plain.size:
            raise ValueError(
                "importance_samples needs the terms of each datum, which the programs do not have "
                "where each latent is drawn. Leave importance_samples out."
            )
        return evidence.shares().reshape(copies, plain.size)


def _repeat(x: Tensor, copies: int) -> Tensor:
    """All rows, then all of them again: what is a mean over rows stays what it is."""
    return x.repeat(copies, *(1 for _ in x.shape[1:])) if x.dim() and copies > 1 else x

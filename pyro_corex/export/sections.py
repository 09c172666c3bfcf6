"""What the report's template asks for beyond the content: bars, films and tables of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_corex.export.content import STEPS, Content, Traversal
from pyro_corex.export.evaluated import Evaluated
from pyro_corex.export.pictures import Shape, film, png
from pyro_corex.figures import tiles
from pyro_corex.information.entropy import entropy_estimate, mean_with_entropies

COLUMNS = 20  # of a table, at most, in one picture


@dataclass(frozen=True)
class View:
    """How data are shown: as images, or as columns with names."""

    x: Tensor
    image: Shape | None
    names: Sequence[str]

    @property
    def mean(self) -> Tensor:
        """Of each column."""
        return self.x.flatten(1).mean(0).cpu()

    @property
    def scale(self) -> Tensor:
        """The standard deviation of each column."""
        return self.x.flatten(1).std(0).cpu().clamp_min(1e-12)


def bound(found: Evaluated) -> Iterator[tuple[str, float, float | None]]:
    """The terms of the bound, with standard errors where they are known."""
    terms, stated, evidence = found.terms, found.bound, found.terms.evidence
    if stated is not None:
        inputs = [(i.values, i.kind, 1.0) for i in evidence.inputs.values()]
        zeros = torch.zeros(evidence.size, dtype=torch.float64, device=inputs[0][0].device)
        entropy = mean_with_entropies(zeros, inputs)
        yield "Entropies, Σ H(x_i)", entropy.estimate, float(entropy.stderr)
        if evidence.covariate is not None:
            told = entropy_estimate(evidence.covariate, "categorical")
            yield "Entropy of what the model is told, H(y), taken off", float(told.value), None
    for kind, values, label in (
        ("reconstruction", terms.reconstruction, "Reconstruction, ⟨ln q({0}|z)⟩"),
        ("kl", terms.kl, "KL of {0}, unweighted"),
    ):
        for site, value in values.items():
            error = _error(evidence.per_datum.get((kind, site)))
            yield label.format(site), float(value.double().sum()), error
    sites = {site for _, site in evidence.per_datum}
    each = torch.stack([evidence.signed(site) for site in sites]).sum(0) if sites else None
    yield "ELBO", terms.elbo, _error(each)
    yield "Objective that is trained, weights included", terms.objective, None
    if stated is not None:
        yield "Bound on TC(x), Eq. 10", stated.estimate, stated.stderr


def _error(each: Tensor | None) -> float | None:
    """The standard error of a mean over data."""
    return None if each is None else float(each.std()) / len(each) ** 0.5


def relevance(found: Evaluated, view: View) -> Iterator[dict[str, Any]]:
    """How well the latents tell each input dimension: for each observed site, bars or a map.

    Nothing where the decoder sees x itself, and tells more than they do.
    """
    if found.bound is None or found.terms.evidence.sight().unexplained:
        return
    shown, _ = found.shown
    for site, value in found.terms.relevance.items():
        values = value.flatten().cpu()
        top = float(values.clamp_min(0).max()) or 1.0
        shares = values.clamp_min(0) / top
        image = view.image if site == shown else None
        if image is not None and len(values) == math.prod(image):
            address = png(tiles(shares.reshape(1, 1, *image).amax(2)))
            yield {"site": site, "top": top, "address": address}
            continue
        names = view.names if site == shown else [f"{site}{i}" for i in range(len(values))]
        order = values.argsort(descending=True)[:COLUMNS].tolist()
        rows = [(names[i], f"{100 * shares[i]:.1f}", f"{values[i]:.3f}") for i in order]
        yield {"site": site, "rows": rows, "many": len(values)}


def traversal(found: Traversal, view: View) -> dict[str, Any]:
    """Where a slider starts, what it is told, and what it moves: a film of images, or bars."""
    middle = (STEPS - 1) // 2
    start = middle if view.image else STEPS - middle // 2 - 1
    told: dict[str, Any] = {"positions": found.positions}
    shown = {"start": 0 if found.latent is None else start, "told": told}
    if view.image is not None:
        address, aspect = film(found.frames, view.image, 4 if found.frames.shape[1] > 4 else 1)
        return shown | {"film": address, "aspect": aspect}
    values = found.frames.flatten(2).mean(1).cpu()  # (k, d)
    scale = view.scale
    shares = ((values - view.mean) / scale / 3).clamp(-1, 1)
    moved = shares.amax(0) - shares.amin(0)
    order = moved.argsort(descending=True)[:COLUMNS].sort().values
    told["shares"] = [[round(v, 4) for v in row] for row in shares[:, order].tolist()]
    told["values"] = [list(map(_rounded, row, scale[order])) for row in values[:, order]]
    return shown | {"rows": [(view.names[j], None, "") for j in order], "many": len(moved)}


def samples(content: Content, view: View) -> dict[str, str] | list[tuple[str, ...]]:
    """New data from the prior and from the product of the marginals (Sec. 6.3).

    Of images a film for each; of tables, for each column the mean and deviation of data and each.
    """
    if view.image is not None:
        return {name: film(x[None], view.image, 8)[0] for name, x in content.samples.items()}
    mean, scale = view.mean, view.scale
    drawn = [x.double().flatten(1).cpu() for x in content.samples.values()]
    stacked = [(mean, scale), *((x.mean(0), x.std(0)) for x in drawn)]
    return [
        (name, *(f"{_rounded(m[i], scale[i])} ± {_rounded(s[i], scale[i])}" for m, s in stacked))
        for i, name in enumerate(view.names[:COLUMNS])
    ]


def _rounded(value: Tensor, scale: Tensor) -> str:
    """A value to a hundredth of the order of its scale."""
    decimals = 2 - math.floor(math.log10(float(scale)))
    rounded = round(float(value), decimals) + 0.0  # no minus zero
    return f"{rounded:.{decimals}f}" if 0 <= decimals <= 6 else f"{rounded:.3g}"

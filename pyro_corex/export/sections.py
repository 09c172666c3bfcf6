"""The sections of the report, as the tables, pictures and sentences that its template shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_corex.export.content import STEPS, Content, Latents, Traversal
from pyro_corex.export.pictures import Shape, film, png, svg
from pyro_corex.figures import (
    latent_bars,
    tiles,
    training_curves,
    variance_against_information,
    variance_distribution,
)
from pyro_corex.information.entropy import mean_with_entropies
from pyro_corex.training import History

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


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture, as an address that holds it."""

    address: str
    alt: str
    caption: str
    kind: str = ""


@dataclass(frozen=True)
class Bars:
    """A bar for each of some columns: name, width in per cent if it does not move, and value."""

    caption: str
    rows: Sequence[tuple[str, str | None, str]]


def bound(content: Content) -> Table:
    """The bound and its terms, with standard errors."""
    terms, stated = content.found.terms, content.found.bound
    evidence = terms.evidence
    rows: list[Sequence[str]] = []
    if stated is not None:
        inputs = [(i.values, i.kind, 1.0) for i in evidence.inputs.values()]
        zeros = torch.zeros(evidence.size, dtype=torch.float64, device=inputs[0][0].device)
        entropy = mean_with_entropies(zeros, inputs)
        rows.append(("Entropies, Σ H(x_i)", *_pm(entropy.estimate, float(entropy.stderr))))
    for kind, values, label in (
        ("reconstruction", terms.reconstruction, "Reconstruction, ⟨ln q({0}|z)⟩"),
        ("kl", terms.kl, "KL of {0}, unweighted"),
    ):
        for site, value in values.items():
            error = _error(evidence.per_datum.get((kind, site)))
            rows.append((label.format(site), *_pm(float(value.double().sum()), error)))
    sites = {site for _, site in evidence.per_datum}
    each = torch.stack([evidence.signed(site) for site in sites]).sum(0) if sites else None
    rows.append(("ELBO", *_pm(terms.elbo, _error(each))))
    rows.append(("Objective that is trained, weights included", *_pm(terms.objective, None)))
    if stated is not None:
        rows.append(("Bound on TC(x), Eq. 10", *_pm(stated.estimate, stated.stderr)))
    caption = f"Nats per datum, over {evidence.size or int(terms.num_data)} data"
    return Table(caption, ("Term", "nats", "standard error"), rows)


def relevance(content: Content, view: View) -> Iterator[tuple[str, Figure | Bars]]:
    """How well the latents tell each input dimension: for each observed site, bars or a map."""
    if content.found.bound is None:
        return
    shown, _ = content.found.shown
    for site, value in content.found.terms.relevance.items():
        values = value.flatten().cpu()
        top = float(values.clamp_min(0).max()) or 1.0
        image = view.image if site == shown else None
        if image is not None and len(values) == math.prod(image):
            picture = tiles((values.clamp_min(0) / top).reshape(1, 1, *image).amax(2))
            caption = f"Black is {top:.2g} nats"
            yield site, Figure(png(picture), "Relevance of each pixel", caption, "map")
            continue
        names = view.names if site == shown else [f"{site}{i}" for i in range(len(values))]
        order = values.argsort(descending=True)[:COLUMNS].tolist()
        widths = (100 * values.clamp_min(0) / top).tolist()
        rows = [(names[i], f"{widths[i]:.1f}", f"{float(values[i]):.3f}") for i in order]
        more = f", the largest {COLUMNS} of {len(values)}" if len(values) > COLUMNS else ""
        yield site, Bars(f"Nats{more}", rows)


def information(content: Content) -> Iterator[dict[str, Any]]:
    """Mutual information of each latent."""
    for found in content.latents:
        total, kl = float(found.information.sum()), float(found.kl.double().sum())
        summary = f"The sum of I(z_j : x) is {total:.2f} nats, that of the KLs {kl:.2f}."
        if found is not content.latents[-1]:
            summary += " (The KLs are those to the prior that the layer above gives.)"
        if found.total_correlation is not None:
            tc = found.total_correlation
            summary += f" TC(z) is {tc.estimate:.2f} ± {tc.stderr:.2g} nats."
        figure = None
        if len(found.information) > 1:
            address = svg(latent_bars(found.information, anchors=found.anchors))
            alt = f"Bars: mutual information of each latent of {found.site}, largest first"
            coloured = "; anchored latents are blue" if found.anchors else ""
            figure = Figure(address, alt, f"I(z_j : x) in nats, by rank{coloured}")
        yield {
            "site": found.site,
            "summary": summary,
            "figure": figure,
            "numbers": _numbers(found),
        }


def _numbers(found: Latents) -> Table:
    order = found.information.argsort(descending=True).tolist()
    split = len(found.kl) == len(found.information)
    rows = [
        (
            str(j),
            *_pm(float(found.information[j]), float(found.stderr[j])),
            f"{float(found.kl[j if split else 0]):.3f}",
            f"{float(found.weight[j if split else 0]):g}",
            f"{float(found.variance[j]):.3f}",
        )
        for j in order
    ]
    head = ("latent", "I(z_j : x)", "standard error", "KL", "KL weight", "variance")
    return Table("Nats, and variances of the aggregate posterior", head, rows)


def traversal(found: Traversal, view: View) -> dict[str, Any]:
    """A slider, and what it moves: a film of images, or bars."""
    discrete = found.latent is None
    what = f"State of {found.site}" if discrete else f"Latent {found.latent} of {found.site}"
    middle = (STEPS - 1) // 2
    start = 0 if discrete else middle if view.image else STEPS - middle // 2 - 1
    told: dict[str, Any] = {"positions": found.positions}
    shown: dict[str, Any] = {"start": start, "told": told}
    shown["label"] = f"{what}: {found.information:.2f} nats"
    if view.image is not None:
        columns = 4 if found.frames.shape[1] > 4 else 1
        address, aspect = film(found.frames, view.image, columns)
        shown["film"] = {
            "alt": f"Decoded images; the slider moves {what[0].lower()}{what[1:]}",
            "address": address,
            "aspect": f"{aspect:.4f}",
            "offset": f"{-100 * start / len(found.positions):.4f}",
        }
        return shown
    values = found.frames.flatten(2).mean(1).cpu()  # (k, d)
    scale = view.scale
    shares = ((values - view.mean) / scale / 3).clamp(-1, 1)
    moved = shares.amax(0) - shares.amin(0)
    order = moved.argsort(descending=True)[:COLUMNS].sort().values
    told["shares"] = [[round(v, 4) for v in row] for row in shares[:, order].tolist()]
    told["values"] = [
        [_rounded(v, s) for v, s in zip(row, scale[order].tolist(), strict=True)]
        for row in values[:, order].tolist()
    ]
    more = f": the {COLUMNS} that move most of {len(moved)}" if len(moved) > COLUMNS else ""
    rows = [(view.names[j], None, "") for j in order.tolist()]
    shown["bars"] = Bars(f"Decoded means{more}", rows)
    return shown


def samples(content: Content, view: View) -> Table | list[Figure] | None:
    """New data from the prior and from the product of the marginals (Sec. 6.3)."""
    if not content.samples:
        return None
    if view.image is not None:
        films = {name: film(x[None], view.image, 8)[0] for name, x in content.samples.items()}
        return [
            Figure(address, f"Samples from {name}", f"From {name}", "pixels")
            for name, address in films.items()
        ]
    mean, scale = view.mean, view.scale
    stacked = [(mean, scale)] + [
        (x.double().flatten(1).mean(0).cpu(), x.double().flatten(1).std(0).cpu())
        for x in content.samples.values()
    ]
    rows = [
        (name, *(f"{_rounded(m[i], scale[i])} ± {_rounded(s[i], scale[i])}" for m, s in stacked))
        for i, name in enumerate(view.names[:COLUMNS])
    ]
    many = len(view.names)
    more = f", first {COLUMNS} of {many} columns" if many > COLUMNS else ""
    head = ["column", "data", *(f"from {name}" for name in content.samples)]
    return Table(f"Mean ± standard deviation{more}", head, rows)


def variances(content: Content) -> Iterator[Figure]:
    """Variances of the aggregate posterior (Fig. 7)."""
    for found in content.latents:
        if found.discrete or len(found.variance) < 2:
            continue
        alt = f"Share of the latents of {found.site} with at most a variance"
        caption = f"Latents of {found.site} with at most a variance (Fig. 7a)"
        yield Figure(svg(variance_distribution(found.variance)), alt, caption)
        ax = variance_against_information(found.variance, found.information, anchors=found.anchors)
        alt = f"Variance against mutual information of each latent of {found.site}"
        caption = f"Information and variance of each latent of {found.site} (Fig. 7b)"
        yield Figure(svg(ax), alt, caption)


def layers(content: Content) -> Table | None:
    """What each layer of a stack adds (Eq. 13 to 16)."""
    stated = content.found.bound
    if stated is None or len(stated.layers) < 2:
        return None
    rows = [
        (site, *_pm(part.estimate, part.stderr), "yes" if part.estimate > 3 * part.stderr else "no")
        for site, part in zip(stated.terms.evidence.layers, stated.layers, strict=True)
    ]
    head = ("layer", "nats", "standard error", "positive beyond 3 standard errors")
    return Table("Contributions to the bound on TC(x)", head, rows)


def training(history: History | None) -> Figure | None:
    """The training history."""
    if history is None or not history.epochs:
        return None
    alt = "Curves of the training history: nats per datum over the epochs"
    caption = f"{len(history.epochs)} epochs, {history.steps} steps"
    return Figure(svg(training_curves(history)), alt, caption)


# ---------------------------------------------------------------------- numbers


def _error(each: Tensor | None) -> float | None:
    """The standard error of a mean over data."""
    return None if each is None else float(each.std()) / len(each) ** 0.5


def _pm(value: float, error: float | None) -> tuple[str, str]:
    return f"{value:.3f}", "" if error is None else f"{error:.2g}"


def _rounded(value: Tensor | float, scale: Tensor | float) -> str:
    """A value to a hundredth of the order of its scale."""
    decimals = 2 - math.floor(math.log10(float(scale)))
    rounded = round(float(value), decimals) + 0.0  # no minus zero
    return f"{rounded:.{decimals}f}" if 0 <= decimals <= 6 else f"{rounded:.3g}"

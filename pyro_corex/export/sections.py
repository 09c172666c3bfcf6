"""The sections of the report, as HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape

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
from pyro_corex.information.bound import mean_with_entropies
from pyro_corex.training import History

COLUMNS = 20  # of a table, at most, in one picture


def bound(content: Content) -> str:
    """The bound and its terms, with standard errors."""
    terms, evidence = content.terms, content.terms.evidence
    rows: list[Sequence[str]] = []
    headline = ""
    if content.bound is not None:
        inputs = [(i.values, i.kind, 1.0) for i in evidence.inputs.values()]
        zeros = torch.zeros(evidence.size, dtype=torch.float64, device=content.x.device)
        entropy = mean_with_entropies(zeros, inputs)
        rows.append(("Entropies, Σ H(x_i)", *_pm(float(entropy.value), float(entropy.stderr))))
        estimate, stderr = content.bound.estimate, content.bound.stderr
        headline = (
            '<p class="headline">The latents explain at least '
            f"<strong>{estimate:.2f} ± {stderr:.2g} nats</strong> of the total correlation.</p>"
        )
    for kind, values, label in (
        ("reconstruction", terms.reconstruction, "Reconstruction, ⟨ln q({0}|z)⟩"),
        ("kl", terms.kl, "KL of {0}, unweighted"),
    ):
        for site, value in values.items():
            each = evidence.per_datum.get((kind, site))
            error = None if each is None else float(each.std()) / len(each) ** 0.5
            rows.append((label.format(site), *_pm(float(value.double().sum()), error)))
    if evidence.per_datum:
        each = torch.stack([evidence.signed(s) for s in {n for _, n in evidence.per_datum}]).sum(0)
        rows.append(("ELBO", *_pm(terms.elbo, float(each.std()) / len(each) ** 0.5)))
    else:
        rows.append(("ELBO", *_pm(terms.elbo, None)))
    rows.append(("Objective that is trained, weights included", *_pm(terms.objective, None)))
    if content.bound is not None:
        rows.append(("Bound on TC(x), Eq. 10", *_pm(content.bound.estimate, content.bound.stderr)))
    text = headline or f'<p class="note">No bound on TC(x) is stated. {escape(content.problem)}</p>'
    caption = f"Nats per datum, over {evidence.size or int(terms.num_data)} data"
    return text + _table(caption, ("Term", "nats", "standard error"), rows)


def relevance(content: Content, image: Shape | None, names: Sequence[str]) -> str:
    """How well the latents tell each input dimension."""
    if content.bound is None or len(content.terms.relevance) != 1:
        return ""
    values = next(iter(content.terms.relevance.values())).flatten().cpu()
    text = "<p>At least so many nats do the latents tell of each input dimension (Eq. 8).</p>"
    top = float(values.clamp_min(0).max()) or 1.0
    if image is not None and len(values) == image[0] * image[1] * image[2]:
        picture = tiles((values.clamp_min(0) / top).reshape(1, 1, *image).amax(2))
        figure = _figure(png(picture), "Relevance of each pixel", f"Black is {top:.2g} nats", "map")
        return f"<h2>Input dimensions</h2>{text}{figure}"
    order = values.argsort(descending=True)[:COLUMNS].tolist()
    rows = [
        (names[i], f'<span class="track" aria-hidden="true"><i style="left:0;width:'
         f'{100 * max(0.0, float(values[i])) / top:.1f}%"></i></span>', f"{float(values[i]):.3f}")
        for i in order
    ]  # fmt: skip
    body = "".join(_bar_row(*row) for row in rows)
    more = f", the largest {COLUMNS} of {len(values)}" if len(values) > COLUMNS else ""
    return f"<h2>Input dimensions</h2>{text}{_bar_table(f'Nats{more}', body)}"


def information(content: Content) -> str:
    """Mutual information of each latent."""
    parts = []
    for found in content.latents:
        anchors = (found.weight != 1).nonzero().flatten().tolist()
        parts.append(f"<h3>{escape(found.site)}</h3>")
        total, kl = float(found.information.sum()), float(found.kl.double().sum())
        summary = f"The sum of I(z_j : x) is {total:.2f} nats, that of the KLs {kl:.2f}."
        if found is not content.latents[-1]:
            summary += " (The KLs are those to the prior that the layer above gives.)"
        if found.total_correlation is not None:
            value, error = found.total_correlation
            summary += f" TC(z) is {value:.2f} ± {error:.2g} nats."
        parts.append(f"<p>{summary}</p>")
        if len(found.information) > 1:
            address = svg(latent_bars(found.information, anchors=anchors))
            alt = f"Bars: mutual information of each latent of {found.site}, largest first"
            coloured = "; anchored latents are blue" if anchors else ""
            parts.append(_figure(address, alt, f"I(z_j : x) in nats, by rank{coloured}"))
        parts.append(f"<details><summary>All numbers of {escape(found.site)}</summary>")
        parts.append(_numbers(found) + "</details>")
    if not parts:
        return ""
    return "<h2>Mutual information of each latent</h2>" + "".join(parts)


def _numbers(found: Latents) -> str:
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
    return _table("Nats, and variances of the aggregate posterior", head, rows)


def traversals(
    content: Content, image: Shape | None, names: Sequence[str], mean: Tensor, scale: Tensor
) -> str:
    """A slider for each of the top latents."""
    if not content.traversals:
        return ""
    text = (
        "<p>The decoder's means as one latent moves and the others stay where the encoder puts "
        "them, in standard deviations of the aggregate posterior around its mean. "
        + ("Each image starts from a datum." if image else "Bars are averages over data, in "
           "standard deviations of each column around its mean; numbers are in its own units.")
        + (" For a discrete latent the layer below is drawn, with the same noise for each state."
           if any(found.latent is None for found in content.traversals) else "")
        + "</p>"
    )  # fmt: skip
    boxes = [
        _traversal(i, found, image, names, mean, scale)
        for i, found in enumerate(content.traversals)
    ]
    return f'<h2>Traversals</h2>{text}<div class="pair">{"".join(boxes)}</div>'


def _traversal(
    index: int,
    found: Traversal,
    image: Shape | None,
    names: Sequence[str],
    mean: Tensor,
    scale: Tensor,
) -> str:
    site = escape(found.site)
    what = f"Latent {found.latent} of {site}" if found.latent is not None else f"State of {site}"
    middle = (STEPS - 1) // 2
    start = 0 if found.latent is None else middle if image else STEPS - middle // 2 - 1
    told: dict[str, object] = {"positions": found.positions}
    if image is not None:
        address, aspect = film(found.frames, image, 4 if found.frames.shape[1] > 4 else 1)
        alt = f"Decoded images; the slider moves {what[0].lower()}{what[1:]}"
        body = (
            f'<div class="film" style="aspect-ratio:{aspect:.4f}"><img alt="{alt}" '
            f'src="{address}" style="transform:translateY('
            f'{-100 * start / len(found.positions):.4f}%)"></div>'
        )
    else:
        values = found.frames.flatten(2).mean(1).cpu()  # (k, d)
        shares = ((values - mean) / scale / 3).clamp(-1, 1)
        moved = shares.amax(0) - shares.amin(0)
        order = moved.argsort(descending=True)[:COLUMNS].sort().values
        told["shares"] = [[round(v, 4) for v in row] for row in shares[:, order].tolist()]
        told["values"] = [
            [_rounded(v, s) for v, s in zip(row, scale[order].tolist(), strict=True)]
            for row in values[:, order].tolist()
        ]
        blank = '<span class="track" aria-hidden="true"><i></i><b></b></span>'
        rows = "".join(_bar_row(names[j], blank, "") for j in order.tolist())
        more = f": the {COLUMNS} that move most of {len(moved)}" if len(moved) > COLUMNS else ""
        body = _bar_table(f"Decoded means{more}", rows)
    label = f"{what}: {found.information:.2f} nats"
    return (
        f'<section data-traversal aria-labelledby="t{index}"><h3 id="t{index}">'
        f'<label for="s{index}">{label}</label></h3><div class="slider">'
        f'<input id="s{index}" type="range" min="0" max="{len(found.positions) - 1}" step="1" '
        f'value="{start}"><output for="s{index}">{escape(found.positions[start])}</output></div>'
        f'{body}<script type="application/json">{_json(told)}</script></section>'
    )


def samples(
    content: Content, image: Shape | None, names: Sequence[str], mean: Tensor, scale: Tensor
) -> str:
    """New data from the prior and from the product of the marginals (Sec. 6.3)."""
    if not content.samples:
        return ""
    if image is not None:
        figures = []
        for name, x in content.samples.items():
            address, _ = film(x[None], image, 8)
            figures.append(_figure(address, f"Samples from {name}", f"From {name}", "pixels"))
        return f'<h2>Samples</h2><div class="pair">{"".join(figures)}</div>'
    head = ["column", "data", *(f"from {name}" for name in content.samples)]
    stacked = [(mean, scale)] + [
        (x.double().flatten(1).mean(0).cpu(), x.double().flatten(1).std(0).cpu())
        for x in content.samples.values()
    ]
    rows = [
        (name, *(f"{_rounded(m[i], scale[i])} ± {_rounded(s[i], scale[i])}" for m, s in stacked))
        for i, name in enumerate(names[:COLUMNS])
    ]
    more = f", first {COLUMNS} of {len(names)} columns" if len(names) > COLUMNS else ""
    return "<h2>Samples</h2>" + _table(f"Mean ± standard deviation{more}", head, rows)


def variances(content: Content) -> str:
    """Variances of the aggregate posterior (Fig. 7)."""
    figures = []
    for found in content.latents:
        if found.discrete or len(found.variance) < 2:
            continue
        anchors = (found.weight != 1).nonzero().flatten().tolist()
        alt = f"Share of the latents of {found.site} with at most a variance"
        caption = f"Latents of {found.site} with at most a variance (Fig. 7a)"
        figures.append(_figure(svg(variance_distribution(found.variance)), alt, caption))
        ax = variance_against_information(found.variance, found.information, anchors=anchors)
        alt = f"Variance against mutual information of each latent of {found.site}"
        caption = f"Information and variance of each latent of {found.site} (Fig. 7b)"
        figures.append(_figure(svg(ax), alt, caption))
    if not figures:
        return ""
    return (
        f'<h2>Variances of the aggregate posterior</h2><div class="pair">{"".join(figures)}</div>'
    )


def layers(content: Content) -> str:
    """What each layer of a stack adds (Eq. 13 to 16)."""
    if content.bound is None or len(content.bound.layers) < 2:
        return ""
    sites = content.terms.evidence.layers
    rows = [
        (site, *_pm(part.estimate, part.stderr), "yes" if part.estimate > 3 * part.stderr else "no")
        for site, part in zip(sites, content.bound.layers, strict=True)
    ]
    head = ("layer", "nats", "standard error", "positive beyond 3 standard errors")
    text = "<p>A layer pays for itself where its contribution is positive (Eq. 16).</p>"
    return "<h2>Layers</h2>" + text + _table("Contributions to the bound on TC(x)", head, rows)


def training(history: History | None) -> str:
    """The training history."""
    if history is None or not history.epochs:
        return ""
    address = svg(training_curves(history))
    alt = "Curves of the training history: nats per datum over the epochs"
    caption = f"{len(history.epochs)} epochs, {history.steps} steps"
    return "<h2>Training</h2>" + _figure(address, alt, caption)


def notes(content: Content) -> str:
    """What the evaluation warned of."""
    if not content.notes:
        return ""
    return "<h2>Notes</h2>" + "".join(
        f'<p class="note">{escape(note)}</p>' for note in content.notes
    )


# ---------------------------------------------------------------------- pieces


def _pm(value: float, error: float | None) -> tuple[str, str]:
    return f"{value:.3f}", "" if error is None else f"{error:.2g}"


def _rounded(value: Tensor | float, scale: Tensor | float) -> str:
    """A value to a hundredth of the order of its scale."""
    decimals = 2 - math.floor(math.log10(float(scale)))
    rounded = round(float(value), decimals) + 0.0  # no minus zero
    return f"{rounded:.{decimals}f}" if 0 <= decimals <= 6 else f"{rounded:.3g}"


def _figure(address: str, alt: str, caption: str, kind: str = "") -> str:
    return (
        f'<figure><img class="{kind}" src="{address}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _bar_table(caption: str, body: str) -> str:
    return (
        f'<div class="chart"><table class="bars"><caption>{escape(caption)}</caption>'
        "<thead hidden><tr>"
        '<th scope="col">column</th><th scope="col">bar</th><th scope="col">value</th>'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _bar_row(name: str, track: str, value: str) -> str:
    return f'<tr><th scope="row">{escape(name)}</th><td>{track}</td><td>{value}</td></tr>'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")

"""The sections of a report on what the latents of a program do, and how it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pyro_corex import figures
from pyro_corex.export.blocks import (
    Bars,
    Heading,
    Pair,
    Picture,
    Slider,
    Table,
    Text,
    drawn,
    error,
    nats,
)
from pyro_corex.export.content import STEPS, Content, Latents, Traversal
from pyro_corex.export.evaluated import Evaluated
from pyro_corex.export.pictures import film
from pyro_corex.export.view import COLUMNS, View, rounded
from pyro_corex.training import History


def information(found: Sequence[Latents]) -> Iterator[Any]:
    """What each latent tells, what it costs, and TC(z)."""
    if found:
        yield Text(
            "I(z_j : x) is how much a latent tells of the data; one near 0 is not used. Its KL to "
            "the prior is never smaller, but for errors of estimation, and equal where the prior "
            "is the latent's distribution over all data (Eq. 9)."
        )
    for i, one in enumerate(found):
        yield Heading(one.site)
        text = (
            f"The sum of I(z_j : x) is {one.information.sum():.2f} nats, that of the KLs "
            f"{one.kl.double().sum():.2f}."
        )
        if i < len(found) - 1:
            text += " (The KLs are those to the prior that the layer above gives.)"
        yield Text(text)
        if (tc := one.total_correlation) is not None:
            yield Text(
                f"TC(z) is in [{tc.lower:.2f}, {tc.upper:.2f}] nats. It is how much the latents "
                "depend on each other: near 0 each can be read without the others."
                + (" The data are too few for a closer upper end; the lower one is most often near."
                   if tc.open else "")
            )  # fmt: skip
        if len(one.information) > 1:
            yield drawn(
                figures.latent_bars(one.information, anchors=one.anchors),
                f"Bars: mutual information of each latent of {one.site}, largest first",
                "I(z_j : x) in nats" + ("; anchored latents are blue" if one.anchors else ""),
            )
        split = len(one.kl) == len(one.information)
        rows = []
        for j in one.information.argsort(descending=True).tolist():
            k = j if split else 0
            value, stderr = nats(one.information[j]), error(one.stderr[j])
            weight = f"{float(one.weight[k]):g}"
            rows.append((str(j), value, stderr, nats(one.kl[k]), weight, nats(one.variance[j])))
        head = ["latent", "I(z_j : x)", "standard error", "KL", "KL weight", "variance"]
        caption = "Nats, and variances of the aggregate posterior"
        yield Table(caption, head, rows, folded=f"All numbers of {one.site}")


def traversals(content: Content, view: View) -> Iterator[Any]:
    """A slider for each of the latents that tell most."""
    if not content.traversals:
        return
    text = (
        "The decoder's means as one latent moves and the others stay where the encoder puts them, "
        "in standard deviations of the aggregate posterior around its mean. "
    )
    text += (
        "Each image starts from a datum."
        if view.image
        else "Bars are averages over data, in standard deviations of each column around its mean; "
        "numbers are in its own units."
    )
    if any(of.latent is None for of in content.traversals):
        text += (
            " For a discrete latent the layer below is drawn, with the same noise for each state."
        )
    yield Text(text)
    yield Pair([_slider(of, view) for of in content.traversals])


def _slider(found: Traversal, view: View) -> Slider:
    """Where a slider starts, what it is told, and what it moves: a film of images, or bars."""
    middle = (STEPS - 1) // 2
    start = middle if view.image else STEPS - middle // 2 - 1
    start = 0 if found.latent is None else start
    what = "State of" if found.latent is None else f"Latent {found.latent} of"
    title = f"{what} {found.site}: {found.information:.2f} nats"
    told: dict[str, Any] = {"positions": found.positions}
    if view.image is not None:
        address, aspect = film(found.frames, view.image, 4 if found.frames.shape[1] > 4 else 1)
        alt = f"Decoded images; the slider moves {what[0].lower()}{what[1:]} {found.site}"
        return Slider(title, found.positions, start, told, Picture(address, alt, ""), aspect)
    values = found.frames.flatten(2).mean(1).cpu()  # (k, d)
    scale = view.scale
    shares = ((values - view.mean) / scale / 3).clamp(-1, 1)
    moved = shares.amax(0) - shares.amin(0)
    order = moved.argsort(descending=True)[:COLUMNS].sort().values
    told["shares"] = [[round(v, 4) for v in row] for row in shares[:, order].tolist()]
    told["values"] = [list(map(rounded, row, scale[order])) for row in values[:, order]]
    more = f": the {len(order)} that move most of {len(moved)}" if len(moved) > len(order) else ""
    bars = Bars(f"Decoded means{more}", [(view.names[j], None, "") for j in order])
    return Slider(title, found.positions, start, told, bars)


def variances(found: Sequence[Latents]) -> Iterator[Any]:
    """The spread of each latent over all data (Fig. 7)."""
    shown = [one for one in found if not one.discrete and len(one.variance) > 1]
    if shown:
        yield Text(
            "Of each latent, over all data. A latent of the prior's variance 1 may be one that is "
            "not used."
        )
    for one in shown:
        yield Pair([
            drawn(
                figures.variance_distribution(one.variance),
                f"Share of the latents of {one.site} with at most a variance",
                f"Latents of {one.site} with at most a variance (Fig. 7a)",
            ),
            drawn(
                figures.variance_against_information(
                    one.variance, one.information, anchors=one.anchors
                ),
                f"Variance against mutual information of each latent of {one.site}",
                f"Information and variance of each latent of {one.site} (Fig. 7b)",
            ),
        ])  # fmt: skip


def layers(found: Evaluated) -> Iterator[Any]:
    """What each layer of a stack adds (Eq. 16)."""
    if found.bound is None or len(found.bound.layers) < 2:
        return
    yield Text("A layer pays for itself where its contribution is positive (Eq. 16).")
    names = list(found.terms.evidence.layers)
    rows = [
        (name, nats(of.estimate), error(of.stderr), "yes" if of.estimate > 3 * of.stderr else "no")
        for name, of in zip(names, found.bound.layers, strict=True)
    ]
    head = ["layer", "nats", "standard error", "positive beyond 3 standard errors"]
    yield Table("Contributions to the bound on TC(x)", head, rows)


def training(history: History | None) -> Iterator[Any]:
    """The curves of the training."""
    if history is None or not history.epochs:
        return
    yield drawn(
        figures.training_curves(history),
        "Curves of the training history: nats per datum over the epochs",
        f"{len(history.epochs)} epochs, {history.steps} steps. Higher is better. Where curves "
        "still rise, more epochs would find more.",
    )

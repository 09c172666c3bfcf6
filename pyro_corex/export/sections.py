"""The sections of a report on a program, each quantity with what it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from pyro_corex import figures
from pyro_corex.export import latents
from pyro_corex.export.blocks import (
    Bars,
    Heading,
    Items,
    Pair,
    Picture,
    Section,
    Table,
    Text,
    error,
    nats,
)
from pyro_corex.export.content import Content
from pyro_corex.export.evaluated import Evaluated
from pyro_corex.export.pictures import film, png
from pyro_corex.export.view import COLUMNS, View, rounded
from pyro_corex.information.entropy import entropy_estimate, mean_with_entropies
from pyro_corex.training import History

DATA = 3  # of a table, beside their reconstructions


def of_program(content: Content, view: View, history: History | None) -> Iterator[Section]:
    """All sections of a page."""
    found = content.found
    yield Section("The bound on total correlation", list(_bound(found)))
    for title, blocks in (
        ("Data and reconstructions", _reconstructions(content, view)),
        ("Traversals", latents.traversals(content, view)),
        ("Mutual information of each latent", latents.information(content.latents)),
        ("Input dimensions", _relevance(found, view)),
        ("Samples", _samples(content, view)),
        ("Variances of the aggregate posterior", latents.variances(content.latents)),
        ("Layers", latents.layers(found)),
        ("Training", latents.training(history)),
    ):
        if made := list(blocks):
            yield Section(title, made)
    if content.notes:
        yield Section("Notes", [Text(note, "note") for note in content.notes])
    yield Section("Limits", [Items(_LIMITS)])


_LIMITS = (
    "The bound is a lower one. TC(x) may be larger, and another program may explain more of it.",
    "A standard error says how far a figure may move with other data of the same kind. It says "
    "nothing of another run of training.",
    "On data that the program was trained on, the figures are too high. Take others.",
    "I(z_j : x) cannot exceed ln N for N data. Where it comes near, more data would show more.",
    "A latent has no meaning of its own. Traversals show what it does to the decoder's output, "
    "about the data that are shown.",
)


# ---------------------------------------------------------------------- the bound


def _bound(found: Evaluated) -> Iterator[Any]:
    stated = found.bound
    yield Text(
        "The total correlation TC(x) is how much the dimensions of a datum depend on each other: 0 "
        "where they are independent. The bound is what the latents explain of it."
    )
    if stated is None:
        yield Text(f"No bound on TC(x) is stated. {found.problem}", "note")
    else:
        remarks = stated.remarks()
        begin = (
            "The bound on the total correlation is" if remarks else "The latents explain at least"
        )
        end = "." if remarks else " of the total correlation."
        value = f"{stated.estimate:.2f} ± {stated.stderr:.2g} nats"
        yield Text(Markup("{} <strong>{}</strong>{}").format(begin, value, end), "headline")
        for remark in remarks:
            yield Text(f"{remark[0].upper()}{remark[1:]}.", "note")
    rows = [
        (label, nats(value), error(stderr), what) for label, value, stderr, what in _terms(found)
    ]
    head = ["Term", "nats", "standard error", "what it is"]
    yield Table(
        f"Nats per datum, over {found.terms.evidence.size or found.terms.num_data} data", head, rows
    )


def _terms(found: Evaluated) -> Iterator[tuple[str, float, float | None, str]]:
    """The terms of the bound, with standard errors where they are known, and what they are."""
    terms, stated, evidence = found.terms, found.bound, found.terms.evidence
    if stated is not None:
        inputs = [(i.values, i.kind, 1.0) for i in evidence.inputs.values()]
        zeros = torch.zeros(evidence.size, dtype=torch.float64, device=inputs[0][0].device)
        entropy = mean_with_entropies(zeros, inputs)
        what = "how uncertain the dimensions are, each on its own"
        yield "Entropies, Σ H(x_i)", entropy.estimate, float(entropy.stderr), what
        if evidence.covariate is not None:
            told = entropy_estimate(evidence.covariate, "categorical")
            what = "how uncertain what the model is told is"
            yield (
                "Entropy of what the model is told, H(y), taken off",
                float(told.value),
                None,
                what,
            )
    for kind, values, label, what in (
        ("reconstruction", terms.reconstruction, "Reconstruction, ⟨ln q({0}|z)⟩",
         "the log-density of data under the decoder, given their latents"),
        ("kl", terms.kl, "KL of {0}, unweighted", "at most so much do latents tell of the data"),
    ):  # fmt: skip
        for site, value in values.items():
            stderr = _error(evidence.per_datum.get((kind, site)))
            yield label.format(site), float(value.double().sum()), stderr, what
    sites = {site for _, site in evidence.per_datum}
    each = torch.stack([evidence.signed(site) for site in sites]).sum(0) if sites else None
    yield "ELBO", terms.elbo, _error(each), "reconstruction less KL; at most ln q(x)"
    what = "the ELBO with the weights of the training"
    yield "Objective that is trained, weights included", terms.objective, None, what
    if stated is not None:
        what = "entropies and reconstruction, less KL"
        yield "Bound on TC(x), Eq. 10", stated.estimate, stated.stderr, what


def _error(each: Tensor | None) -> float | None:
    """The standard error of a mean over data."""
    return None if each is None else float(each.std()) / len(each) ** 0.5


# ---------------------------------------------------------------------- data


def _reconstructions(content: Content, view: View) -> Iterator[Any]:
    """Data beside what the decoder makes of their encodings."""
    if content.pairs is None:
        return
    x, again = (part.flatten(1).cpu() for part in content.pairs)
    yield Text(
        "What the decoder expects, given the mean of each datum's latents. What is lost here is "
        "lost in the latents."
    )
    if view.image is not None:
        some = torch.linspace(0, len(x) - 1, min(8, len(x))).round().long()
        pictures = torch.stack([x[some], again[some]]).flatten(0, 1)[None]
        address, _ = film(pictures, view.image, len(some))
        what = "Above data, below their reconstructions"
        yield Picture(address, what, what, "pixels")
        return
    scale = view.scale
    order = range(min(len(view.names), COLUMNS))
    agreement = [_correlation(x[:, i], again[:, i]) for i in order]
    rows = [
        (
            view.names[i], agreement[i],
            *(f"{rounded(x[n, i], scale[i])} → {rounded(again[n, i], scale[i])}"
              for n in range(min(DATA, len(x)))),
        )
        for i in order
    ]  # fmt: skip
    head = ["column", "correlation", *(f"datum {n}" for n in range(min(DATA, len(x))))]
    yield Table(
        f"Data → reconstructions; correlations over {len(x)} data{_first(order, view)}", head, rows
    )


def _correlation(a: Tensor, b: Tensor) -> str:
    both = torch.stack([a, b]).double()
    if bool((both.std(1) < 1e-9).any()):
        return ""
    return f"{float(torch.corrcoef(both)[0, 1]):.2f}"


def _first(shown: Sequence[Any], view: View) -> str:
    many = len(view.names)
    return f", first {len(shown)} of {many} columns" if many > len(shown) else ""


def _relevance(found: Evaluated, view: View) -> Iterator[Any]:
    """How well the latents tell each input dimension: for each observed site, bars or a map.

    Nothing where the decoder sees x itself, and tells more than they do.
    """
    if found.bound is None or found.terms.evidence.sight().unexplained:
        return
    yield Text("At least so many nats do the latents tell of each input dimension (Eq. 8).")
    shown, _ = found.shown
    for site, value in found.terms.relevance.items():
        values = value.flatten().cpu()
        top = float(values.clamp_min(0).max()) or 1.0
        shares = values.clamp_min(0) / top
        image = view.image if site == shown else None
        if len(found.terms.relevance) > 1:
            yield Heading(site)
        if image is not None and len(values) == math.prod(image):
            address = png(figures.tiles(shares.reshape(1, 1, *image).amax(2)))
            yield Picture(address, "Relevance of each pixel", f"Black is {top:.2g} nats", "map")
            continue
        names = view.names if site == shown else [f"{site}{i}" for i in range(len(values))]
        order = values.argsort(descending=True)[:COLUMNS].tolist()
        rows = [(names[i], f"{100 * shares[i]:.1f}", f"{values[i]:.3f}") for i in order]
        more = f", the largest {len(rows)} of {len(values)}" if len(values) > len(rows) else ""
        yield Bars(f"Nats{more}", rows)


def _samples(content: Content, view: View) -> Iterator[Any]:
    """New data from the prior and from the product of the marginals (Sec. 6.3).

    Of images a film for each; of tables, for each column the mean and deviation of data and each.
    """
    if not content.samples:
        return
    yield Text(
        "New data: latents are drawn, and decoded. The prior is what the model assumes of them; "
        "the product of the marginals is what the encoder makes of each, as though they were "
        "independent (Sec. 6.3)."
    )
    if view.image is not None:
        films = {name: film(x[None], view.image, 8)[0] for name, x in content.samples.items()}
        yield Pair(
            [
                Picture(at, f"Samples from {name}", f"From {name}", "pixels")
                for name, at in films.items()
            ]
        )
        return
    mean, scale = view.mean, view.scale
    given = [x.double().flatten(1).cpu() for x in content.samples.values()]
    stacked = [(mean, scale), *((x.mean(0), x.std(0)) for x in given)]
    rows = [
        (name, *(f"{rounded(m[i], scale[i])} ± {rounded(s[i], scale[i])}" for m, s in stacked))
        for i, name in enumerate(view.names[:COLUMNS])
    ]
    head = ["column", "data", *(f"from {name}" for name in content.samples)]
    yield Table(f"Mean ± standard deviation{_first(rows, view)}", head, rows)

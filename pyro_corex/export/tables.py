"""The sections of a report on a fitted ``CorEx``, each quantity with what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from sklearn.utils import resample

from pyro_corex import figures
from pyro_corex.estimator.summary import error, standing, upper_rows
from pyro_corex.export.blocks import (
    Heading,
    Items,
    Pair,
    Section,
    Table,
    Text,
    drawn,
    nats,
)
from pyro_corex.export.view import COLUMNS

if TYPE_CHECKING:
    from pyro_corex.estimator import CorEx

ROWS = 400  # that are drawn against latents
DATA = 3  # rows beside their reconstructions
_ALL = "All numbers"
LATENTS = 8  # with a picture of their own

_CORRECTIONS = {
    "optimism": "what so many parameters find in noise (Akaike 1973)",
    "held-out rows": "what the rows of each fold, held out, have less",
    "marginals": "entropies of columns as the model has them, in place of estimated ones",
    "completion": "the mean over several draws of missing entries",
    "layers above": "what the layers above add (Eq. 15)",
}
_LIMITS = (
    "The figure is a lower bound on the total correlation: another number of latents, or of "
    "another kind, may explain more.",
    "Errors say how far a figure may move with other rows of the same kind. Loadings, correlations "
    "of latents, reliabilities and classes have theirs after CorEx.bootstrap.",
    "A latent says that columns agree, not why. Neither its name nor a cause is in the data.",
    "Latents have a sign and an order by convention only: turn both round, and the model is the "
    "same.",
    "What columns share without meaning to, as copies and sums of each other do, counts, too. See "
    "the remarks on how the columns were read.",
)


def of_table(corex: CorEx, X: Any, seed: int) -> Iterator[Section]:
    """All sections of a page.

    :param X: rows with the columns that were fitted, ``(N, d)``.
    """
    yield Section("What was found", list(_found(corex)))
    for title, blocks in (
        ("How each column was read", _read(corex)),
        ("What each latent tells of each column", _map(corex)),
        ("Loadings", _loadings(corex)),
        ("Correlations of the factors", _correlations(corex)),
        ("Classes", _classes(corex)),
        ("How well the model fits", _fit(corex)),
        ("The tree", _tree(corex)),
        ("How many latents", _scree(corex)),
        ("Latents against columns", _against(corex, X, seed)),
        ("Data and reconstructions", _reconstructions(corex, X)),
    ):
        if made := list(blocks):
            yield Section(title, made)
    yield Section("Limits", [Items(_LIMITS)])


def _found(corex: CorEx) -> Iterator[Any]:
    yield Text(
        "The total correlation is how much the columns depend on each other: 0 where they are "
        "independent. Latents that explain it make the columns independent once they are known."
    )
    said = f"{corex.tc_:.2f} ± {corex.tc_stderr_:.2g} nats"
    least = "at least " if standing(corex) == "a lower bound" else ""
    text = f"The latents explain {least}<strong>{{}}</strong> of it."
    if corex.tc_ <= 2 * corex.tc_stderr_:
        text = "Nothing was found beyond the error: <strong>{}</strong>."
    yield Text(Markup(text).format(said), "headline")
    yield Text(corex.summary(), "listing")
    bound = getattr(corex, "bound_", None)  # which is in no file
    rows = [] if bound is None else [("The bound on these rows", nats(bound.estimate), "Eq. 10")]
    for name, value in corex.corrections_.items():
        rows.append((name, nats(value), _CORRECTIONS.get(name, "")))
    rows.append(("Total correlation that is explained", nats(corex.tc_), "the sum"))
    yield Table("Nats", ["", "nats", "what it is"], rows, folded="From the bound to this figure")


def _read(corex: CorEx) -> Iterator[Any]:
    described = corex.description_
    yield Text(
        "A column's kind decides what its likelihood is. Where a kind is wrong, say so by kinds, "
        "levels or missing, and fit again."
    )
    for note in described.notes:
        yield Text(note, "note")
    rows = [
        (
            c.name,
            c.kind,
            f"{c.missing / described.n_rows:.0%}" if c.missing else "0",
            c.shown,
            c.why,
        )
        for c in described.columns
    ]
    many = len(rows)
    caption = f"{described.n_rows} rows, {many} columns"
    head = ["column", "kind", "missing", "values", "why"]
    yield Table(caption, head, rows, folded="All columns" if many > COLUMNS else "")


def _map(corex: CorEx) -> Iterator[Any]:
    yield Text(
        "The mutual information of a column with a latent says how much better the column is known "
        "once the latent is known: 0 nats where it tells nothing; 0.69 nats are one bit."
    )
    alt = "Heat map: the mutual information of each column with each latent"
    yield drawn(figures.information_map(corex), alt, "Nats; columns of one latent are together")
    rows = [
        (c.name, str(j) if j >= 0 else "none", *(f"{value:.2f}" for value in corex.mis_[:, i]))
        for i, (c, j) in enumerate(zip(corex.columns_, corex.clusters_, strict=True))
    ]
    head = ["column", "latent", *map(str, range(corex.n_hidden_))]
    yield Table("Nats", head, rows, folded=_ALL)


def _loadings(corex: CorEx) -> Iterator[Any]:
    if (loadings := getattr(corex, "loadings_", None)) is None:
        return
    yield Text(
        "A loading says which way a column moves with a latent, and how far, both in standard "
        "deviations and with the other latents held. A communality is the share of a column's "
        "variance that all latents explain."
    )
    alt = "Heat map: the loading of each column on each latent"
    yield drawn(figures.loadings(corex), alt, "Blue is positive, red negative")
    rows = [
        (
            c.name,
            *(_with(corex, "loadings_", i, j) for j in range(loadings.shape[1])),
            _with(corex, "communalities_", i),
        )
        for i, c in enumerate(corex.columns_)
    ]
    head = ["column", *map(str, range(corex.n_hidden_)), "communality"]
    yield Table("Loadings and communalities", head, rows, folded=_ALL)


def _correlations(corex: CorEx) -> Iterator[Any]:
    among = getattr(corex, "factor_correlations_", None)
    if among is None or len(among) < 2:
        return
    yield Text(
        "Latents may go together. Where two of them correlate strongly, they may be two sides of "
        "one."
    )
    m = range(len(among))
    rows = [(str(j), *(_with(corex, "factor_correlations_", j, k) for k in m)) for j in m]
    yield Table("Correlations", ["latent", *map(str, range(len(among)))], rows)


def _classes(corex: CorEx) -> Iterator[Any]:
    if not hasattr(corex, "class_profiles_"):
        return
    yield Text(
        "A latent puts each row into one of its classes. The percentage is the share of the rows "
        "in a class. Bars are the probabilities of a column's levels in it; points are means of "
        "numbers, lines a standard deviation to both sides, over the column's whole range."
    )
    shown = min(corex.n_hidden_, LATENTS)
    for j in range(shown):
        if (corex.clusters_ == j).any():
            yield Heading(f"Latent {j}")
            alt = f"The columns of latent {j} in each of its classes"
            caption = "Of its columns, those first of which it tells most"
            yield drawn(figures.class_profiles(corex, j), alt, caption)
    if shown < corex.n_hidden_:
        yield Text(f"These are the first {shown} of {corex.n_hidden_} latents.")


def _fit(corex: CorEx) -> Iterator[Any]:
    if (fit := getattr(corex, "fit_", None)) is None:
        return
    yield Text(
        "What the model says of the table beside what the table is. A large residual says that two "
        "columns share more than their latents."
    )
    yield Text(str(fit), "listing")
    if not hasattr(corex, "omega_"):
        return
    yield Text(
        "Reliability is the share of the variance of a latent's columns, summed, that the latents "
        "explain (omega), or would if its columns were alike (alpha)."
    )
    rows = [
        (str(j), _with(corex, "omega_", j), _with(corex, "alpha_", j))
        for j in range(len(corex.omega_))
    ]
    yield Table("Reliability", ["latent", "omega", "alpha"], rows)


def _with(corex: CorEx, name: str, *at: int) -> str:
    """An entry of a figure, and its error where there is one; nothing for NaN."""
    value = getattr(corex, name)[at]
    return "" if np.isnan(value) else f"{value:.2f}{error(corex, name, *at)}"


def _tree(corex: CorEx) -> Iterator[Any]:
    yield Text(
        "Each column hangs on the latent that tells most of it, each latent on the one above. "
        "Thick lines tell much. Columns without a line have no latent."
    )
    yield drawn(figures.hierarchy(corex), "Tree of columns and latents", "From columns to layers")
    if corex.upper_ is not None:
        rows = [(*map(str, r[:3]), nats(r[3]), nats(r[4])) for r in upper_rows(corex)]
        head = ["layer", "latent", "latent below", "nats", "standard error"]
        yield Table("What latents of the layers above tell of those below", head, rows, folded=_ALL)


def _scree(corex: CorEx) -> Iterator[Any]:
    if getattr(corex, "scree_", None) is None:
        return
    yield Text(
        "Eigenvalues of the correlations of the columns, largest first, and what noise of the same "
        f"size reaches in 1 of 20 cases. {corex.scree_.n_above} are above it, which is a first "
        "answer to how many latents there are."
    )
    alt = "Lines: eigenvalues of the table and of noise"
    yield drawn(figures.scree(corex), alt, "Parallel analysis (Horn 1965)")


def _against(corex: CorEx, X: Any, seed: int) -> Iterator[Any]:
    if corex.latent == "categorical":
        return  # whose profiles say more
    some = _some(X, ROWS, seed)
    yield Text(
        "Each latent over the column of which it tells most"
        + (f", for {ROWS} rows drawn at random." if _size(X) > ROWS else ".")
    )
    shown = range(min(corex.n_hidden_, LATENTS))
    name = [corex.columns_[int(corex.mis_[j].argmax())].name for j in shown]
    yield Pair([
        drawn(
            figures.latent_against_column(corex, some, j),
            f"Latent {j} against {name[j]}",
            f"Latent {j} against {name[j]}: {corex.mis_[j].max():.2f} nats",
        )
        for j in shown
    ])  # fmt: skip


def _reconstructions(corex: CorEx, X: Any) -> Iterator[Any]:
    some = X[:DATA]
    given = corex._read(some)
    again = np.asarray(corex.inverse_transform(corex.transform(some)), dtype=object)
    order = [i for i, c in enumerate(corex.columns_) if c.varies]
    rows = []
    for i in order[:COLUMNS]:
        column = corex.columns_[i]
        words = dict(zip(column.values.tolist(), column.labels or column.values, strict=True))
        pairs = zip(given[:, i].tolist(), again[:, i], strict=True)
        row = [f"{_shown(words.get(a, a))} → {_shown(b)}" for a, b in pairs]
        rows.append([column.name, *row])
    yield Text("Rows, and what the model expects of them when it knows their latents alone.")
    more = f", first {len(rows)} of {len(order)} columns" if len(order) > len(rows) else ""
    head = ["column", *(f"row {n}" for n in range(len(given)))]
    yield Table(f"Data → reconstructions{more}", head, rows)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "missing" if value is None or value != value else f"{value:.4g}"


def _size(X: Any) -> int:
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def _some(X: Any, number: int, seed: int) -> Any:
    """Some of the rows, whatever the table is."""
    if _size(X) <= number:
        return X
    return resample(X, replace=False, n_samples=number, random_state=seed)

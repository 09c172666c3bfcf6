"""The fitted estimator in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from pyro_corex.information import Bracket

_PM = "\N{PLUS-MINUS SIGN}"


def summarise(e: Any, n_columns: int) -> str:
    """See :meth:`pyro_corex.CorEx.summary`."""
    kinds = Counter(column.kind for column in e.columns_)
    mixture = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    latents = f"{e.n_hidden_} {e.latent} latent" + "s" * (e.n_hidden_ != 1)
    explain = "explain" + "s" * (e.n_hidden_ == 1)
    total = _nats(e.tc_, e.tc_stderr_)
    lines = [
        f"CorEx of {e.n_samples_} rows and {len(e.columns_)} columns ({mixture}), "
        f"{e.missing_:.1%} missing.",
        *_weighted(e),
        f"{latents} {explain} {total} of total correlation ({standing(e)})."
        if e.tc_ > 2 * e.tc_stderr_
        else f"{latents}: no total correlation, {total}.",
        *_nothing(e),
        *_below_zero(e),
        _how(e),
        "Total correlation is what the columns tell of each other; a nat is 1.44 bits. Behind "
        f"{_PM} is the standard error.",
    ]
    if e.style_tc_ > 0:
        lines.append(
            f"A style of answering (agreeing with everything): {e.style_tc_:.2f}"
            f"{error(e, 'style_tc_')} nats of the total."
        )
    if e.n_hidden_ > 1:
        lines.append(apart(e.tc_z_))
    lines.append("What each latent adds, and what it tells of its columns, in nats:")
    names = [str(column.name) for column in e.columns_]
    lines += _latents(e, names, n_columns)
    lines += _no_latent(e, names, n_columns)
    lines += _layers(e, n_columns)
    lines.append(str(e.fit_))
    if e.latent == "gaussian" and not np.isnan(e.omega_).all():
        lines.append(
            "Omega and alpha say how reliable the sum of a latent's columns is, from 0 to 1; "
            "columns that load negatively are turned first."
        )
    return "\n".join(lines)


def apart(tc: Bracket) -> str:
    """What TC(z) says of the latents, and its limits."""
    few = " The rows are too few for a closer upper end; the lower one is most often near."
    return (
        f"TC(z), what the latents tell of each other: from {tc.lower:.2f} to {tc.upper:.2f} nats. "
        "Near 0 each can be read without the others." + (few if tc.open else "")
    )


def standing(e: Any) -> str:
    """What the total is: "a lower bound", or why it is none."""
    more = e.corrections_.get("marginals", 0.0)
    if more <= max(2 * e.tc_stderr_, 0.05 * e.tc_):
        return "a lower bound"
    return (
        f"no bound: {more:.2f} nats of this correct for columns that repeat values or are not "
        f"normal; {e.tc_ - more:.2f} without them"
    )


def _latents(e: Any, names: list[str], n_columns: int) -> list[str]:
    """A line for each latent of a layer; ``names`` are those of what it explains."""
    lines = []
    for j, (tc, stderr) in enumerate(zip(e.tcs_, e.tcs_stderr_, strict=True)):
        own = np.flatnonzero(e.clusters_ == j)
        own = own[np.argsort(-e.mis_[j, own], kind="stable")]
        shown = [
            f"{names[i]} ({e.mis_[j, i]:.2f} {_PM} {e.mis_stderr_[j, i]:.2f})"
            for i in own[:n_columns]
        ]
        more = f" and {len(own) - n_columns} more" if len(own) > n_columns else ""
        lines.append(f"  {j}: {_nats(tc, stderr)}. {', '.join(shown) or 'no column'}{more}.")
        if e.latent == "categorical":
            sizes = ", ".join(
                f"{size:.0%}{error(e, 'class_sizes_', j, k, form='.0%')}"
                for k, size in enumerate(e.class_sizes_[j])
            )
            lines.append(f"     classes of {sizes} of the rows")
        elif not np.isnan(e.omega_[j]):
            alpha = f", alpha {e.alpha_[j]:.2f}{error(e, 'alpha_', j)}"
            alpha = "" if np.isnan(e.alpha_[j]) else alpha
            lines.append(f"     omega {e.omega_[j]:.2f}{error(e, 'omega_', j)}{alpha}")
    return lines


def error(e: Any, name: str, *at: int, form: str = ".2f") -> str:
    """The standard error of an entry of a figure, where :meth:`~pyro_corex.CorEx.bootstrap` has
    found it.
    """
    if (found := getattr(e, f"{name}stderr_", None)) is None:
        return ""
    for index in at:
        found = found[index]
    return f" {_PM} {found:{form}}"


def _no_latent(e: Any, names: list[str], n_columns: int) -> list[str]:
    """The columns that vary, but belong to no latent."""
    own = [i for i in np.flatnonzero(e.clusters_ < 0) if e.columns_[i].varies]
    if not own:
        return []
    more = f" and {len(own) - n_columns} more" if len(own) > n_columns else ""
    shown = ", ".join(names[i] for i in own[:n_columns])
    chance = "  Columns that belong to no latent, as what they tell may be chance"
    return [f"{chance}: {len(own)} ({shown}{more})."]


def _layers(e: Any, n_columns: int) -> list[str]:
    """What the layers above add, and their latents."""
    if e.upper_ is None:
        return []
    parts = zip(e.layer_tcs_, e.layer_tcs_stderr_, strict=True)
    shares = " + ".join(
        f"{tc:.2f} {_PM} {error:.2f}" if tc > 2 * error else "nothing" for tc, error in parts
    )
    lines = [f"By layer, from the columns upwards: {shares}."]
    upper, level = e.upper_, 2
    while upper is not None:
        lines.append(f"Layer {level}, which explains the latents of layer {level - 1}:")
        below = [f"latent {i}" for i in range(len(upper.columns_))]
        lines += _latents(upper, below, n_columns)
        upper, level = upper.upper_, level + 1
    return lines


def upper_rows(e: Any) -> list[tuple[Any, ...]]:
    """The layers above as a table: layer, latent, the latent below, what it tells of it in nats and
    the standard error, and whether that belongs to it.
    """
    rows: list[tuple[Any, ...]] = []
    upper, level = e.upper_, 2
    while upper is not None:
        for j, i in np.ndindex(*upper.mis_.shape):
            told = float(upper.mis_[j, i]), float(upper.mis_stderr_[j, i])
            rows.append((level, j, i, *told, int(upper.clusters_[i] == j)))
        upper, level = upper.upper_, level + 1
    return rows


def _weighted(e: Any) -> list[str]:
    if e.n_effective_ == e.n_samples_:
        return []
    return [f"The rows have weights, by which they count as {e.n_effective_:.0f}."]


def _nothing(e: Any) -> list[str]:
    """That no number of latents is better than none."""
    if not e._nothing:
        return []
    return ["No number of latents explains rows that were held out: the columns look independent."]


def _below_zero(e: Any) -> list[str]:
    """What a lower bound below 0 says, as no TC(x) is."""
    if e.tc_ >= -2 * e.tc_stderr_:
        return []
    return [
        "A lower bound below 0 says nothing: what was found in some rows does not hold for the "
        f"others. Either there is nothing to find, or {e.n_samples_} rows are too few for "
        f"{e.n_hidden_} latents: try fewer."
    ]


def _how(e: Any) -> str:
    """How what is learned of noise was taken off."""
    if e.n_folds_ == 1:
        return f"{e.n_samples_} rows say nothing of that: at least 10 are needed."
    if e.n_folds_:
        return f"Measured on rows held out, in {e.n_folds_} folds: they are few for the parameters."
    return "The optimism of the fit is taken off, by Akaike's formula."


def _nats(value: float, stderr: float) -> str:
    """In words where a bound says nothing."""
    shown = f"{value:.2f} {_PM} {stderr:.2f}"
    if value > 2 * stderr:
        return f"{shown} nats"
    return f"nothing found beyond the error ({shown} nats)"

"""The fitted estimator in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np


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
        f"{latents} {explain} {total} of total correlation (a lower bound)."
        if e.tc_ > 2 * e.tc_stderr_
        else f"{latents}: no total correlation, {total}.",
        *_nothing(e),
        *_below_zero(e),
        _how(e),
    ]
    if e.upper_ is not None:
        layers = zip(e.layer_tcs_, e.layer_tcs_stderr_, strict=True)
        shares = " + ".join(f"{tc:.2f}" if tc > 2 * error else "nothing" for tc, error in layers)
        lines.append(f"By layer, from the columns upwards: {shares}.")
    if e.style_tc_ > 0:
        lines.append(
            f"A style of answering (agreeing with everything): {e.style_tc_:.2f} nats of these."
        )
    for j, (tc, stderr) in enumerate(zip(e.tcs_, e.tcs_stderr_, strict=True)):
        own = np.flatnonzero(e.clusters_ == j)
        own = own[np.argsort(-e.mis_[j, own], kind="stable")]
        shown = [f"{e.columns_[i].name} ({e.mis_[j, i]:.2f})" for i in own[:n_columns]]
        more = f" and {len(own) - n_columns} more" if len(own) > n_columns else ""
        lines.append(f"  {j}: {_nats(tc, stderr)}. {', '.join(shown) or 'no column'}{more}.")
    alone = sum(own < 0 and c.varies for own, c in zip(e.clusters_, e.columns_, strict=True))
    if alone:
        lines.append(f"  Of no latent, as what they tell may be chance: {alone} of the columns.")
    lines.append("In brackets: the mutual information of the column with its latent, in nats.")
    return "\n".join(lines)


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
        return f"From rows held out, in {e.n_folds_} folds: the parameters are many for the rows."
    return "Less the asymptotic optimism of the fit: the parameters are few for the rows."


def _nats(value: float, stderr: float) -> str:
    """In words where a bound says nothing."""
    shown = f"{value:.2f} \N{PLUS-MINUS SIGN} {stderr:.2f}"
    if value > 2 * stderr:
        return f"{shown} nats"
    return f"nothing found beyond the error ({shown} nats)"

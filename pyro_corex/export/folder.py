"""What a fitted table leaves in a folder: the summary, tables that other programs read, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_corex.estimator import CorEx
from pyro_corex.estimator.summary import upper_rows
from pyro_corex.figures import class_profiles, hierarchy, information_map, latent_against_column


def write(corex: CorEx, x: Any, output: Path, beside: Any = None) -> None:
    """Writes into a folder all that was found in a table.

    :param x: the data frame that was fitted.
    :param beside: a frame with further columns of the same rows, such as ids.
    """
    output.mkdir(parents=True, exist_ok=True)
    texts = {"summary": corex.summary(), "description": str(corex.description_)}
    for name, text in texts.items():
        (output / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")
    for name, table in (tables(corex) | {"latents": scores(corex, x, beside)}).items():
        table.to_csv(output / f"{name}.csv", index=False)
    figures: dict[str, Any] = {"information": information_map(corex), "hierarchy": hierarchy(corex)}
    for j in range(corex.n_hidden_):
        classes = hasattr(corex, "class_profiles_") and (corex.clusters_ == j).any()
        own = class_profiles(corex, j) if classes else latent_against_column(corex, x, j)
        figures[f"latent_{j}"] = own
    for name, ax in figures.items():
        ax.figure.savefig(output / f"{name}.png", dpi=150)


def scores(corex: CorEx, x: Any, beside: Any = None) -> Any:
    """The latents of each row, behind the columns that tell which row it is.

    :param x: a data frame with the columns that were fitted.
    :param beside: a frame of the same rows: the columns of it that were not fitted, or were left
        out, as ids are, stand first.
    :returns: a data frame.
    """
    import pandas

    found = pandas.DataFrame(corex.transform(x), columns=_latents(corex.n_hidden_), index=x.index)
    if beside is None:
        return found
    used = {column.name for column in corex.columns_ if column.kind != "left out"}
    labels = beside.drop(columns=used, errors="ignore")
    return labels.convert_dtypes().join(found)  # whole numbers as such


def tables(corex: CorEx) -> dict[str, Any]:
    """Data frames by name; errors have ``_stderr`` behind the name of what they are of."""
    import pandas

    m = corex.n_hidden_
    columns = {"column": [c.name for c in corex.columns_]}
    about = columns | {"kind": [c.kind for c in corex.columns_], "latent": corex.clusters_}
    told = dict(zip(_latents(m), corex.mis_, strict=True))
    errors = dict(zip(_latents(m, "_stderr"), corex.mis_stderr_, strict=True))
    totals = {"latent": np.arange(m), "tc_nats": corex.tcs_, "stderr": corex.tcs_stderr_}
    found = {"columns": about | told | errors, "totals": totals}
    if hasattr(corex, "loadings_"):
        parts = _loadings(corex, "") | _loadings(corex, "_stderr")
        found["loadings"] = columns | parts
        among = dict(zip(_latents(m), np.transpose(corex.factor_correlations_), strict=True))
        found["correlations"] = {"latent": np.arange(m)} | among
    frames = {name: pandas.DataFrame(table) for name, table in found.items()}
    if hasattr(corex, "class_profiles_"):
        frames["classes"] = pandas.DataFrame(_classes(corex))
    if corex.upper_ is not None:
        header = ["layer", "latent", "latent_below", "nats", "stderr", "belongs"]
        frames["layers"] = pandas.DataFrame(upper_rows(corex), columns=header)
    return frames


def _latents(m: int, what: str = "") -> list[str]:
    return [f"latent_{j}{what}" for j in range(m)]


def _loadings(corex: Any, what: str) -> dict[str, Any]:
    """Loadings and communalities, or their errors where these are known."""
    behind = "stderr_" if what else ""
    if not hasattr(corex, f"loadings_{behind}"):
        return {}
    loadings = getattr(corex, f"loadings_{behind}")
    own = dict(zip(_latents(loadings.shape[1], what), loadings.T, strict=True))
    return own | {f"communality{what}": getattr(corex, f"communalities_{behind}")}


def _classes(corex: Any) -> list[dict[str, Any]]:
    """The size of each class; and of each column of the latent what it is in the class."""
    described = {column.name: column for column in corex.columns_}
    errors = getattr(corex, "class_profiles_stderr_", None)
    rows = []
    for j, (sizes, profiles) in enumerate(
        zip(corex.class_sizes_, corex.class_profiles_, strict=True)
    ):
        for s, size in enumerate(sizes):
            row = {"latent": j, "class": s, "size": size}
            for name, values in profiles.items():
                column = described[name]
                words = column.labels or [f"{value:g}" for value in column.values]
                levels = words if column.n_levels else ["mean", "standard deviation"]
                for k, level in enumerate(levels):
                    own = row | {"column": name, "level": level, "value": values[s, k]}
                    known = {} if errors is None else {"stderr": errors[j][name][s, k]}
                    rows.append(own | known)
    return rows

"""What a user tells of columns: kinds, the order of words, codes of missing entries, anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyro_corex.estimator.columns import Array

USER_KINDS = ("binary", "categorical", "ordinal", "counts", "continuous")


def read_missing(missing: Any, names: Sequence[Any]) -> dict[int, set[str]]:
    """Codes of missing entries, as text, by column index.

    :raises ValueError: for columns that there are not.
    :raises TypeError: for what is no list of numbers or words, or mapping to such.
    """
    if missing is None:
        return {}
    given = missing.items() if isinstance(missing, Mapping) else [(None, missing)]
    found: dict[int, set[str]] = {}
    for key, codes in given:
        several = [codes] if isinstance(codes, (str, int, float, np.number)) else codes
        if not isinstance(several, (list, tuple, set, frozenset, np.ndarray)) or any(
            not isinstance(code, (str, int, float, np.number)) for code in several
        ):
            raise TypeError(
                "missing must be a list of numbers or words that stand for missing entries, such "
                f"as [-99, 'refused'], or a mapping from columns to such, but got {missing!r}"
            )
        own = range(len(names)) if key is None else [find_column(key, names, "missing")]
        for i in own:
            found.setdefault(i, set()).update(as_code(code) for code in several)
    return found


def as_code(value: Any) -> str:
    """A number or word as the text by which codes are compared."""
    try:
        return f"{float(value):.12g}"
    except ValueError:
        return str(value).strip().casefold()


def read_levels(levels: Any, names: Sequence[Any]) -> dict[int | None, list[str]]:
    """Words from least to most by column index; by None what is told for all columns.

    :raises ValueError: for columns that there are not, and words that are there twice.
    :raises TypeError: for what is no list of words, or mapping to such.
    """
    if levels is None:
        return {}
    given = levels.items() if isinstance(levels, Mapping) else [(None, levels)]
    found: dict[int | None, list[str]] = {}
    for key, words in given:
        if not isinstance(words, (list, tuple, np.ndarray)) or len(words) < 2:
            raise TypeError(
                "levels must be a list of words from least to most, such as ['low', 'high'], or a "
                f"mapping from columns to such lists, but got {levels!r}"
            )
        own = [str(word).strip() for word in words]
        if len(set(own)) < len(own):
            raise ValueError(f"levels must name each word once, but got {own}")
        found[None if key is None else find_column(key, names, "levels")] = own
    return found


def read_kinds(kinds: Any, names: Sequence[Any]) -> dict[int, str]:
    """The kinds that a user told, by column index.

    :raises ValueError: for kinds, columns or numbers of columns that there are not.
    :raises TypeError: for another type.
    """
    if kinds is None or (isinstance(kinds, str) and kinds == "auto"):
        return {}
    if isinstance(kinds, str):
        told = dict.fromkeys(range(len(names)), kinds)
    elif isinstance(kinds, Mapping):
        told = {find_column(key, names, "kinds"): kind for key, kind in kinds.items()}
    elif isinstance(kinds, (list, tuple, np.ndarray)):
        if len(kinds) != len(names):
            raise ValueError(
                f"kinds has {len(kinds)} entries, but the table has {len(names)} columns. Give one "
                "for each, or a mapping from some columns to their kinds."
            )
        told = {i: kind for i, kind in enumerate(kinds) if kind not in (None, "auto")}
    else:
        raise TypeError(
            "kinds must be 'auto', one kind, a list with one for each column or a mapping from "
            f"columns to kinds, but got {type(kinds).__name__}"
        )
    for i, kind in told.items():
        if kind not in USER_KINDS:
            raise ValueError(
                f"The kind of column {names[i]!r} must be one of {', '.join(USER_KINDS)}, but got "
                f"{kind!r}"
            )
    return told


def find_column(key: Any, names: Sequence[Any], option: str) -> int:
    """The index of a column that is given by name or index."""
    n = len(names)
    for name in (key, str(key)):  # names that are no text, such as ("a", 1), are read as text
        if name in names:
            return list(names).index(name)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if -n <= key < n:
            return int(key) % n
        shown = f"{n} columns, 0 to {n - 1}"
    else:
        shown = ", ".join(repr(str(name)) for name in list(names)[:8]) + ", ..." * (n > 8)
    raise ValueError(f"{option} names column {key!r}, but the table has {shown}")


def read_anchors(
    anchors: Any, names: Sequence[Any], varies: Array, n_hidden: int, strength: float
) -> dict[int, dict[int, float]]:
    """Latent -> column, counted among those that vary -> strength.

    :raises ValueError: for latents or columns that there are not, strengths below 1, and a column
        that is constant or anchored twice.
    :raises TypeError: for what is no mapping.
    """
    if anchors is None:
        return {}
    if not isinstance(anchors, Mapping):
        raise TypeError(
            "anchors must map latents to columns, e.g. {0: ['col_a', 'col_b']}, but got "
            f"{type(anchors).__name__}"
        )
    found: dict[int, dict[int, float]] = {}
    place = np.cumsum(varies) - 1
    for latent, columns in anchors.items():
        if not isinstance(latent, (int, np.integer)) or not 0 <= latent < n_hidden:
            raise ValueError(
                f"anchors names latent {latent!r}, but there are {n_hidden}, 0 to {n_hidden - 1}"
            )
        if isinstance(columns, (str, int, np.integer)):
            columns = [columns]
        entries = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, strength)
        if not entries:
            raise ValueError(f"anchors names no column for latent {latent}")
        own = found[int(latent)] = {}
        for key, value in entries.items():
            i = find_column(key, names, "anchors")
            if not isinstance(value, (int, float, np.number)) or not 1 <= value < np.inf:
                raise ValueError(
                    f"The strength of an anchor must be a number >= 1, but column {key!r} has "
                    f"{value!r}. It says how often the column's likelihood counts."
                )
            if not varies[i]:
                raise ValueError(
                    f"anchors names column {names[i]!r}, which is constant and tells nothing of "
                    "any latent. Leave it out."
                )
            other = next((j for j, taken in found.items() if place[i] in taken), None)
            if other is not None:
                raise ValueError(
                    f"Column {names[i]!r} is anchored to latents {other} and {latent}: a column "
                    "has one anchor."
                )
            own[int(place[i])] = float(value)
    return found

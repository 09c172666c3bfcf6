"""Columns of text: which entries are missing, which are numbers, and which words have an order."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyro_corex.estimator.columns import Array


def _texts(joined: str) -> frozenset[str]:
    return frozenset(joined.split("|"))


MISSING = _texts("|na|n/a|nan|null|<na>|nat|#n/a|#na|#null!|#div/0!|#value!|#ref!|?|.|..|-|--|–|—")
"""Text that stands for a missing entry wherever it is found."""
NO_ANSWER = _texts(
    "don't know|dont know|don’t know|do not know|dk|refused|no answer|not answered|no response|"
    "not applicable|not available|prefer not to say|prefer not to answer|missing|unknown|none|"
    "can't say|keine angabe|k.a.|weiß nicht|n.d.|nd|n.b.|err|error"
)
"""Text that stands for a missing entry beside numbers or a scale, and may be an answer else."""

_SCALES = tuple(
    tuple(tuple(step.split("|")) for step in scale.split(" < "))
    for scale in (
        "strongly disagree|disagree strongly|completely disagree|totally disagree|fully disagree < "
        "disagree|mostly disagree|disagree moderately < somewhat disagree|slightly disagree|rather "
        "disagree|tend to disagree|disagree a little < neutral|neither agree nor disagree|neither "
        "disagree nor agree|neither|undecided < somewhat agree|slightly agree|rather agree|tend to "
        "agree|agree a little < agree|mostly agree|agree moderately < strongly agree|agree strongly"
        "|completely agree|totally agree|fully agree",
        "very dissatisfied|extremely dissatisfied|very unsatisfied < dissatisfied|unsatisfied < "
        "somewhat dissatisfied|slightly dissatisfied < neutral|neither satisfied nor dissatisfied|"
        "neither < somewhat satisfied|slightly satisfied < satisfied < very satisfied|extremely "
        "satisfied",
        "very unlikely|extremely unlikely < unlikely < somewhat unlikely < neutral|neither likely "
        "nor unlikely|neither < somewhat likely < likely < very likely|extremely likely",
        "very inaccurate < moderately inaccurate|inaccurate < neither accurate nor inaccurate|"
        "neither inaccurate nor accurate|neutral|neither < moderately accurate|accurate < very "
        "accurate",
        "never|not at all < very rarely|almost never|hardly ever < rarely|seldom < sometimes|"
        "occasionally < often|frequently < very often|usually|most of the time|almost always < "
        "always|all the time",
        "none|not at all|nothing < very little < a little|little|slightly|a little bit < some|"
        "somewhat|moderately|a moderate amount < quite a bit|mostly < a lot|much|very much|very < "
        "extremely|completely",
        "not important|not at all important|unimportant < slightly important < somewhat important|"
        "moderately important < important < very important < extremely important",
        "very poor|very bad|terrible < poor|bad < fair|average|acceptable|ok < good < very good < "
        "excellent|outstanding",
        "very low|lowest < low < medium|mid|middle|moderate|average|normal < high < very high|"
        "highest",
        "very small|xs < small|s < medium|m < large|l|big < very large|xl < xxl",
    )
)
_FORMATS = ((".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", " "), (".", "'"))
_NUMBER = re.compile(r"[-+]?[$€£¥]?\s?(\d[\d.,' ]*|\.\d+)(e[-+]?\d+)?\s?[%€$£¥]?", re.IGNORECASE)
_UNIT = re.compile(
    r"([$€£¥]?)\s*([-+]?[$€£¥]?\s*[\d.,' ]*\d.*?)\s*([%€$£¥]|(?<=[\d.,\s])[a-zµ°]+)?"
)
_ODD = re.compile(r"[^\d.eE+\-\n]|(?:^|\n)[-+]?0\d")
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+")
_STEP = re.compile(
    r"(<|≤|under |below |less than |fewer than |up to |unter |bis |weniger als )?"
    r"(>|≥|over |above |more than |at least |über |mehr als )?"
    r"\s*[$€£¥]?\s*(\d+(?:[.,]\d+)*)([km]?)([^\w.,].*|[.,](?:\D.*)?)?",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?:\.\d{3})+)")
_AFTER = re.compile(r"\s*(?:(?:-|–|to|bis)\s*[\d.,]+(?:[km]\b)?)?\s*([^\W\d_]*)")
_NO_UNIT = _texts("and|or|to|up|plus|und|oder|bis")
_SIZES = {
    name: size
    for names, size in (
        ("s sec second", 1.0), ("min minute", 60.0), ("h hr hour", 3600.0), ("d day", 86_400.0),
        ("wk week", 604_800.0), ("mo month", 2_629_800.0), ("yr year", 31_557_600.0),
        ("mg", 1e-3), ("g", 1.0), ("kg k km thousand", 1e3), ("cm", 0.01), ("m million", 1e6),
    )
    for name in names.split()
}  # fmt: skip
"""Of units that may be mixed in one column, each in the smallest of its kind."""
_ENOUGH = 0.5  # of a column's entries have to be numbers, for words among them to be remarks


def plain(word: Any) -> str:
    """Text without blanks around it, typographic blanks and minus signs."""
    text = str(word).strip()
    if text.isascii():
        return text
    text = text.replace("\N{MINUS SIGN}", "-")
    return re.sub("[\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}]", " ", text)


def is_number(word: str) -> bool:
    """Whether a text is a number as somebody somewhere writes it."""
    if word[:1].isdigit() and word.isascii() and word.replace(".", "", 1).isdigit():
        return True
    return _NUMBER.fullmatch(word) is not None


@dataclass(frozen=True)
class Numerals:
    """How numbers are written: the decimal mark, and what stands between thousands."""

    decimal: str = "."
    thousands: str = ""

    def read(self, words: Sequence[str]) -> Array:
        """The numbers of texts ``(N,)``, NaN where a text is none.

        Digits after a leading 0, as of postal codes, are none.
        """
        if self == Numerals() and not _ODD.search("\n".join(words)):
            with suppress(ValueError):
                return np.array(words, dtype=str).astype(float)
        d, t = re.escape(self.decimal), re.escape(self.thousands)
        whole = rf"(?:[1-9]\d{{0,2}}(?:{t}\d{{3}})+|0|[1-9]\d*)" if t else r"(?:0|[1-9]\d*)"
        number = re.compile(rf"[-+]?(?:{whole}(?:{d}\d*)?|{d}\d+)(?:[eE][-+]?\d+)?")
        found = dict.fromkeys(words, np.nan)
        for word in found:
            if number.fullmatch(word):
                text = word.replace(self.thousands, "") if t else word
                found[word] = float(text.replace(self.decimal, "."))
        return np.array([found[word] for word in words], dtype=float)


def find_numerals(
    columns: Sequence[Sequence[str]], likely: str = ".", decimal: str | None = None
) -> tuple[list[Numerals], dict[int, str]]:
    """How the numbers in columns of text are written, and examples where that is ambiguous.

    What most of the columns agree on counts, but for a column in which it finds no numbers.

    :param likely: the decimal mark where nothing tells it from one between thousands.
    :param decimal: the decimal mark, where it is known.
    """
    few = [without_units(list(dict.fromkeys(words))[:500]) for words in columns]
    read = np.stack([_shares(words) for words in few] or [np.zeros(len(_FORMATS))], 1)
    order = [k for k, form in enumerate(_FORMATS) if decimal in (None, form[0])]
    order.sort(key=lambda k: _FORMATS[k][0] != likely)
    best = max(order, key=lambda k: round(float(read[k].sum()), 9))
    found, doubtful = [], {}
    for i, words in enumerate(few):
        own = max(order, key=lambda k: (read[k, i], k == best))
        found.append(Numerals(*_FORMATS[own]))
        if _is_clear(words):
            continue
        mine = found[-1].read(words)
        for k in order:
            if read[k, i] < read[own, i] or read[k].sum() < read[best].sum() - 1e-9:
                continue
            differ = mine != Numerals(*_FORMATS[k]).read(words)
            differ &= np.isfinite(mine)
            if differ.any():
                doubtful[i] = words[int(differ.argmax())]
    return found, doubtful


def _shares(words: list[str]) -> Array:
    """The share of numbers among texts, by format."""
    if _is_clear(words) and np.isfinite(Numerals().read(words)).all():
        return np.array([form[0] == "." for form in _FORMATS], dtype=float)
    values = [Numerals(*form).read(words) for form in _FORMATS]
    return np.isfinite(values).mean(1) if words else np.zeros(len(_FORMATS))


def _is_clear(words: list[str]) -> bool:
    """Whether a point among texts is a decimal one."""
    return any("." in w and not _GROUPED.fullmatch(w) and is_number(w) for w in words[:20])


def without_units(words: Sequence[str]) -> list[str]:
    """Numbers without the sign of a currency or the unit that all of them have."""
    if words and words[0][-1:].isdigit() and words[0][:1] not in "$€£¥":
        return list(words)
    parts = [_UNIT.fullmatch(word.casefold()) for word in words]
    if not all(parts):
        return list(words)
    units = {(part[1], part[3]) for part in parts if part}
    if len(units) > 1 or units in ({("", None)}, set()):
        return list(words)
    return [part[2].strip() for part in parts if part]


@dataclass
class Text:
    """A column of text, read: numbers, or words that may have an order."""

    values: Array
    """Numbers with NaN, or words with None, ``(N,)``."""
    numbers: bool
    order: list[str] = field(default_factory=list)
    """The words from least to most, where they have a known order."""
    why: str = ""
    remarks: list[str] = field(default_factory=list)
    """Words that are taken for missing among numbers, which somebody should be told of."""
    answers: list[str] = field(default_factory=list)
    """Words that count as answers, and may stand for missing ones."""


def read_text(raw: Array, numerals: Numerals, missing: Collection[str] = ()) -> Text:
    """Reads a column ``(N,)`` of text, in which None is missing.

    :param missing: further text that stands for a missing entry, in lower case.
    """
    words = np.array([None if v is None else plain(v) for v in raw], dtype=object)
    gone = [w is None or w.casefold() in MISSING or w.casefold() in missing for w in words]
    seen = ~np.array(gone, dtype=bool)
    known = list(words[seen])
    distinct = list(dict.fromkeys(known))
    doubtful = [w for w in distinct if w.casefold() in NO_ANSWER]
    rest = [w for w in distinct if w not in doubtful]
    numbers = dict(zip(rest, numerals.read(without_units(rest)), strict=True))
    scale = not np.isfinite(list(numbers.values())).all()
    order, whole = (known_order(rest), known_order(distinct)) if scale else ([], [])
    if order or whole:  # "none" may be one of the scale
        order, doubtful = (whole, []) if whole else (order, doubtful)
        said = f"; {_quoted(doubtful)} counted as missing" if doubtful else ""
        words[~seen | np.isin(words, doubtful)] = None
        return Text(words, False, order, f"words of a known order{said}")
    values = np.array([numbers.get(word, np.nan) for word in known])
    if len(values) and np.isfinite(values).mean() > (_ENOUGH if len(rest) else 1):
        out = np.full(len(raw), np.nan)
        out[seen] = values
        remarks = [w for w in rest if np.isnan(numbers[w])]
        said = f"numbers; {_quoted(doubtful)} counted as missing" if doubtful else ""
        return Text(out, True, why=said, remarks=remarks)
    words[~seen] = None
    return Text(words, False, answers=[w for w in doubtful if w.casefold() != "none"])


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words[:3]) + ", ..." * (len(words) > 3)


def known_order(words: Sequence[str]) -> list[str]:
    """Words from least to most, where all of them are steps of one scale or begin with numbers.

    :returns: an empty list for words without such an order.
    """
    if len(words) < 2 or all(word.isdigit() for word in words):  # as postal codes
        return []
    at = _by_numbers(words)
    if len(set(at.values())) == len(words) <= 20:
        return sorted(words, key=at.__getitem__)
    for scale in _SCALES:
        place = {name: k for k, step in enumerate(scale) for name in step}
        rank = {w: place.get(w.casefold().rstrip(".!")) for w in words}
        if None not in rank.values() and len(set(rank.values())) == len(words):
            return sorted(words, key=lambda w: rank[w] or 0)
    return []


def _by_numbers(words: Sequence[str]) -> dict[str, tuple[float, int]]:
    """The number that each word begins with, and whether it is for what is below or above it.

    :returns: an empty mapping where a word begins with none, or where marks or units may mean two
        things.
    """
    found, marks, units = {}, set(), {}
    for word in words:
        step = _STEP.fullmatch(word.casefold())
        if step is None:
            return {}
        below, above, number, unit, after = step.groups()
        grouped = bool(_THOUSANDS.fullmatch(number))
        marks |= {(mark, grouped) for mark in ".," if mark in number}
        number = re.sub("[.,]", "" if grouped else ".", number)
        if number.count(".") > 1:
            return {}
        found[word] = (float(number) * _SIZES.get(unit, 1.0), bool(above) - bool(below))
        units[word] = _unit_of(after or "")
    if len({mark for mark, _ in marks}) < len(marks):
        return {}
    if len(set(units.values()) - {""}) < 2:
        return found
    if all(unit in _SIZES for unit in units.values()):
        return {word: (at * _SIZES[units[word]], side) for word, (at, side) in found.items()}
    codes = sorted(at for at, _ in found.values())  # as of "1 never", "2 often"
    return found if codes == list(range(int(codes[0]), int(codes[0]) + len(codes))) else {}


def _unit_of(after: str) -> str:
    """The unit in what follows a number, such as "-12 months": a name of its size, or its start."""
    unit = _AFTER.match(after)
    word = "" if unit is None or unit[1] in _NO_UNIT else unit[1]
    name = word if word in _SIZES else word.rstrip("s")
    return name if name in _SIZES else name[:3]

"""Columns of text: which entries are missing, and which are numbers or words that have an order."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.scales import known_order, minus_is_answer


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

_FORMATS = ((".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", " "), (".", "'"))
_NUMBER = re.compile(
    r"[-+]?[$€£¥]?\s?(\d[\d.,' ]*|\.\d+)(e[-+]?\d+|d[-+]\d+)?\s?[%€$£¥]?", re.IGNORECASE
)
_BRACKETS = re.compile(r"\(\s*([$€£¥]?\s*\d[\d.,' ]*\s*[%€$£¥]?)\s*\)")
_SIGNED = re.compile(r"\(|[-+]\s?[$€£¥]|[-+]?\d+[.,]?\d*d[-+]\d", re.IGNORECASE)
_UNIT = re.compile(
    r"([$€£¥]?)\s*([-+]?[$€£¥]?\s*[\d.,' ]*\d.*?)\s*([%€$£¥]|(?<=[\d.,\s])[a-zµ°]+)?"
)
_ODD = re.compile(r"[^\d.eE+\-\n]|(?:^|\n)[-+]?0\d")
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+")
_ENOUGH = 0.5  # of a column's entries have to be numbers, for words among them to be remarks


def plain(word: Any) -> str:
    """Text without blanks around it, typographic blanks and minus signs."""
    text = str(word).strip()
    if text.isascii():
        return text
    if text in "–—":
        return "-"
    text = text.replace("\N{MINUS SIGN}", "-")
    return re.sub("[\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}]", " ", text)


def is_number(word: str) -> bool:
    """Whether a text is a number as somebody somewhere writes it."""
    if word[:1].isdigit() and word.isascii() and word.replace(".", "", 1).isdigit():
        return True
    return _NUMBER.fullmatch(word) is not None or _BRACKETS.fullmatch(word) is not None


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
    """Numbers without the sign of a currency or the unit that all of them have.

    Those in brackets are negative, as in accounts, if some are not in brackets.
    """
    if any(map(_SIGNED.match, words)):
        brackets = any(word[:1] != "(" for word in words)
        words = [_signed(word, brackets) for word in words]
    if words and words[0][-1:].isdigit() and words[0][:1] not in "$€£¥":
        return list(words)
    parts = [_UNIT.fullmatch(word.casefold()) for word in words]
    if not all(parts):
        return list(words)
    units = {(part[1], part[3]) for part in parts if part}
    if len(units) > 1 or units in ({("", None)}, set()):
        return list(words)
    return [part[2].strip() for part in parts if part]


def _signed(word: str, brackets: bool) -> str:
    """A number such as ($5) with its sign at its digits, and an exponent that begins with E."""
    found = _BRACKETS.fullmatch(word) if brackets else None
    word = re.sub(r"^([-+])\s?([$€£¥])", r"\2\1", "-" + found[1] if found else word)
    return re.sub(r"(?<=[\d.])[dD](?=[-+]\d)", "e", word)


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


def read_text(
    raw: Array,
    numerals: Numerals,
    missing: Collection[str] = (),
    answers: Collection[str] = (),
) -> Text:
    """Reads a column ``(N,)`` of text, in which None is missing.

    :param missing: further text that stands for a missing entry, in lower case.
    :param answers: text that never does.
    """
    words = np.array([None if v is None else plain(v) for v in raw], dtype=object)
    texts = set(words) - {None}
    minus = texts & {"-", "--"}  # which are missing, or answers
    if minus and not (minus_is_answer(texts) or all(w.casefold() in MISSING for w in texts)):
        minus = set()
    gone = [
        w is None
        or w.casefold() in missing
        or (w.casefold() in MISSING and w not in minus and w not in answers)
        for w in words
    ]
    seen = ~np.array(gone, dtype=bool)
    known = list(words[seen])
    distinct = list(dict.fromkeys(known))
    doubtful = [w for w in distinct if _is_no_answer(w) and w not in answers]
    none = [w for w in doubtful if w.casefold() == "none"]  # which may be the first step
    rest = [w for w in distinct if w not in doubtful]
    numbers = dict(zip(rest, numerals.read(without_units(rest)), strict=True))
    scale = not np.isfinite(list(numbers.values())).all()
    order = (known_order(none + rest) if none else []) or (known_order(rest) if scale else [])
    if order:
        gone_words = [w for w in doubtful if w not in order]
        said = f"; {_quoted(gone_words)} counted as missing" if gone_words else ""
        words[~seen | np.isin(words, gone_words)] = None
        beside = any(w in order for w in none) and any(c.isdigit() for w in rest for c in w)
        why = f"words of a known order{said}"
        return Text(words, False, order, why, answers=none if beside else [])
    values = np.array([numbers.get(word, np.nan) for word in known])
    if len(values) and np.isfinite(values).mean() > (_ENOUGH if len(rest) else 1):
        out = np.full(len(raw), np.nan)
        out[seen] = values
        remarks = [w for w in rest if np.isnan(numbers[w])] + none
        doubtful = [w for w in doubtful if w not in none]
        said = f"numbers; {_quoted(doubtful)} counted as missing" if doubtful else ""
        return Text(out, True, why=said, remarks=remarks)
    words[~seen] = None
    return Text(words, False, answers=[w for w in doubtful if w not in none])


def _is_no_answer(word: str) -> bool:
    """Whether a word says that there is no answer, also with a code, such as "99 - refused"."""
    text = word.casefold()
    if text in NO_ANSWER or text[-1:].isdigit():
        return text in NO_ANSWER
    label = re.sub(r"^-?\d+\W+|\W*\(-?\d+\)$", "", text)
    return label in NO_ANSWER and label != "none"


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words[:3]) + ", ..." * (len(words) > 3)

"""Words that are steps of a scale, and their order from least to most."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

_MOST = 20  # steps of a scale


def _lines(name: str) -> list[str]:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


_SCALES = tuple(
    {name: k for k, step in enumerate(line.split(" < ")) for name in step.split("|")}
    for line in _lines("scales.txt")
)
_NEVER = frozenset(("never", "nie", "jamais", "nunca"))
_NONE = frozenset(("none", "nothing", "keine", "aucun", "ninguno")) | _NEVER
_TIMES = {("tim",), ("x",), ("mal",)}  # labels
_PLUS = re.compile(r"\++|±|\+/?-|-/?\+|\(\+\)|[1-5]\+")
_UNITS: dict[str, dict[str, float]] = {}
for _line in _lines("units.txt"):
    _family, _, _sizes_of = _line.partition(": ")
    _parts = [part.split() for part in _sizes_of.split(", ")]
    _UNITS[_family] = {name: float(size) for *names, size in _parts for name in names}
_UNITS["time"] = _UNITS["clock"] | _UNITS["calendar"]
del _UNITS["time"]["m"]
_NAMES = {name for family in _UNITS.values() for name in family}


def _any(names: Collection[str]) -> str:
    """A pattern of names in singular or plural, which captures the singular."""
    long = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    short = "".join(name for name in names if len(name) == 1)
    return rf"({'|'.join(long)}|[{short}](?!\w))(?:e?s|e?n|e)?(?!\w)"


_AMOUNT = rf"([-+]?(?:\d+(?:[.,]\d+)*|\.\d+)(?:e[-+]?\d+)?)(?:\s*{_any(_NAMES)}\.?)?"
_STEP = re.compile(
    rf"{_AMOUNT}(?:(?:\s*(?:-|\b(?:to|bis|until|through|and|und|or|oder|à|a|et|ou)\b"
    r"(?: less than| under| below| unter)?)\s*|"
    rf"(?<=\d{{4}})/(?=\d\d(?:\d\d)?\b)){_AMOUNT})?(.*)"
)
_START = re.compile(
    r"(?:(<=?|≤|(?:less|fewer|lower|smaller|shorter|younger|no more|not more) than|under|below|"
    r"up to|at most|before|within|unter|bis(?: zu)?|weniger als|jünger als|höchstens|"
    r"moins de|jusqu'à|menos de|hasta)|"
    r"(>=?|≥|(?:more|greater|higher|larger|longer|older|no less|not less) than|over|above|"
    r"at least|after|since|über|ab|mehr als|älter als|mindestens|plus de|au moins|más de|al menos)|"
    r"between|from|zwischen|von|entre|de)(?: or equal to)?(?![^\W\d_])\s*"
)
_END = re.compile(
    r"\s*(?:\+(?!\s*\d)|\bplus\b|\b(?:or|and|und|oder|et|ou|y|o) (?:(less|fewer|under|below|"
    r"younger|lower|shorter|earlier|weniger|jünger|darunter|moins|menos)|more|over|above|older|up|higher|greater|"
    r"longer|later|mehr|älter|darüber|plus|más)\b(?!\s*\d))"
)
_MONEY = re.compile(r"[$€£¥]|\b(?:euro?|usd|gbp|chf|dollar)(?=s?\b)")
_PER = re.compile(rf"(?:\b(?:per|an?|each|every|pro|par|por)\b|/)\s*{_any(_UNITS['time'])}")
_SPELT = {"once": "1 time", "twice": "2 times", "daily": "1 time per day"} | {
    f"{unit}ly": f"1 time per {unit}" for unit in ("hour", "week", "month", "quarter", "year")
}
_NO_LABEL = re.compile(
    rf"\d|[/%]|\b(?:{_any(_NAMES | {'time'})}|per\b|[ap]m\b|"
    r"(?:jan(?:uary?)?|feb(?:ruary?)?|mar(?:ch)?|märz|apr(?:il)?|ma[iy]|jun[ei]?|jul[iy]?|aug(?:ust)?|"
    r"sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)\b)"
)


def known_order(words: Sequence[str]) -> list[str]:
    """Words from least to most, where all of them are steps of one scale or begin with numbers.

    :returns: an empty list for words without such an order.
    """
    if not 2 <= len(words) <= _MOST or all(word.isdigit() for word in words):  # as postal codes
        return []
    texts = [re.sub("[–—‑−]", "-", " ".join(w.casefold().replace("’", "'").split())) for w in words]
    ranks: list[Sequence[Any]] = [_by_numbers(texts), *_by_scales(texts)]
    for rank in ranks:
        if rank and len(set(rank)) == len(words):
            return [words[k] for k in sorted(range(len(words)), key=rank.__getitem__)]
    return []


def minus_is_answer(words: Collection[str]) -> bool:
    """Whether "-" beside these words is an answer, as it is beside "+" and "++"."""
    found = {word for word in words if _PLUS.fullmatch(word)}
    return len(found) > 1 or any(not word[0].isdigit() for word in found)


def _by_scales(texts: Sequence[str]) -> Iterator[list[int]]:
    """The places of texts in each scale that has them all, without numbers beside them."""
    if all(len(text) == 1 for text in texts) and "".join(texts).isalpha():
        texts = texts if set(texts) == set("sml") else ["?"]  # such as grades
    bare = [re.sub(r"^\d+\W+|\W*\(\d+\)$|[.!]+$", "", text) for text in texts]
    for scale in _SCALES:
        pairs = zip(texts, bare, strict=True)
        rank = [scale.get(text, scale.get(label)) for text, label in pairs]
        if None not in rank:
            yield [place for place in rank if place is not None]


# ---------------------------------------------------------------------- words with numbers


@dataclass(frozen=True)
class _Step:
    """Parts of a text: numbers and their units, whether it is below (-1) or above (1), the rest."""

    low: str
    unit: str | None = None
    high: str | None = None
    last: str | None = None
    side: int = 0
    per: str | None = None
    money: str = ""
    rest: str = ""

    @property
    def label(self) -> tuple[str, ...]:
        """The words that are none of these, without their endings."""
        words = re.findall(r"\d+|[^\W\d_]+|[/%°²³]", self.rest)
        return tuple(re.sub("(?<=..)(?:ies|ren|es|en|er|[eysn])$", "", word) for word in words)


def _step(text: str) -> _Step | None:
    """The parts of a text that begins with a number, or with a word for below or above it."""
    if "[" in text or "]" in text:
        pair = re.fullmatch(r"[(\[]\s*([^\s,;]+)\s*[,;]\s*([^\s,;]+)\s*[)\]]", text)
        return _Step(pair[1], high=pair[2]) if pair else None
    money = "".join(sorted(set(_MONEY.findall(text))))
    text = re.sub(_MONEY.pattern + "s?", "", text).strip()
    text = re.sub(r"^(\D+?)\s*\((\d{1,2})\)$", r"\2 \1", text)
    text = re.sub(r"(?<=\d)[ '](?=\d{3}(?!\d))", "", text)
    side = 0
    if start := _START.match(text):
        side, text = bool(start[2]) - bool(start[1]), text[start.end() :]
    first, _, more = re.sub("^(?:every|each) ", "1 time per ", text).partition(" ")
    text = f"{_SPELT.get(first, first)} {more}"
    if end := _END.search(text, 1):
        side, text = -1 if end[1] else 1, text[: end.start()] + " " + text[end.end() :]
    found = _STEP.fullmatch(text.strip())
    if found is None:
        return None
    low, unit, high, last, rest = found.groups()
    if high and len(low) == 4 and len(high) == 2:  # as of 2020-21
        high = None
    per = _PER.search(rest)
    if per:
        rest = rest[: per.start()] + rest[per.end() :]
    return _Step(low, unit, high, last, side, per and per[1], money, rest)


def _by_numbers(texts: Sequence[str]) -> list[tuple[float, int]]:
    """The number that each text begins with, and whether it is for what is below or above it.

    :returns: an empty list where a text begins with none, where what follows the numbers differs,
        and where marks or units may mean two things that give two orders.
    """
    steps = [_Step("0") if text in _NONE else _step(text) for text in texts]
    known = [s for s, text in zip(steps, texts, strict=True) if s and text not in _NONE]
    none = set(texts) & _NONE
    if None in steps or not known or not (_are_alike(known) or (not none and _are_codes(known))):
        return []
    if none and not any(s.per or s.label in _TIMES for s in known):
        single = {"1"} if any(s.high or s.side for s in known) else {s.low for s in known}
        if none & _NEVER or not {"1"} <= single <= set(map(str, range(1, 11))):
            return []  # as of "none" beside "12.5 mg", or "never" beside an age
    given = [s for s in steps if s]
    found: dict[int, list[list[tuple[float, int]]]] = {}
    for decimal, family in product(".,", _UNITS):
        with suppress(KeyError, ValueError):
            rank, grouped = _read(given, decimal, family)
            found.setdefault(grouped, []).append(rank)
    ranks = found[max(found)] if found else []
    orders = {tuple(sorted(range(len(rank)), key=rank.__getitem__)) for rank in ranks}
    return ranks[0] if len(orders) == 1 else []


def _are_alike(steps: Sequence[_Step]) -> bool:
    """Whether texts differ in nothing but numbers, units that are known and sides."""
    labels = {s.label for s in steps} - {()}
    has = {(bool(s.unit or s.last or s.per), bool(s.label)) for s in steps}
    money = {s.money for s in steps} - {""}
    if any(word.isdigit() for label in labels for word in label):  # as of "3/4" beside "1"
        labels = {s.label for s in steps}
    return len(money) < 2 and len(labels) < 2 and not {(True, False), (False, True)} <= has


def _are_codes(steps: Sequence[_Step]) -> bool:
    """Whether texts are numbers of answers, which are named, such as "1 never" and "2 often"."""
    labels = [s.label for s in steps if s.label]
    if len(set(labels)) < len(labels) or any(_NO_LABEL.search(s.rest) for s in steps):
        return False
    plain = (
        s.low.lstrip("-").isdigit() and not (s.unit or s.high or s.side or s.per or s.money)
        for s in steps
    )
    if not all(plain):
        return False
    codes = sorted(int(s.low) for s in steps)
    spaced = not any(s.rest[:1].isalpha() for s in steps)
    apart = all(re.match(r"\s*[^\w\s]|$", s.rest) for s in steps)
    return apart or (spaced and codes in (list(range(len(codes))), list(range(1, len(codes) + 1))))


def _read(steps: Sequence[_Step], decimal: str, family: str) -> tuple[list[tuple[float, int]], int]:
    """The numbers of steps in one unit with their sides, and how many have marks of thousands.

    :raises KeyError: for a unit of another family, and where it is not known which one is left out.
    :raises ValueError: for numbers with other marks, and for ranges that go down.
    """
    sizes = _sizes([name for s in steps for name in (s.unit, s.last)], family)
    sizes |= {None: 1.0} if family == "count" else {}
    times = _sizes([s.per for s in steps], "time")
    mark = "," if decimal == "." else "."
    pattern = re.compile(rf"[-+]?[1-9]\d{{0,2}}(?:[{mark}]\d{{3}})+(?:[{decimal}]\d+)?")
    ranks, grouped = [], 0
    for s in steps:
        numbers = []
        for text in (s.low, s.high or s.low):
            whole = bool(pattern.fullmatch(text))
            text = text.replace(mark, "" if whole else "?")
            if text.startswith("00"):
                raise ValueError("no number, but perhaps a decade")
            numbers.append(float(text.replace(decimal, ".")))
            grouped += whole
        low, high = numbers
        share = family != "count" or low < high  # as in "1-5k", but not in "500-1k"
        low = low and low * sizes[s.unit or (s.last if share else None)] / times[s.per]
        high = high and high * sizes[s.last or s.unit] / times[s.per]
        if low > high:
            raise ValueError("a range that goes down")
        ranks.append((low, s.side))
    return ranks, grouped


def _sizes(names: Sequence[str | None], family: str) -> dict[str | None, float]:
    """The sizes of units; that of none is the size of all others, if these are equal."""
    found: dict[str | None, float] = {name: _UNITS[family][name] for name in names if name}
    equal = set(found.values()) or {1.0}
    return found | ({None: equal.pop()} if len(equal) == 1 else {})

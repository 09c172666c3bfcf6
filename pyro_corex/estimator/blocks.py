"""A table a part at a time, so that what is made of it in passing stays small."""

from __future__ import annotations

from collections.abc import Iterator

_CELLS = 1 << 17  # entries, 1 MB in 64 bits


def blocks(count: int, each: int) -> Iterator[slice]:
    """Slices of ``count`` rows or columns, as many as hold 2^17 entries, and at least one.

    :param each: how many entries each of them has.
    """
    step = max(1, _CELLS // max(each, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))

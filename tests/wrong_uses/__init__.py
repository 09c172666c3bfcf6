"""Wrong and unusual uses of everything public, as tables; see ``test_wrong_uses.py``.

There is a table for each part of the library.  A row names what is called, says in a few words what
is unusual about the call, makes it, and says what has to come of it: a sentence of ours, a warning
of ours, or the right value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Use:
    """A call, and what has to come of it."""

    name: str
    """What is called, as ``"fit"``, ``"information.total_correlation"`` or ``"CorEx.fit"``."""
    what: str
    """What is unusual about it."""
    call: Callable[[], Any]
    says: tuple[str, ...] = ()
    """What the error or the warning has to hold: the argument, what was got, what is expected."""
    right: Callable[[Any], bool] | None = None
    """Whether the result is right; ``None`` where the call has to be refused."""

    def __str__(self) -> str:
        return f"{self.name}: {self.what}".replace(" ", "-")


def refused(name: str, what: str, call: Callable[[], Any], *says: str) -> Use:
    """A call that is answered by an error of ours that holds each of ``says``."""
    assert says, f"{name}, {what}: say what the sentence has to hold"
    return Use(name, what, call, says)


def answered(name: str, what: str, call: Callable[[], Any], right: Callable[[Any], bool]) -> Use:
    """A call that is unusual, but has a right answer and gives it without a warning."""
    return Use(name, what, call, (), right)


def warned(
    name: str, what: str, call: Callable[[], Any], right: Callable[[Any], bool], *says: str
) -> Use:
    """A call that gives the right answer, and one warning of ours that holds each of ``says``."""
    assert says, f"{name}, {what}: say what the warning has to hold"
    return Use(name, what, call, says, right)

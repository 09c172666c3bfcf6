"""SIGINT and SIGTERM: a training step is finished before they have their way."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handlers are Python's, and so can only be set in the main thread; elsewhere nothing is."""
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


class Interrupts:
    """The signal that has asked a run to stop, if one has; a second SIGINT stops at once."""

    received: int = 0

    def note(self, number: int, frame: Any) -> None:
        """A handler of signals."""
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def noted() -> Iterator[Interrupts]:
    """Notes SIGINT and SIGTERM in place of what they would do."""
    interrupts = Interrupts()
    with _handled_by(interrupts.note):
        yield interrupts


@contextmanager
def passed_on(children: Callable[[], Any]) -> Iterator[None]:
    """Hands SIGINT and SIGTERM to the processes that ``children()`` lists, which end in order."""

    def hand_on(number: int, frame: Any) -> None:
        for child in children():
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)

    with _handled_by(hand_on):
        yield


class Stopped(Exception):  # noqa: N818 -- it is no error
    """A signal has ended the run, which can go on later."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.number, self.message = number, message

    def as_signal(self) -> BaseException:
        """What the signal would have raised: ``KeyboardInterrupt``, for SIGTERM ``SystemExit``."""
        if self.number != signal.SIGTERM:
            return KeyboardInterrupt(self.message)
        print(self.message, file=sys.stderr)  # SystemExit with a code says nothing
        error = _Terminated(128 + self.number, self.message)
        error.code = 128 + self.number
        return error


class _Terminated(SystemExit):
    """Exits with a code of its own and says why."""

    def __str__(self) -> str:
        return str(self.args[1])

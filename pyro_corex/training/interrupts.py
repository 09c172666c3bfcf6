"""SIGINT and SIGTERM: a training step is finished before they have their way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
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


def hand_on(number: int, frame: Any) -> None:
    """A handler of signals that leaves them to the processes started here, which end in order."""
    for child in multiprocessing.active_children():
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, number)


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
        error = SystemExit(self.message)
        error.code = 128 + self.number
        return error

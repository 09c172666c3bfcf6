"""SIGINT and SIGTERM: a training step is finished before they have their way."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """Notes the signals that ask a run to stop; a second SIGINT stops at once.

    Handlers are Python's, and so can only be set in the main thread; elsewhere nothing is noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class Stopped(Exception):  # noqa: N818 -- it is no error
    """A signal has ended the run, which can go on later."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.number, self.message = number, message

    def reraise(self) -> None:
        """Ends as the signal would have: SIGINT as ``KeyboardInterrupt``, SIGTERM by exiting."""
        if self.number == signal.SIGTERM:
            raise _exit(128 + self.number, self.message) from None
        raise KeyboardInterrupt(self.message) from None


class _Terminated(SystemExit):
    """Exits with a code of its own and says why."""

    def __str__(self) -> str:
        return str(self.args[1])


def _exit(code: int, message: str) -> SystemExit:
    print(message, file=sys.stderr)  # SystemExit with a code says nothing
    error = _Terminated(code, message)
    error.code = code
    return error


@contextmanager
def passed_on(children: Any) -> Iterator[None]:
    """Hands SIGINT and SIGTERM to the processes that ``children()`` lists, which end in order."""

    def hand_on(number: int, frame: Any) -> None:
        for child in children():
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, hand_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

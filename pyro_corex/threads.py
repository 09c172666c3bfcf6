"""One thread at a time, where the state of the process is at stake."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_locks: dict[int, Any] = {}


@contextmanager
def alone() -> Iterator[None]:
    """Has other threads that come here wait.

    Pyro's handlers, its parameter store and torch's seed are those of the process, so that two
    runs at once would see each other's sites.  A function is wrapped with ``@alone()``.
    """
    with _locks.setdefault(os.getpid(), threading.RLock()):  # a process that was forked has its own
        yield

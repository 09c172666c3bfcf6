"""Kernels that are copies of Sphinx's process.

A page is executed in a kernel of its own.  As a new interpreter it would import for eight seconds
what this process has imported already, which is longer than most pages compute.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import multiprocessing
import os
from typing import Any

from jupyter_client.provisioning import local_provisioner

# for matplotlib reads it once; without pyplot, whose backend looks for a kernel when it is imported
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
IMPORTED = (
    "ipykernel.kernelapp", "matplotlib.axes", "pandas", "pyro.infer", "pyro_corex.estimator",
    "pyro_corex.figures", "pyro_corex.training", "scipy.stats", "sklearn.datasets", "torch._dynamo",
)  # fmt: skip


class Copy:
    """A kernel that was forked, with what Jupyter asks of a process."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], cwd: str | None = None, **_: Any) -> None:
        connection = command[command.index("-f") + 1]
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=serve, args=(connection, cwd or "."))
        self._process.start()
        self.pid = self._process.pid
        os.setpgid(self.pid, self.pid)  # signals go to the group, in which we must not be

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def serve(connection: str, folder: str) -> None:
    """The life of a kernel."""
    from ipykernel.kernelapp import IPKernelApp

    os.chdir(folder)
    asyncio.set_event_loop(asyncio.new_event_loop())
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # with which it ends
    IPKernelApp.launch_instance(argv=["-f", connection, parent, "--log-level=ERROR"])


def copy_this_process() -> None:
    """Has Jupyter start kernels in this way."""
    for name in IMPORTED:
        importlib.import_module(name)
    logging.getLogger("traitlets").setLevel(logging.WARNING)  # it has a word about each page
    local_provisioner.launch_kernel = Copy

"""``kill -9`` at random moments."""

import multiprocessing
import os
import random
import signal
import time

import torch

from pyro_corex.datasets import bundled_digits
from pyro_corex.training import checkpoint
from tests.training.programs import fit, vae, vector

EPOCHS = 30


def train(path, every_steps, **options):
    torch.set_num_threads(1)
    module = vae((64, 32, 4))
    fit(
        module, bundled_digits().x, epochs=EPOCHS, transform=torch.bernoulli, progress=False,
        checkpoint=path, every_steps=every_steps, **options,
    )  # fmt: skip
    return module


def written(path):
    """When the file was written, 0 if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


def test_killed_ten_times_and_no_different(tmp_path):
    """The parameters are those of an undisturbed run, and no file is ever half-written."""
    threads = torch.get_num_threads()
    expected = train(None, None)
    torch.set_num_threads(threads)
    path = tmp_path / "run.ckpt"
    context = multiprocessing.get_context("fork")  # a new interpreter would import for seconds
    moments = random.Random()
    steps = [0]
    for number in range(10):
        before = written(path)
        child = context.Process(target=train, args=(path, 1), kwargs={"resume": "auto"})
        child.start()
        # every other one is killed only after it has written, however slow the machine is
        while number % 2 and child.is_alive() and written(path) == before:
            time.sleep(0.001)
        end = time.monotonic() + moments.uniform(0.02, 0.3)
        while time.monotonic() < end:
            if path.exists():
                steps.append(checkpoint.read(path)["history"]["steps"])  # raises unless it is whole
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL, "it should have been killed, not have ended"
    assert steps == sorted(steps)
    assert steps[-1] > 5, "it should have got somewhere"
    resumed = train(path, None, resume="auto")
    torch.set_num_threads(threads)
    assert torch.equal(vector(resumed), vector(expected))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.ckpt"]

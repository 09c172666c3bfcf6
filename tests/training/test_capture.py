"""Recorded steps, without a GPU: a graph that calls what it was to record, and what is refused.

That CUDA's graphs give the same is tested in ``tests/test_devices.py``, where there is a GPU.
"""

import importlib
from contextlib import nullcontext
from typing import ClassVar

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import pyro_corex as pc
from pyro_corex.training import capture, replay
from tests.training.programs import (
    OPTIONS,
    At,
    Energy,
    copies,
    fit,
    stack,
    vae,
    vector,
    without_time,
)

make_runner = importlib.import_module("pyro_corex.training.fit")._runner


class Graph:
    """In the place of CUDA's: what is recorded is not run, and a replay runs it."""

    made: ClassVar[list] = []

    def __init__(self):
        self.replays = 0
        self.made.append(self)

    def record(self, step):
        self.replay_step = step

    def replay(self):
        self.replays += 1
        return self.replay_step()


def steps(loop, check):
    return capture.Recorded(loop.learner) if loop.runner.capture is True else capture.Steps()


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were made, in order."""
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(capture, "Graph", Graph)
    monkeypatch.setattr(capture, "check", lambda *_: None)
    monkeypatch.setattr(capture, "stream", lambda _: nullcontext())
    monkeypatch.setattr(capture, "recordable", nullcontext)
    monkeypatch.setattr(replay, "steps", steps)
    return Graph.made


def both(make=vae, **options):
    """The histories and parameters of a run as it is, and of one with recorded steps."""
    found = []
    for recorded in (False, True):
        module = make()
        given = {n: v() if n == "elbo" else v for n, v in options.items()}
        given = {**OPTIONS, "device": "cpu", "epochs": 5, "capture": recorded, **given}
        history = fit(module, copies(300), **given)
        found.append((history, vector(module)))
    return found


def alike(pair):
    (one, plain), (two, recorded) = pair
    torch.testing.assert_close(recorded, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two.losses, one.losses, rtol=1e-5, atol=1e-5)
    for a, b in zip(without_time(one), without_time(two), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    for site, kl in one.terms.kl.items():
        torch.testing.assert_close(two.terms.kl[site], kl, rtol=1e-4, atol=1e-5)
    assert one.steps == two.steps
    return True


WARMUP = "a weight that moves for six steps"
CASES = {
    "a VAE": (vae, {}),
    "an enumerated top": (stack, {}),
    "the penalty on TC": (vae, {"elbo": lambda: pc.CorExELBO(tc_weight=2.0)}),
    "a rate that moves": (vae, {"lr_schedule": lambda adam: CosineAnnealingLR(adam, 25)}),
    "clipping and SGD": (
        vae,
        {"optimizer": lambda p: torch.optim.SGD(p, 1e-4, momentum=0.9), "clip_norm": 5.0},
    ),
    "a transform": (vae, {"transform": lambda x: torch.bernoulli(0.9 * x)}),
    "validation": (vae, {"validation": copies(40)}),
}


@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_are_those_that_were_not(graphs, name):
    """Five epochs of four batches of 64 and one of 44, of which three each are not recorded."""
    make, options = CASES[name]
    assert alike(both(make, **options))
    assert [graph.replays for graph in graphs] == [5 * 4 - 3, 5 - 3]


def test_steps_are_taken_as_they_are_while_a_weight_moves(graphs):
    def elbo():
        weight = pc.Warmup(0.0, 3.0, steps=10)
        return pc.CorExELBO(regularizers=[pc.regularizers.TotalCorrelation(weight)])

    assert alike(both(elbo=elbo))
    assert sum(graph.replays for graph in graphs) == 25 - 10 - 3 - 3


def test_momenta_that_move_are_never_recorded(graphs):
    assert alike(both(lr_schedule=lambda adam: OneCycleLR(adam, 1e-2, 25)))
    assert graphs == []


def test_what_a_callback_changes_is_seen(graphs):
    """A regularizer's weight is a number in the graph."""
    elbos = []

    def elbo():
        elbos.append(pc.CorExELBO(tc_weight=0.0, regularizers=[Energy(0.0)]))
        return elbos[-1]

    def callback(epoch, module, record):
        elbos[-1].regularizers[0].weight = 0.1 * epoch

    assert alike(both(elbo=elbo, callback=callback, batch_size=50))
    assert [graph.replays for graph in graphs] == 5 * [6 - 3]


def test_a_rate_that_a_callback_changes(graphs):
    made = []

    def optimizer(parameters):
        made.append(torch.optim.Adam(parameters, lr=1e-2, fused=True))
        return made[-1]

    def callback(epoch, module, record):
        made[-1].param_groups[0]["lr"] *= 0.1

    assert alike(both(optimizer=optimizer, callback=callback, batch_size=50))
    assert made[-1].param_groups[0]["lr"] == pytest.approx(1e-7)
    assert not made[-1].param_groups[0]["capturable"]  # checkpoints say what was asked for


def test_nan_is_found_and_named(graphs):
    at = At(9, lambda x: x * float("nan"))
    with pytest.raises(ValueError, match=r"not finite at step 9 \(batch 9 of epoch 1\).*site 'x'"):
        fit(vae(), copies(), **{**OPTIONS, "batch_size": 32}, capture=True, transform=at)


def test_a_run_is_gone_on_with(graphs, tmp_path):
    """Within an epoch, by a run with recorded steps and by one without."""
    whole = vae()
    options = {"device": "cpu", "batch_size": 32, "progress": False}
    expected = fit(whole, copies(), epochs=2, **options)
    for recorded in (True, False):
        path = tmp_path / str(recorded)
        cut = {"checkpoint": path, "every_steps": 7, "capture": True}
        stop = At(12, lambda x: x * float("nan"))
        with pytest.raises(ValueError, match="not finite"):
            fit(vae(), copies(), epochs=2, transform=stop, **cut, **options)
        module = vae()
        goes_on = {"checkpoint": path, "resume": True, "every_steps": 7, "capture": recorded}
        history = fit(module, copies(), epochs=2, **goes_on, **options)
        torch.testing.assert_close(vector(module), vector(whole), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(history.losses, expected.losses, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_recorded_says_why(graphs, monkeypatch):
    def record(self, step):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA says more")

    monkeypatch.setattr(Graph, "record", record)
    with pytest.raises(RuntimeError, match=r"cannot be recorded .*is capturing\. A step must not"):
        fit(vae(), copies(), **OPTIONS, capture=True)


def test_a_step_that_waits_is_found_before_one_is_recorded(monkeypatch):
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with (
        pytest.raises(RuntimeError, match=r"cannot be recorded .*: called a synchronizing CUDA op"),
        capture.recordable(),
    ):
        raise RuntimeError("called a synchronizing CUDA operation")
    with pytest.raises(RuntimeError, match=r"^another$"), capture.recordable():
        raise RuntimeError("another")
    assert modes == [0, "error", 0, "error", 0]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("device", "how", "match"),
    [
        ("mps", {}, r"capture must be False with the device 'mps', .*; but got True"),
        ("cpu", {"precision": "bf16-mixed"}, r"precision=\"bf16-mixed\" on a CPU"),
        ("cuda", {"number": 2}, "capture must be False with several processes"),
        ("cuda", {"strategy": "ddp"}, "capture must be False with .* a strategy, which exchange"),
        ("cuda", {"precision": "16-mixed"}, 'with precision="16-mixed".*take "bf16-mixed"'),
        ("cuda", {"compile_networks": True}, "with compile_networks, .* give one of the two"),
    ],
)
def test_where_steps_are_not_recorded(monkeypatch, device, how, match):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=match):
        make_runner(device, pc.Devices(capture=True, **how))


class Steps:
    def step(self):
        pass


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": torch.optim.Adam}, r"optimizer must .* got Adam\. Make it with fused=True"),
        ({"optimizer": torch.optim.Adagrad}, "optimizer must keep its state .* but got Adagrad"),
        ({"kl_schedule": Steps()}, "kl_schedule must give its weight when .* but got Steps"),
    ],
)
def test_what_is_not_recorded(graphs, options, match):
    with pytest.raises(ValueError, match=match):
        fit(vae(), copies(), **OPTIONS, **options, capture=True)

"""The runner that needs torch alone, and the choice between the two."""

import sys

import pytest
import torch

import pyro_corex as pc
from pyro_corex.training.fabric import FabricRunner
from pyro_corex.training.runners import Devices, Runner
from tests.training.programs import OPTIONS, copies, vae, vector, without_time

fitting = sys.modules["pyro_corex.training.fit"]  # the package has the function of this name
make_runner = fitting._runner


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (Devices(), Runner),
        (Devices(compile_networks="eager"), Runner),
        (Devices(2), FabricRunner),
        (Devices(precision="bf16-mixed"), FabricRunner),
        (Devices(strategy="ddp"), FabricRunner),
    ],
)
def test_fabric_is_taken_where_it_is_needed(how, kind):
    assert type(make_runner("cpu", how)) is kind


def test_torchrun_needs_fabric(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert type(make_runner("cpu", Devices())) is FabricRunner


def test_both_train_alike(monkeypatch):
    plain, fabric = vae(), vae()
    options = {**OPTIONS, "optimizer": pc.Optimization(clip_norm=1.0), "validation": copies(50)}
    one = pc.fit(plain, copies(), device="cpu", **options)
    runner = FabricRunner(torch.device("cpu"), Devices())
    monkeypatch.setattr(fitting, "_runner", lambda *_: runner)
    two = pc.fit(fabric, copies(), device="cpu", **options)
    assert torch.equal(vector(plain), vector(fabric))
    assert without_time(one) == without_time(two)
    assert one.losses == two.losses


@pytest.mark.parametrize(
    ("device", "how", "match"),
    [
        ("gpu", {}, 'device must be "auto", or a device of torch .* but got .gpu'),
        ("cpu", {"precision": "16-mixed"}, 'is for CUDA, but the device is .* "bf16-mixed"'),
        ("mps", {"number": 2}, "devices=2 is for the CPU and CUDA, but not for 'mps'"),
        ("cuda", {"number": 99}, r"devices=99, but this machine has \d+ CUDA device"),
    ],
)
def test_devices_that_are_not_there(device, how, match):
    with pytest.raises(ValueError, match=match):
        make_runner(device, Devices(**how))

"""SIGINT and SIGTERM: the step is finished, and the run can go on."""

import os
import signal

import pytest
import torch

from pyro_corex.training import checkpoint
from tests.training.programs import OPTIONS, At, copies, fit, run, vae, vector


def kill(number):
    """Sends this process a signal at the third step."""

    def send(x):
        os.kill(os.getpid(), number)
        return x

    return At(3, send)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal(tmp_path, number, kind, capsys):
    path = tmp_path / "run"
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    module = vae()
    text = r"interrupted after step 3 \(batch 3 of epoch 1\).*go on from there with fit\(..., check"
    with pytest.raises(kind, match=text) as error:
        run(path, module, transform=kill(number))
    if kind is SystemExit:
        assert error.value.code == 128 + signal.SIGTERM
        assert "go on from there" in capsys.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not module.training
    module.encode(copies(4))
    assert checkpoint.read(path)["history"]["steps"] == 3
    resumed, expected = vae(), vae()
    run(path, resumed, resume=True)
    fit(expected, copies(), **OPTIONS)
    assert torch.equal(vector(resumed), vector(expected))


def test_a_signal_without_a_checkpoint():
    module = vae()
    with pytest.raises(KeyboardInterrupt, match=r"after step 3 .*No checkpoint was asked for"):
        fit(module, copies(), transform=kill(signal.SIGINT), **OPTIONS)
    assert vector(module).isfinite().all()


def test_a_second_sigint_does_not_wait():
    def twice(x):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it should have stopped")

    with pytest.raises(KeyboardInterrupt):
        fit(vae(), copies(), transform=At(3, twice), **OPTIONS)

"""Two processes on the CPU (DDP on gloo)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex.training import checkpoint
from tests.training.programs import copies, fit, stack, vae, vector, without_time

ROOT = Path(pc.__file__).parents[1]


class SetNoise(dist.Normal):
    """A normal whose draws follow from its location: the same in any process."""

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * torch.sin(1e3 * self.loc.detach())


class Quiet(pc.CorExVAE):
    def encode(self, x):
        q = super().encode(x)
        return SetNoise(q.loc, q.scale, validate_args=False)


def gaussian():
    module = vae()
    module.__class__ = Quiet
    return module


def exact():
    torch.manual_seed(0)
    return pc.StackedCorEx([(8, 16, 3)], n_classes=3)  # summed over: nothing is drawn


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0)


def gradient(make, devices, batch_size, data, **options):
    """What one step of SGD with the rate 1 takes off the parameters."""
    module = make()
    before = vector(module)
    fit(
        module, data, epochs=1, batch_size=batch_size, devices=devices, optimizer=sgd,
        progress=False, **options,
    )  # fmt: skip
    return before - vector(module)


class Note:
    """Writes what it sees in each process to a file of that process."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, epoch, module, record):
        seen = {
            "parameters": vector(module),
            "noise": torch.rand(4),
            "weights": module.anchors["z1"]() if hasattr(module, "anchors") else 0.0,
        }
        torch.save(seen, self.folder / f"{epoch}.{os.getpid()}")

    def read(self, epoch):
        return [torch.load(path) for path in self.folder.glob(f"{epoch}.*")]


@pytest.mark.parametrize("make", [gaussian, exact])
@pytest.mark.parametrize("n", [256, 100])  # 100: an incomplete batch
def test_gradients_are_those_of_one_process_with_the_doubled_batch(make, n):
    alone = gradient(make, 1, 256, copies(n))
    together = gradient(make, 2, 128, copies(n))
    assert alone.norm() > 1
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()


def test_gradients_with_a_loader():
    loader = DataLoader(TensorDataset(copies(256)), batch_size=128, shuffle=True)
    together = gradient(gaussian, 2, 1, loader)
    alone = gradient(gaussian, 1, 256, copies(256))
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()


def test_parameters_are_equal_and_noise_is_not(tmp_path):
    warmup = pc.Warmup(0.0, 1.0, steps=100)
    module = stack(warmup)
    note = Note(tmp_path)
    history = fit(
        module, copies(), epochs=2, batch_size=64, devices=2, callback=note, progress=False,
        kl_schedule=warmup, validation=copies(100),
    )  # fmt: skip
    for epoch in (1, 2):
        a, b = note.read(epoch)
        assert torch.equal(a["parameters"], b["parameters"])
        assert not torch.equal(a["noise"], b["noise"])
        assert a["weights"] == b["weights"] == pytest.approx(0.04 * epoch)
    assert torch.equal(vector(module), note.read(2)[0]["parameters"])
    assert warmup.taken == history.steps == 8
    assert history.terms.kl["z1"].shape == (4,)
    assert not module.training
    assert {"val_objective", "objective", "kl_z1", "seconds"} <= set(history.epochs[0])


def test_the_history_is_of_all_data():
    """Averages over processes are those of one process."""
    one, two = (
        fit(gaussian(), copies(), epochs=2, batch_size=256 // n, devices=n, progress=False, lr=1e-9)
        for n in (1, 2)
    )
    for a, b in zip(without_time(one), without_time(two), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_resuming_two_processes_is_bit_for_bit(tmp_path):
    options = {"batch_size": 32, "devices": 2, "progress": False}
    expected = vae()
    fit(expected, copies(), epochs=3, **options)
    path = tmp_path / "run"
    fit(vae(), copies(), epochs=1, checkpoint=path, **options)
    resumed = vae()
    history = fit(resumed, copies(), epochs=3, checkpoint=path, resume=True, **options)
    assert torch.equal(vector(resumed), vector(expected))
    assert len(history.epochs) == 3
    with pytest.raises(pc.CheckpointError, match="the number of processes was 2 and is 1"):
        fit(vae(), copies(), epochs=3, checkpoint=path, resume=True, batch_size=32)


def test_nan_in_one_process_stops_both():
    data = copies()
    data[0, 0] = float("nan")
    loader = DataLoader(TensorDataset(data), batch_size=64)
    with pytest.raises(ValueError, match=r"step 1 \(batch 1 of epoch 1\): the KL of site 'z' is"):
        fit(vae(), loader, epochs=1, devices=2, progress=False)


class ShareError(Exception):
    """It can not be made of its text alone."""

    def __init__(self, number, name):
        super().__init__(number, name)
        self.number = number


class Fails(TensorDataset):
    """Cannot be read in the second process, at the second batch."""

    def __init__(self, error):
        super().__init__(copies(256))
        self.error, self.read = error, 0

    def __getitem__(self, i):
        self.read += 1
        if self.read > 80 and torch.distributed.get_rank() == 1:
            raise self.error
        return super().__getitem__(i)


def told(error, **options):
    """What is said of an error in a callback of the second process."""

    def callback(*_):
        if torch.distributed.get_rank() == 1:
            raise error

    module = vae()
    with pytest.raises(Exception, match="the share is gone") as caught:
        fit(module, copies(), callback=callback, devices=2, epochs=2, progress=False, **options)
    assert not module.training
    assert "in callback" in str(caught.value.__cause__)  # the traceback of that process
    return caught.value


def test_an_error_in_one_process_arrives_as_it_was():
    assert type(told(OSError(5, "the share is gone"))) is OSError
    error = told(ShareError(3, "the share is gone"))
    assert (type(error), error.number) == (ShareError, 3)

    class LocalError(LookupError):
        """No other process can import it."""

    error = told(LocalError("the share is gone"))
    assert (type(error), str(error)) == (RuntimeError, "LocalError: the share is gone")
    assert type(told(ValueError("the share is gone"))) is ValueError


def test_data_that_one_process_cannot_read():
    module = vae()
    with pytest.raises(RuntimeError, match="could not be read after batch 1 of epoch 1: KeyError"):
        fit(module, Fails(KeyError("gone")), devices=2, epochs=1, batch_size=64, progress=False)
    assert not module.training


def test_a_process_that_is_killed():
    def callback(*_):
        if torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    module = vae()
    with pytest.raises(RuntimeError, match="A process that fit has started came to its end"):
        fit(module, copies(), callback=callback, devices=2, epochs=2, progress=False)
    assert not module.training


def listening():
    """The addresses at which this process listens, as the kernel writes them."""
    own = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1].partition(":")[0])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_listen_on_the_loopback_alone(tmp_path):
    def callback(*_):
        (tmp_path / str(os.getpid())).write_text(" ".join(listening()))

    fit(vae(), copies(), callback=callback, devices=2, epochs=1, progress=False)
    found = {word for path in tmp_path.iterdir() for word in path.read_text().split()}
    assert len(list(tmp_path.iterdir())) == 2
    assert found == {"0100007F"}


def test_processes_that_are_spawned_do_not_share_their_parameters():
    found = []
    for start in ("spawn", "fork"):
        module = vae()
        fit(
            module, copies(), epochs=2, batch_size=32, devices=2, strategy=f"ddp_{start}",
            progress=False, device="cpu",
        )  # fmt: skip
        found.append(vector(module))
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_a_stream_cannot_be_shared():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(copies())

    with pytest.raises(ValueError, match="an iterable data set, which 2 processes cannot share"):
        fit(vae(), Stream(), epochs=1, devices=2, progress=False)


SCRIPT = """
import sys
from pathlib import Path

import torch._dynamo  # once, and not in each process that is forked

import pyro_corex as pc
from tests.training.programs import copies, vae

first, second = map(Path, sys.argv[1:])
options = {"epochs": 10**6, "devices": 2, "progress": False}
try:
    pc.fit(vae(), copies(), checkpoint=first, **options)
except KeyboardInterrupt as error:
    print(error, flush=True)
pc.fit(vae(), copies(), checkpoint=second, **options)
"""


def test_a_signal_to_the_parent_ends_all_in_order(tmp_path):
    """First SIGINT, which the script takes as Python's, then SIGTERM, which ends it."""
    paths = [tmp_path / "first", tmp_path / "second"]
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *paths], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def wait_for(path):
        end = time.monotonic() + 60
        while not path.exists() and time.monotonic() < end and script.poll() is None:
            time.sleep(0.02)

    wait_for(paths[0])
    script.send_signal(signal.SIGINT)
    assert script.stdout.readline().startswith("Training was interrupted after step")
    wait_for(paths[1])
    script.send_signal(signal.SIGTERM)
    _, err = script.communicate(timeout=60)
    assert script.returncode == 128 + signal.SIGTERM, err
    assert err.startswith("Training was interrupted after step")
    assert "resume=True" in err
    for path in paths:
        assert checkpoint.read(path)["history"]["steps"] > 0
    assert sorted(tmp_path.iterdir()) == paths


def in_a_process_of_torchrun(folder):
    module = vae()
    history = pc.fit(module, copies(), epochs=2, batch_size=32, progress=False, device="cpu")
    found = f"{history.steps} {vector(module).sum().item()}"
    (folder / os.environ["RANK"]).write_text(found)


def test_torchrun(tmp_path):
    """What ``torchrun`` does, with a function in place of a script."""
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", start_method="fork",
    )  # fmt: skip
    elastic_launch(launch, in_a_process_of_torchrun)(tmp_path)
    module = vae()
    pc.fit(module, copies(), epochs=2, batch_size=32, devices=2, progress=False, device="cpu")
    expected = f"16 {vector(module).sum().item()}"
    assert [(tmp_path / rank).read_text() for rank in "01"] == [expected] * 2

"""What can go wrong: each with its message, and with nothing lost."""

import errno
import io
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyro_corex as pc
from pyro_corex.training import files
from tests.training.programs import OPTIONS, copies, run, vae, vector


@pytest.fixture
def folder(tmp_path):
    """A folder with the checkpoint of a run of one epoch."""
    run(tmp_path / "run", epochs=1)
    return tmp_path


@pytest.fixture
def path(folder):
    """That checkpoint, which has to be there in the end as it was, and alone."""
    path = folder / "run"
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == ["run"]


class At:
    """Does something at a training step."""

    def __init__(self, step, action):
        self.step, self.action, self.taken = step, action, 0

    def __call__(self, x):
        self.taken += 1
        return self.action(x) if self.taken == self.step else x


def nan(x):
    return x * float("nan")


# ---------------------------------------------------------------------- writing


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_permission(*_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(
    ("call", "action", "match"),
    [
        ("fsync", no_space, r"Could not write .*run: No space left on device\. The file that was"),
        ("replace", no_permission, r"Could not write .*run: Permission denied\. The file that was"),
    ],
    ids=["full disk", "folder without permission"],
)
def test_a_checkpoint_that_cannot_be_written(path, monkeypatch, call, action, match):
    module = vae()
    monkeypatch.setattr(files.os, call, action)
    with pytest.raises(OSError, match=match) as error:
        run(path, module, resume=True, checkpoint_every_steps=3)
    assert "Training stopped after step 9" in str(error.value)
    assert vector(module).isfinite().all()
    assert not module.training


def test_a_full_disk_when_nothing_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device\. Nothing is there"):
        pc.save(vae(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_cut_off(path, monkeypatch):
    """As when the disk is full in the middle: part of the file is written."""
    real = open

    def cut(name, mode="r", *rest, **options):
        file = real(name, mode, *rest, **options)
        if mode == "xb":
            write, left = file.write, [3]

            class Short(io.FileIO):
                def write(self, data):
                    left[0] -= 1
                    if not left[0]:
                        write(bytes(data)[:100])
                        no_space()
                    return write(data)

            file.close()
            os.unlink(name)
            file = Short(name, "xb")
            write = super(Short, file).write
        return file

    monkeypatch.setattr("builtins.open", cut)
    with pytest.raises(OSError, match="No space left on device"):
        run(path, resume=True)


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"The folder .*no of run does not exist: make it"):
        run(tmp_path / "no" / "run")
    with pytest.raises(FileNotFoundError, match=r"The folder .*no of model does not exist"):
        pc.save(vae(), tmp_path / "no" / "model")
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file in it"):
        run(tmp_path)


def test_a_checkpoint_of_another_run_is_not_overwritten(path):
    with pytest.raises(FileExistsError, match="is there already: pass resume=True to go on from"):
        run(path)


# ---------------------------------------------------------------------- another program or run


def tanh():
    module = vae()
    module.encoder[2] = torch.nn.Tanh()
    return module


ARCHITECTURES = {
    "wider": (lambda: vae((8, 20, 2)), r"'encoder.1.weight' is float32 of shape \(16, 8\) in the"),
    "deeper": (
        lambda: vae((8, 16, 4, 2)),
        r"'encoder.5.weight' is absent in the file, but float32",
    ),
    "likelihood": (
        lambda: vae(likelihood="learned_normal"),
        "'likelihood.log_scale' is absent in the file",
    ),
    "another likelihood": (
        lambda: vae(likelihood="continuous_bernoulli"),
        r"'likelihood' is BernoulliLikelihood\(\) in the file, but "
        r"ContinuousBernoulliLikelihood\(\) here",
    ),
    "activation": (tanh, r"'encoder.2' is ReLU\(\) in the file, but Tanh\(\) here"),
    "double": (lambda: vae().double(), r"is float32 of shape .* but float64 of shape"),
    "class": (
        lambda: pc.StackedCorEx([(8, 16, 2)], n_classes=None),
        r"the module is CorExVAE\(\) in the file, but StackedCorEx\(\) here",
    ),
}


@pytest.mark.parametrize("change", ARCHITECTURES)
def test_a_changed_architecture(path, change):
    make, match = ARCHITECTURES[change]
    module = make()
    before = vector(module)
    data = copies().double() if change == "double" else copies()
    for attempt in (lambda: pc.load(path, module), lambda: run(path, module, data, resume=True)):
        with pytest.raises(pc.CheckpointError, match=match):
            attempt()
    assert torch.equal(vector(module), before)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3)


def constant(optimiser):
    return torch.optim.lr_scheduler.ConstantLR(optimiser)


CHANGES = {
    "optimiser": ({"optimizer": sgd}, "the optimiser was 'Adam' and is 'SGD'"),
    "rate": ({"lr": 0.5}, r"its options was \{'lr': 0.001, .*\} and is \{'lr': 0.5"),
    "schedule": ({"lr_schedule": constant}, "lr_schedule was None and is 'ConstantLR'"),
    "kl schedule": ({"kl_schedule": pc.Warmup(0, 1, 2)}, "KL schedules was 0 and is 1"),
    "size": ({"data": copies(100)}, "the number of data was 512 and is 100"),
    "batches": ({"batch_size": 32}, "batch_size was 64 and is 32"),
    "seed": ({"seed": 3}, "seed was 0 and is 3"),
    "precision": ({"precision": "bf16-mixed"}, "precision was '32-true' and is 'bf16-mixed'"),
    "clipping": ({"clip_norm": 1.0}, "clip_norm was None and is 1.0"),
    "objective": ({"elbo": pc.CorExELBO(tc_weight=2.0)}, r"tc_weight=2.0, tc_num_data=512"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_run(path, change):
    options, match = CHANGES[change]
    module = vae(seed=1)
    before = vector(module)
    with pytest.raises(pc.CheckpointError, match=f"is of another run: .*{match}"):
        run(path, module, resume=True, **options)
    assert torch.equal(vector(module), before)


# ---------------------------------------------------------------------- data and numbers


def test_nan_in_the_data(path):
    data = copies()
    data[3, 2] = float("nan")
    with pytest.raises(ValueError, match="The data hold 1 NaN"):
        run(path, data=data, resume=True)


def test_nan_in_a_loader(path):
    data = copies()
    data[300, 2] = float("nan")
    loader = DataLoader(TensorDataset(data), batch_size=64)
    module = vae()
    with pytest.raises(
        ValueError,
        match=r"step 5 \(batch 5 of epoch 1\): the KL of site 'z' is NaN; the reconstruction of",
    ):
        pc.fit(module, loader, **OPTIONS)
    assert vector(module).isfinite().all()  # the step was not taken


def test_nan_in_the_middle_of_training(path):
    module = vae()
    with pytest.raises(
        ValueError,
        match=r"step 12 \(batch 4 of epoch 2\).*The last good state is in .*run: go on from there",
    ):
        run(path, module, resume=True, transform=At(4, nan))
    assert vector(module).isfinite().all()


def test_a_loss_that_becomes_infinite(path):
    with pytest.raises(ValueError, match=r"step 10 .*the KL of site 'z' is infinite"):
        run(path, resume=True, transform=At(2, lambda x: x + 3e38))


def test_parameters_that_become_nan_are_not_saved(path):
    """The loss is finite, but the gradient is not."""
    module = vae()
    hook = module.decoder[0].weight.register_hook(lambda g: g * float("nan"))
    with pytest.raises(
        ValueError, match=r"parameter 'decoder.0.weight' is not finite after step 9"
    ):
        run(path, module, resume=True, checkpoint_every_steps=1)
    hook.remove()


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


class Broken(Dataset):
    def __len__(self):
        return 512

    def __getitem__(self, i):
        raise OSError("the share is gone")


class Words(Dataset):
    def __len__(self):
        return 512

    def __getitem__(self, i):
        return "x"


DATA = {
    "no batch": (
        DataLoader(TensorDataset(copies(3)), batch_size=4, drop_last=True),
        ValueError,
        "The data are empty: there is no batch to train on",
    ),
    "no data": (TensorDataset(torch.zeros(0, 8)), ValueError, "TensorDataset has the length 0"),
    "empty stream": (Empty(), ValueError, "there is no batch to train on"),
    "loader that raises": (
        Broken(),
        RuntimeError,
        "could not be read after batch 0 of epoch 1: OSError: the share is gone",
    ),
    "no tensors": (Words(), RuntimeError, "begin with one, but is list that begins with str"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_trained_on(case, tmp_path):
    data, kind, match = DATA[case]
    with pytest.raises(kind, match=match):
        run(tmp_path / "run", data=data)
    assert list(tmp_path.iterdir()) == []


def test_a_loader_that_raises_later(path):
    def fail(i):
        raise KeyError("gone")

    class Late(TensorDataset):
        def __getitem__(self, i):
            return fail(i) if i == 200 else super().__getitem__(i)

    loader = DataLoader(Late(copies()), batch_size=64)
    with pytest.raises(RuntimeError, match=r"after batch 3 of epoch 1: KeyError: 'gone'") as error:
        pc.fit(vae(), loader, **OPTIONS)
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("validation", "match"),
    [
        (torch.zeros(0, 8), r"The validation data are empty: their shape is \(0, 8\)"),
        (Empty(), "The validation data are empty: there is no batch to evaluate on"),
        (copies(50) * float("nan"), "loss on the validation data is not finite after epoch 2: the"),
    ],
)
def test_validation_data(path, validation, match):
    with pytest.raises(ValueError, match=match):
        run(path, resume=True, validation=validation)


# ---------------------------------------------------------------------- signals


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
    assert files.read(path)["history"]["steps"] == 3
    resumed, expected = vae(), vae()
    run(path, resumed, resume=True)
    pc.fit(expected, copies(), **OPTIONS)
    assert torch.equal(vector(resumed), vector(expected))


def test_a_signal_without_a_checkpoint():
    module = vae()
    with pytest.raises(KeyboardInterrupt, match=r"after step 3 .*No checkpoint was asked for"):
        pc.fit(module, copies(), transform=kill(signal.SIGINT), **OPTIONS)
    assert vector(module).isfinite().all()


def test_a_second_sigint_does_not_wait():
    def twice(x):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it should have stopped")

    with pytest.raises(KeyboardInterrupt):
        pc.fit(vae(), copies(), transform=At(3, twice), **OPTIONS)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": "gpu"}, 'device must be "auto", or a device of torch .* but got .gpu'),
        ({"precision": "8"}, "precision must be one of .*'32-true', 'bf16-mixed'.* but got '8'"),
        ({"precision": "16-mixed", "device": "cpu"}, 'is for CUDA, but the device is .* "bf16-mix'),
        ({"devices": 0}, "devices must be an integer >= 1, but got 0"),
        ({"devices": -1}, "devices must be an integer >= 1, but got -1"),
        ({"devices": "2"}, "devices must be an integer >= 1, but got '2'"),
        ({"device": "mps", "devices": 2}, "devices=2 is for the CPU and CUDA, but not for 'mps'"),
        ({"patience": 0, "validation": copies(4)}, "patience must be an integer >= 1, but got 0"),
        ({"patience": 2}, "patience needs validation=..."),
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer >= 1, but got 0"),
        ({"checkpoint_every_steps": 0}, "checkpoint_every_steps must be an integer >= 1"),
        ({"clip_norm": 0.0}, "clip_norm must be > 0, but got 0.0"),
        ({"lr": float("nan")}, "lr must be > 0, but got nan"),
        ({"resume": True}, r"resume=True needs checkpoint=\.\.\., the file to go on from"),
        ({"resume": "yes"}, "resume must be True, False or \"auto\", but got 'yes'"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        pc.fit(vae(), copies(), **{**OPTIONS, **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"transform": "bernoulli"}, "transform must be a function, but got str"),
        ({"optimizer": 3}, "optimizer must be a function, but got int"),
        ({"callback": [print, "print"]}, "callback must be a function, but got str"),
        ({"lr_schedule": 0.9}, "lr_schedule must be a function of the optimiser .* but got float"),
        ({"lr_schedule": lambda _: None}, "must be one of torch.optim.lr_scheduler, .* NoneType"),
        ({"kl_schedule": 0.5}, r"kl_schedule must be e.g. Warmup\(.*\), but got float"),
        ({"logger": "csv"}, "logger must be one of lightning_fabric.loggers, .* but got str"),
    ],
)
def test_options_of_another_type(options, match):
    """They are refused before anything is trained."""
    module = vae()
    before = vector(module)
    with pytest.raises(TypeError, match=match):
        pc.fit(module, copies(), **{**OPTIONS, **options})
    assert torch.equal(vector(module), before)


def test_an_optimizer_that_is_none():
    with pytest.raises(TypeError, match=r"to a torch.optim.Optimizer, but gave list"):
        pc.fit(vae(), copies(), optimizer=list, **OPTIONS)


def test_a_callback_that_raises(path):
    def callback(epoch, module, record):
        raise ZeroDivisionError("mine")

    module = vae()
    with pytest.raises(ZeroDivisionError, match="mine"):
        run(path, module, resume=True, callback=callback)
    assert not module.training

"""Checkpoints, and files that cannot be written or read: with nothing lost, changed or executed."""

import errno
import io
import multiprocessing
import os
import pickle
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import pyro_corex as pc
from pyro_corex.batches import Batch
from pyro_corex.files import claimed
from pyro_corex.training import checkpoint
from pyro_corex.training.data import digest
from tests.training.programs import At, Empty, copies, nan, run, vae, vector


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
    monkeypatch.setattr(os, call, action)
    with pytest.raises(OSError, match=match) as error:
        run(path, module, resume=True, every_steps=3)
    assert "Training stopped after step 9" in str(error.value)
    assert vector(module).isfinite().all()
    assert not module.training


def test_a_full_disk_when_nothing_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device\. Nothing is there"):
        pc.save(vae(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_file_keeps_the_mode_that_it_was_given(tmp_path):
    path = tmp_path / "model"
    pc.save(vae(), path)
    path.chmod(0o600)
    pc.save(vae(), path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_forged_file_changes_nothing(tmp_path):
    """Its description fits, but one of its tensors does not."""
    path, module = tmp_path / "model", vae(seed=1)
    pc.save(vae(), path)
    content = checkpoint.read(path)
    content["state"]["decoder.0.weight"] = torch.zeros(1)
    checkpoint.write(path, content)
    before = vector(module)
    with pytest.raises(pc.CheckpointError, match=r"'decoder.0.weight' is float32 of shape \(1,\)"):
        pc.load(path, module)
    assert torch.equal(vector(module), before)


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
    with pytest.raises(
        FileExistsError, match=r"is there already: pass .*resume=True. to go on from"
    ):
        run(path)


# ---------------------------------------------------------------------- reading


DAMAGE = {
    "cut short": (lambda raw: raw[:-1], "is damaged: it was cut short or changed"),
    "only its beginning": (lambda raw: raw[:10], "is damaged: it was cut short or changed"),
    "one bit": (lambda raw: raw[:500] + bytes([raw[500] ^ 1]) + raw[501:], "is damaged"),
    "the checksum": (lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:], "is damaged"),
    "empty": (lambda raw: b"", "is not a file that pyro_corex wrote"),
    "text": (lambda raw: b"epoch,loss\n1,2\n", "is not a file that pyro_corex wrote"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file(tmp_path, damage):
    path = tmp_path / "run"
    run(path, epochs=1)
    change, match = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes()))
    module = vae(seed=1)
    before = vector(module)
    for attempt in (lambda: pc.load(path, module), lambda: run(path, module, resume=True)):
        with pytest.raises(pc.CheckpointError, match=match):
            attempt()
    assert torch.equal(vector(module), before)


def test_a_file_of_torch_save(tmp_path):
    torch.save(vae().state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        pc.CheckpointError, match=r"A state_dict that torch.save wrote is read with"
    ):
        pc.load(tmp_path / "model.pt", vae())


class Code:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_file_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.write(tmp_path / "model", {"kind": "module", "state": Code()})
    with pytest.raises(pc.CheckpointError, match="holds something other than data"):
        pc.load(tmp_path / "model", vae())
    assert not (tmp_path / "executed").exists()
    assert pickle.dumps(Code())


def test_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*model"):
        pc.load(tmp_path / "model", vae())
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*run to go on from"):
        run(tmp_path / "run", resume=True)


def test_a_saved_module_is_no_run(tmp_path):
    pc.save(vae(), tmp_path / "model")
    with pytest.raises(pc.CheckpointError, match="holds a module, as save wrote it, but no run"):
        run(tmp_path / "model", resume=True)


def test_save_and_load_with_their_arguments_swapped(tmp_path):
    path = str(tmp_path / "vae.pt")
    with pytest.raises(TypeError, match=r"save\(module, path\) needs a .*Module, but got str"):
        pc.save(path, vae())
    with pytest.raises(TypeError, match=r"load\(path, module\) needs a .*Module, but got str"):
        pc.load(vae(), path)


# ---------------------------------------------------------------------- another program


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


# ---------------------------------------------------------------------- two at once


def test_another_process_has_the_checkpoint(tmp_path):
    """It is refused while that one lives; what it leaves when it is killed is no hindrance."""
    path, context = tmp_path / "run", multiprocessing.get_context("fork")
    has, never = context.Event(), context.Event()

    def hold():
        with claimed(path):
            has.set()
            never.wait(60)

    child = context.Process(target=hold)
    child.start()
    assert has.wait(20)
    with pytest.raises(BlockingIOError, match=rf"Another run writes .*run .* {child.pid}\)"):
        run(path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert (tmp_path / ".run.lock").exists()
    run(path, epochs=1)
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_within_a_run_on_the_same_file(tmp_path):
    path = tmp_path / "run"

    def again(*_):
        with pytest.raises(BlockingIOError, match=f"the process {os.getpid()}"):
            run(path, resume="auto")

    history = run(path, callback=again)
    assert len(history.epochs) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_another_run_has_written_in_the_meantime(tmp_path):
    path = tmp_path / "run"
    how = pc.Checkpoint(path).looked_up()
    run(path, epochs=1)
    with pytest.raises(FileExistsError, match="is there already"), how.claimed():
        pass


@pytest.mark.parametrize(
    ("name", "match"),
    [("a" * 300, "File name too long"), ("a" * 230, "File name too long")],
    ids=["the name", "what is written beside"],
)
def test_a_name_that_is_too_long_is_found_at_once(name, match, tmp_path):
    module, taken = vae(), At(1, lambda x: x)
    with pytest.raises(OSError, match=match):
        run(tmp_path / name, module, transform=taken)
    assert taken.taken == 0


# ---------------------------------------------------------------------- going on


def test_other_data_of_the_same_size(path):
    other = copies().flip(0)
    loader = DataLoader(TensorDataset(other), batch_size=64)
    for data in (other, loader, Subset(TensorDataset(copies()), range(511, -1, -1))):
        with pytest.raises(pc.CheckpointError, match=r"the digest of the data was .* and is"):
            run(path, data=data, resume=True, batch_size=64)


def test_the_digest_of_data():
    x, y = copies(), torch.arange(512)
    base = digest(Batch((x, y)))
    assert base == digest(TensorDataset(x.clone(), y.clone()))
    others = [(x, y + 1), (y, x), (x.double(), y), (x, y.int()), (x.reshape(512, 2, 4), y), (x,)]
    assert base not in {digest(Batch(other)) for other in others}
    named = [digest(Batch((), batch)) for batch in ({"x": x, "y": y}, {"y": y, "x": x})]
    assert named == [base] * 2
    large = torch.zeros(1000, 5000)
    changed = large.index_fill(0, torch.tensor([996]), 1.0)  # of each fourth row
    assert digest(Batch((large,))) != digest(Batch((changed,)))
    assert digest(Empty()) is None


def test_other_validation_data(tmp_path):
    path = tmp_path / "run"
    run(path, epochs=1, validation=copies(100))
    with pytest.raises(pc.CheckpointError, match="the digest of the validation data was"):
        run(path, resume=True, validation=copies(100).flip(0))
    run(path, resume=True)


def test_fewer_epochs_than_were_done(tmp_path):
    path = tmp_path / "run"
    run(path, epochs=2)
    with pytest.raises(ValueError, match=r"epochs must be at least 2, but got 1: .* 2 are done"):
        run(path, epochs=1, resume=True)
    half = tmp_path / "half"
    with pytest.raises(ValueError, match="not finite"):
        run(half, every_steps=1, every=None, transform=At(12, nan))
    with pytest.raises(ValueError, match=r"epochs must be at least 2, .* the last has begun"):
        run(half, epochs=1, resume=True)


def test_other_versions_are_named(path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.warns(UserWarning, match=r"written with torch 2\..*, but this is 1.0: the rest of"):
        run(path, epochs=1, resume=True)
    monkeypatch.setattr(pc, "__version__", "9.0")
    with pytest.warns(UserWarning, match=r"pyro_corex .*, but this is 9.0 and torch 2"):
        run(path, epochs=1, resume=True)


def test_a_parameter_that_is_nan(tmp_path):
    path, module = tmp_path / "run", vae()
    run(path, epochs=1)
    content = checkpoint.read(path)
    content["state"]["decoder.0.weight"][0, 0] = float("nan")
    checkpoint.write(path, content)
    before = vector(module)
    for attempt in (lambda: pc.load(path, module), lambda: run(path, module, resume=True)):
        with pytest.raises(pc.CheckpointError, match=r"holds NaN in .* 'decoder.0.weight'"):
            attempt()
    assert torch.equal(vector(module), before)
    module.load_state_dict(content["state"])
    with pytest.raises(ValueError, match=r"'decoder.0.weight' of the module .* holds NaN"):
        pc.save(module, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [path]

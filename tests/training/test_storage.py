"""Files that cannot be read: each with its message, and nothing is changed or executed."""

import os
import pickle

import pytest
import torch

import pyro_corex as pc
from pyro_corex.training import files
from tests.training.programs import run, vae, vector

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
    files.write(tmp_path / "model", {"kind": "module", "state": Code()})
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

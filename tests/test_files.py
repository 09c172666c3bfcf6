"""Files that are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest
import torch

import pyro_corex as pc
from pyro_corex import files
from pyro_corex.files import as_file, replacing


def vae():
    return pc.CorExVAE(pc.programs.mlp_encoder([3, 1]), pc.programs.mlp_decoder([1, 3]), 1)


X = torch.bernoulli(torch.full((30, 3), 0.4))


def test_a_new_file_and_the_same_mode(tmp_path):
    path = tmp_path / "page"
    with replacing(path) as file:
        file.write("öne")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "öne"
    path.chmod(0o600)
    with replacing(path) as file:
        file.write("two")
        assert path.read_text(encoding="utf-8") == "öne"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o600)
    assert os.listdir(tmp_path) == ["page"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "page").write_text("old")
    (tmp_path / "link").symlink_to("page")
    with replacing(as_file(tmp_path / "link")) as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page").read_text() == "new"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, ValueError, OSError(errno.EIO, "of a loader")]
)
def test_what_interrupts_the_work_leaves_the_old_page(error, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def stop(*args, **kwargs):
        raise error

    monkeypatch.setattr("pyro_corex.export.page.gather", stop)
    with pytest.raises(error if isinstance(error, type) else OSError) as caught:
        pc.report(vae(), X, path)
    assert "Could not write" not in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_the_old_page(there, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    if there:
        path.write_text("old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    left = "was there is as it was" if there else "Nothing is there"
    with pytest.raises(OSError, match=f"Could not write .*No space left on device. .*{left}"):
        pc.report(vae(), X, path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"] * there


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("The work has begun")

    monkeypatch.setattr("pyro_corex.export.page.collect", never)
    (tmp_path / "file").touch()
    for path, error, message in (
        (tmp_path, ValueError, "path must be the name of a file, but .* is a folder"),
        (tmp_path / "a" / "b", ValueError, "The folder .*a does not exist: make it first"),
        (tmp_path / "file" / "b", ValueError, "The folder .*file does not exist"),
        (tmp_path / ("n" * 300), OSError, "Could not write .*n: File name too long. Nothing is"),
        ("", ValueError, "path must be the name of a file, but got ''"),
        ("a\0b", ValueError, "path must be the name of a file, but got"),
        (os.devnull, ValueError, "is a folder or a device"),
        (None, TypeError, "path must be the name of a file, but got NoneType"),
        (Path("/proc/page"), OSError, "Could not write /proc/page"),
    ):
        with pytest.raises(error, match=message):
            pc.report(vae(), X, path)
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # as root may write to anything
    with pytest.raises(OSError, match=r"file: it is read-only. The file that was there is as it"):
        pc.report(vae(), X, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]

import pickle
import zipfile

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pyro_corex.datasets import CelebA, ImageFiles


def picture(path, width, height, colour):
    """A red frame around a square of one colour."""
    image = Image.new("RGB", (width, height), "red")
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image.paste(colour, (left, top, left + side, top + side))
    image.save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    picture(root / "b.png", 40, 20, "white")
    picture(root / "a.png", 20, 40, "black")
    picture(root / "more" / "c.PNG", 16, 16, "blue")
    (root / "notes.txt").write_text("no image")
    return root


def zipped(folder):
    path = folder.parent / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_central_square_in_the_order_of_names(folder, kind):
    data = ImageFiles(folder if kind == "folder" else zipped(folder), size=8)
    assert len(data) == 3
    assert "3 images of 8 x 8" in repr(data)
    black, white, blue = data
    assert black.shape == (3, 8, 8)
    assert torch.equal(black, torch.zeros(3, 8, 8))
    assert torch.equal(white, torch.ones(3, 8, 8))
    assert torch.equal(blue[2], torch.ones(8, 8))
    assert torch.equal(blue[:2], torch.zeros(2, 8, 8))
    copy = pickle.loads(pickle.dumps(data))  # as a loader's worker gets it
    assert torch.equal(copy[1], white)
    (batch,) = DataLoader(data, batch_size=3)
    assert batch.shape == (3, 3, 8, 8)


def test_image_files_refuse(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder or archive"):
        ImageFiles(tmp_path / "missing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image: expected files that end in"):
        ImageFiles(empty)
    with pytest.raises(ValueError, match="neither a folder nor a zip archive"):
        ImageFiles(folder / "notes.txt")
    with pytest.raises(ValueError, match="size must be an integer >= 1, but got 0"):
        ImageFiles(folder, size=0)
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"The image 'broken\.png' of .* cannot be read"):
        ImageFiles(folder)[2]


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    """Six pictures in CelebA's layout; its files' checksums are those of the real ones."""
    from torchvision import datasets

    monkeypatch.setattr(
        datasets.CelebA, "file_list", [(a, None, c) for a, _, c in datasets.CelebA.file_list]
    )
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 7)]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (40 * i, 0, 255 - 40 * i)).save(
            root / "img_align_celeba" / name, quality=95
        )
    lines = {
        "identity_CelebA.txt": [f"{n} {i}" for i, n in enumerate(names)],
        "list_eval_partition.txt": [
            f"{n} {s}" for n, s in zip(names, [0, 0, 1, 1, 2, 2], strict=True)
        ],
        "list_attr_celeba.txt": ["6", "Smiling Young", *[f"{n} 1 -1" for n in names]],
        "list_bbox_celeba.txt": ["6", "image_id x_1 y_1 width height"]
        + [f"{n} 1 2 3 4" for n in names],
        "list_landmarks_align_celeba.txt": ["6", "x y"] + [f"{n} 1 2" for n in names],
    }
    for name, text in lines.items():
        (root / name).write_text("\n".join(text) + "\n")
    return tmp_path


def test_celeba_in_its_official_layout(celeba):
    data = CelebA(celeba, "train", size=16)
    assert len(data) == 2
    assert repr(data) == "CelebA('train', 2 images of 16 x 16)"
    image = data[1]
    assert image.shape == (3, 16, 16)
    want = torch.tensor([40, 0, 215]).view(3, 1, 1) / 255
    torch.testing.assert_close(image, want.expand_as(image), rtol=0, atol=0.02)
    assert len(CelebA(celeba, "test")) == 2
    assert len(CelebA(celeba, "all")) == 6
    assert CelebA(celeba, "valid")[0].shape == (3, 64, 64)


def test_celeba_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CelebA is not under .*: give the folder"):
        CelebA(tmp_path)

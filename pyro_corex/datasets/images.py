"""Images from files, read one by one: a folder, a zip archive, or CelebA."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_corex.batches import check_count

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class ImageFiles(Dataset[Tensor]):
    """The images of a folder and its subfolders, or of a zip archive, in the order of their names.

    Each is read when it is asked for, cropped to its central square and resized; nothing is kept.
    Needs Pillow, which comes with torchvision.

    :param path: the folder or the archive.
    :param size: height and width of the images that come out.
    :raises FileNotFoundError: if there is no such path, or no image in it.
    :raises ValueError: for a file that is neither a folder nor a zip archive, a ``size`` below 1,
        and, when it is read, for an image that is broken, naming it.

    An item is a tensor of shape ``(3, size, size)`` with values in [0, 1].
    """

    def __init__(self, path: str | Path, size: int = 64) -> None:
        self.path = Path(path)
        self.size = size
        check_count("size", size)
        if not self.path.exists():
            raise FileNotFoundError(f"There is no folder or archive {str(self.path)!r}")
        self._archive: zipfile.ZipFile | None = None
        if self.path.is_dir():
            found = [p.relative_to(self.path).as_posix() for p in self.path.rglob("*")]
        elif zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                found = archive.namelist()
        else:
            raise ValueError(f"{str(self.path)!r} is neither a folder nor a zip archive")
        self.names = sorted(name for name in found if Path(name).suffix.lower() in _SUFFIXES)
        if not self.names:
            raise FileNotFoundError(
                f"{str(self.path)!r} holds no image: expected files that end in "
                f"{', '.join(sorted(_SUFFIXES))}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ImageFiles({str(self.path)!r}, {len(self)} images of {self.size} x {self.size})"

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        name = self.names[index]
        try:
            with Image.open(io.BytesIO(self._read(name))) as image:
                return _as_tensor(image, self.size)
        except (OSError, SyntaxError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The image {name!r} of {str(self.path)!r} cannot be read: {error}"
            ) from error

    def _read(self, name: str) -> bytes:
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        if self._archive is None:  # opened by each process for itself
            self._archive = zipfile.ZipFile(self.path)
        return self._archive.read(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


class CelebA(Dataset[Tensor]):
    """CelebA (Liu et al. 2015) through torchvision, one aligned photograph at a time, resized.

    :param root: the folder that holds torchvision's ``celeba`` folder.
    :param split: "train", "valid", "test" or "all".
    :param size: height and width of the images that come out.
    :param crop: side of the central square of the 178 x 218 photographs that is kept.
    :param download: fetch the data if they are not there.
    :raises FileNotFoundError: if they are not there and are not to be fetched.

    An item is a tensor of shape ``(3, size, size)`` with values in [0, 1].
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        size: int = 64,
        crop: int = 148,
        download: bool = False,
    ) -> None:
        from torchvision import datasets

        self.size = size
        self.crop = crop
        try:
            self.photographs = datasets.CelebA(str(root), split=split, download=download)
        except RuntimeError as error:
            raise FileNotFoundError(
                f"CelebA is not under {Path(root).resolve()}: give the folder that holds celeba/ "
                "with img_align_celeba/ and the five list files, or download=True to fetch it"
            ) from error

    def __len__(self) -> int:
        return len(self.photographs)

    def __repr__(self) -> str:
        split = self.photographs.split
        return f"CelebA({split!r}, {len(self)} images of {self.size} x {self.size})"

    def __getitem__(self, index: int) -> Tensor:
        return _as_tensor(self.photographs[index][0], self.size, self.crop)


def _as_tensor(image: Any, size: int, crop: int | None = None) -> Tensor:
    """The central square of a picture, resized, as a tensor ``(3, size, size)`` in [0, 1]."""
    from PIL import Image

    width, height = image.size
    side = min(width, height, crop or width)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    resized = square.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized))
    return pixels.permute(2, 0, 1).to(torch.float32).div_(255)

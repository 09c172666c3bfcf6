"""Handwritten digits: the ones that scikit-learn bundles, and MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Digits(NamedTuple):
    """Grey images of digits, and their classes, which are for scoring only."""

    x: Tensor
    """Grey values in [0, 1], shape ``(N, side * side)``."""

    labels: Tensor
    """Shape ``(N,)``."""

    side: int
    """Height and width in pixels."""


def bundled_digits() -> Digits:
    """The 1,797 digits of 8 x 8 pixels (Alpaydin & Kaynak 1998) that scikit-learn bundles."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.as_tensor(data.data, dtype=torch.float32) / 16.0
    return Digits(x, torch.as_tensor(data.target), 8)


def mnist(root: str | Path, *, train: bool = True, download: bool = False) -> Digits:
    """MNIST (LeCun et al. 1998) through torchvision: 60,000 digits of 28 x 28 pixels, or 10,000.

    :param root: the folder that holds (or shall hold) torchvision's ``MNIST`` folder.
    :param train: ``False`` for the 10,000 that are for testing.
    :param download: fetch the data if they are not there.
    :raises FileNotFoundError: if they are not there and are not to be fetched.
    """
    from torchvision.datasets import MNIST

    try:
        data = MNIST(root=str(root), train=train, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"MNIST is not under {Path(root).resolve()}: give the folder that holds MNIST/raw, or "
            "download=True (--download) to fetch it"
        ) from error
    x = data.data.flatten(1).to(torch.float32) / 255.0
    return Digits(x, data.targets, 28)

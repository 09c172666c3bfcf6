"""Data sets: loaders, and generators with known truth."""

from pyro_corex.datasets.digits import Digits, bundled_digits, mnist
from pyro_corex.datasets.faces import FACE_FACTORS, draw_faces, synthetic_faces
from pyro_corex.datasets.images import CelebA, ImageFiles
from pyro_corex.datasets.synthetic import Synthetic, layered, linear_gaussian, noisy_coins

__all__ = [
    "FACE_FACTORS",
    "CelebA",
    "Digits",
    "ImageFiles",
    "Synthetic",
    "bundled_digits",
    "draw_faces",
    "layered",
    "linear_gaussian",
    "mnist",
    "noisy_coins",
    "synthetic_faces",
]

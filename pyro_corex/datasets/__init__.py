"""Data sets: loaders, and generators with known truth."""

from pyro_corex.datasets.components import PrincipalComponents, independent_directions
from pyro_corex.datasets.digits import Digits, bundled_digits, mnist
from pyro_corex.datasets.elastic import RandomElastic
from pyro_corex.datasets.faces import FACE_FACTORS, draw_faces, synthetic_faces
from pyro_corex.datasets.images import CelebA, ImageFiles
from pyro_corex.datasets.neighbours import Neighbours
from pyro_corex.datasets.synthetic import Synthetic, layered, linear_gaussian, noisy_coins
from pyro_corex.datasets.transforms import RandomAffine, affine

__all__ = [
    "FACE_FACTORS",
    "CelebA",
    "Digits",
    "ImageFiles",
    "Neighbours",
    "PrincipalComponents",
    "RandomAffine",
    "RandomElastic",
    "Synthetic",
    "affine",
    "bundled_digits",
    "draw_faces",
    "independent_directions",
    "layered",
    "linear_gaussian",
    "mnist",
    "noisy_coins",
    "synthetic_faces",
]

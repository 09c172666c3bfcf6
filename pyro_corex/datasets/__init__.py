"""Data sets: loaders, and generators with known truth."""

from pyro_corex.datasets.digits import Digits, bundled_digits, mnist
from pyro_corex.datasets.synthetic import Synthetic, layered, linear_gaussian, noisy_coins

__all__ = [
    "Digits",
    "Synthetic",
    "bundled_digits",
    "layered",
    "linear_gaussian",
    "mnist",
    "noisy_coins",
]

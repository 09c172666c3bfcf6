"""Data sets: loaders, and generators with known truth."""

from pyro_corex.datasets.digits import Digits, bundled_digits, mnist

__all__ = ["Digits", "bundled_digits", "mnist"]

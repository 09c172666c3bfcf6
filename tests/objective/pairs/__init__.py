"""Model/guide pairs on which CorExELBO must agree with another objective.

Each pair is a function of its own, grouped by file; ``PAIRS`` has them all by name.
"""

from . import autoguides, continuous, discrete, mixed, scaled  # noqa: F401  (they register)
from .registry import LIKE_PYRO, PAIRS, Pair

__all__ = ["LIKE_PYRO", "PAIRS", "Pair"]

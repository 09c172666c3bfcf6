"""Estimators of information, and metrics."""

from . import Use

USES: list[Use] = []

"""fit and what belongs to it."""

from . import Use

USES: list[Use] = []

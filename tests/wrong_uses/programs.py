"""The ready-made programs and their parts."""

from . import Use

USES: list[Use] = []

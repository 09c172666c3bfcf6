"""The command line."""

from . import Use

USES: list[Use] = []

"""What is measured after training, and what leaves the library."""

from . import Use

USES: list[Use] = []

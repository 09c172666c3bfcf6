"""What a batch of data may be, for everything that takes data."""

from . import Use

USES: list[Use] = []

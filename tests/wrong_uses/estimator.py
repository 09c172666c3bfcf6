"""CorEx for tables, and figures."""

from . import Use

USES: list[Use] = []

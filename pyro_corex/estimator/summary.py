"""The fitted estimator in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np


def summarise(e: Any, n_columns: int) -> str:
    """See :meth:`pyro_corex.CorEx.summary`."""
    return f"tc = {e.tc_}"


__all__ = ["Counter", "np", "summarise"]

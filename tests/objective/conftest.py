import pytest


@pytest.fixture(autouse=True)
def _in_double_precision(_float64):
    """Objectives are compared to 1e-6 and better."""

"""A fitted estimator with two layers."""

import pandas as pd
import pytest

from pyro_corex import CorEx
from tests.estimator.tables import factor_table


@pytest.fixture(scope="session")
def fitted():
    x, _ = factor_table(500, 2, 3, 0.5, seed=0)
    frame = pd.DataFrame(x[:, [0, 3, 1, 4, 2, 5]], columns=list("aAbBcC"))
    return CorEx((2, 1), random_state=0).fit(frame), frame


def pytest_itemcollected(item):
    """Planted causes are often copied into several columns, which is warned of."""
    item.add_marker(pytest.mark.filterwarnings("ignore:Columns .* tell the same"))

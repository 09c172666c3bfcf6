from collections.abc import Iterator

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _fresh_pyro() -> Iterator[None]:
    """One thread, a fixed seed and an empty parameter store."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()
    torch.set_num_threads(threads)


@pytest.fixture
def _float64() -> Iterator[None]:
    """Modules and tensors of the test are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal

from pyro_corex.report import traversal


def test_one_latent_moves_and_the_others_stay():
    module = SimpleNamespace(decode=lambda z: Normal(2 * z.unflatten(1, (1, 3)), 1.0))
    z = torch.arange(6.0).view(2, 3)
    x = traversal(module, z, 1, torch.tensor([-3.0, 0.0, 3.0]))
    assert x.shape == (2, 3, 1, 3)
    assert x[1, 2, 0].tolist() == [6, 6, 10]
    assert x[0, 0, 0].tolist() == [0, -6, 4]
    assert torch.equal(z, torch.arange(6.0).view(2, 3))


def test_refuses():
    module = SimpleNamespace(decode=lambda z: Normal(z, 1.0))
    with pytest.raises(ValueError, match="no latent 3: there are 0 to 2"):
        traversal(module, torch.zeros(2, 3), 3, torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(n, m\) and \(k,\), but have \(3,\) and \(2,\)"):
        traversal(module, torch.zeros(3), 0, torch.zeros(2))

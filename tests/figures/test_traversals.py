from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Categorical, Cauchy, Independent, Normal

from pyro_corex.figures import traversal


def test_one_latent_moves_and_the_others_stay():
    module = SimpleNamespace(decode=lambda z: Normal(2 * z.unflatten(1, (1, 3)), 1.0))
    z = torch.arange(6.0).view(2, 3)
    x = traversal(module, z, 1, torch.tensor([-3.0, 0.0, 3.0]))
    assert x.shape == (2, 3, 1, 3)
    assert x[1, 2, 0].tolist() == [6, 6, 10]
    assert x[0, 0, 0].tolist() == [0, -6, 4]
    assert torch.equal(z, torch.arange(6.0).view(2, 3))


def test_levels_have_the_mean_of_their_numbers_and_a_cauchy_its_mode():
    logits = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]])
    levels = SimpleNamespace(decode=lambda z: Categorical(logits=z[:, :1, None] * logits))
    x = traversal(levels, torch.zeros(1, 1), 0, torch.tensor([2.0]))
    p = (2 * logits).softmax(-1)
    torch.testing.assert_close(x[0, 0], p[:, 1] + 2 * p[:, 2])
    heavy = SimpleNamespace(decode=lambda z: Independent(Cauchy(z, 1.0), 1))
    assert traversal(heavy, torch.zeros(1, 1), 0, torch.tensor([2.0])).tolist() == [[[2.0]]]


def test_refuses():
    module = SimpleNamespace(decode=lambda z: Normal(z, 1.0))
    with pytest.raises(ValueError, match="no latent 3: there are 0 to 2"):
        traversal(module, torch.zeros(2, 3), 3, torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(n, m\) and \(k,\), but have \(3,\) and \(2,\)"):
        traversal(module, torch.zeros(3), 0, torch.zeros(2))

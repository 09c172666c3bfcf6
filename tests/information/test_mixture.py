import math

import pytest
import torch
from torch.testing import assert_close

from pyro_corex.information import Mixture, fit_mixture, merge_states


@pytest.fixture
def z():
    torch.manual_seed(0)
    shape = torch.tensor([[2.0, 0.0], [1.5, 0.3]], dtype=torch.double)
    groups = [torch.randn(300, 2, dtype=torch.double) @ shape.T + c for c in (-6.0, 0.0, 6.0)]
    return torch.cat(groups)


def test_against_scikit_learn(z):
    from sklearn.mixture import GaussianMixture

    ours = fit_mixture(z, 3, tolerance=1e-9, max_iterations=500, ridge=1e-6)
    theirs = GaussianMixture(3, tol=1e-9, max_iter=500, n_init=4, random_state=0).fit(z.numpy())
    assert ours.log_likelihood == pytest.approx(theirs.score(z.numpy()), abs=1e-4)
    order = ours.loc[:, 0].argsort()
    want = torch.as_tensor(theirs.means_[theirs.means_[:, 0].argsort()])
    assert_close(ours.loc[order], want, rtol=1e-2, atol=1e-2)
    covariance = (ours.scale_tril @ ours.scale_tril.mT)[order]
    want = torch.as_tensor(theirs.covariances_[theirs.means_[:, 0].argsort()])
    assert_close(covariance, want, rtol=1e-2, atol=1e-2)


def test_one_component_is_the_gaussian(z):
    mixture = fit_mixture(z, 1, ridge=0.0)
    covariance = torch.cov(z.T, correction=0)
    want = -0.5 * (torch.logdet(covariance) + 2 * (1 + math.log(2 * math.pi)))
    assert mixture.log_likelihood == pytest.approx(float(want), rel=1e-9)
    assert_close(mixture.responsibilities(z), torch.ones(len(z), 1, dtype=torch.double))


def test_draws_follow_the_mixture(generator):
    tril = torch.tensor([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [0.0, 0.1]]], dtype=torch.double)
    loc = torch.tensor([[-8.0, 0.0], [8.0, 3.0]], dtype=torch.double)
    mixture = Mixture(torch.tensor([0.75, 0.25], dtype=torch.double), loc, tril, 0.0)
    z = mixture.sample(8_000, generator)
    for k, mine in enumerate((z[:, 0] < 0, z[:, 0] > 0)):
        weight, size = float(mixture.weights[k]), int(mine.sum())
        assert abs(size / 8_000 - weight) < 4 * math.sqrt(weight * (1 - weight) / 8_000)
        white = torch.linalg.solve_triangular(tril[k], (z[mine] - loc[k]).T, upper=False)
        assert_close(white.mean(1), torch.zeros(2).double(), rtol=0, atol=4 / math.sqrt(size))
        assert_close(torch.cov(white), torch.eye(2).double(), rtol=0, atol=6 / math.sqrt(size))
    assert mixture.sample(0).shape == (0, 2)


def test_copies_share_a_component():
    """Two groups along one axis; along the other, larger groups that the copies mix."""
    torch.manual_seed(0)
    group = torch.randint(2, (400,))
    copies = 0.3 * torch.randn(3, 400, 2)
    copies[..., 0] += 2.0 * group
    copies[..., 1] += 10.0 * torch.randint(2, (3, 400))
    alone = fit_mixture(copies[0], 2).responsibilities(copies[0]).argmax(1)
    both = fit_mixture(copies, 2).responsibilities(copies).argmax(1)

    def agreement(found):
        same = float((found == group).double().mean())
        return max(same, 1 - same)

    assert agreement(alone) < 0.6
    assert agreement(both) == 1.0


def test_merging_keeps_the_most_information():
    # 0 and 1 are one state, seen twice; so are 2 and 3
    block = torch.tensor([[0.5, 0.5], [0.5, 0.5]]) / 4
    joint = torch.block_diag(block, block)
    new, information = merge_states(joint, 2)
    assert new.tolist() == [0, 0, 1, 1]
    assert information == pytest.approx(math.log(2))
    new, information = merge_states(joint, 1)
    assert new.tolist() == [0, 0, 0, 0]
    assert information == pytest.approx(0.0, abs=1e-12)
    new, information = merge_states(torch.eye(3), 3)
    assert new.tolist() == [0, 1, 2]
    assert information == pytest.approx(math.log(3))


def test_errors(z):
    with pytest.raises(ValueError, match="n_components must be 1 to"):
        fit_mixture(z, 0)
    with pytest.raises(ValueError, match="without NaN and infinite values, but got such values"):
        fit_mixture(z * math.nan, 2)
    with pytest.raises(ValueError, match=r"z must be of shape \(N, d\)"):
        fit_mixture(z[:, 0], 2)
    for joint in (torch.zeros(3, 2), -torch.eye(3)):
        with pytest.raises(ValueError, match="joint must be a square table"):
            merge_states(joint, 2)
    with pytest.raises(ValueError, match="n_states must be 1 to 3"):
        merge_states(torch.eye(3), 4)

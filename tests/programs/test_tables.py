"""Tables with columns of several kinds, and Gaussian latents."""

import pytest
import torch

from pyro_corex import CorExELBO
from pyro_corex.programs.points import normal_points, simplex
from pyro_corex.programs.tables import OrderedLogit, TableSpec, TableVAE


@pytest.mark.parametrize("far", [-200.0, -50.0, 0.0, 50.0, 200.0])
def test_the_probabilities_of_ordered_levels_sum_to_one(far):
    thresholds = torch.tensor([[-1.0, 0.5, 2.0]])
    probs = OrderedLogit(torch.tensor([far]), thresholds).probs
    assert probs.sum(-1).item() == pytest.approx(1.0)
    assert int(probs.argmax()) == (0 if far < -1 else 3 if far > 2 else 1)


# ---------------------------------------------------------------------- evaluation


def program(hidden=()):
    spec = TableSpec(("continuous", "ordinal", "nominal", "counts"), (0, 4, 3, 0))
    vae = TableVAE(spec, 2, hidden).double()
    with torch.no_grad():
        vae.weight.normal_(0, 0.7)
        vae.state_weight.normal_()
    return vae


def rows(n=50):
    columns = [
        torch.randn(n),
        torch.randint(4, (n,)),
        torch.randint(3, (n,)),
        torch.randint(9, (n,)),
    ]
    return torch.stack([column.double() for column in columns], 1)


@pytest.mark.parametrize(("m", "n"), [(1, 2), (3, 2), (2, 32), (20, 32)])
def test_points_have_the_moments_of_a_normal(m, n):
    points = normal_points(m, n)
    assert len(points) >= max(n, 2 * m)
    eye = torch.eye(m, dtype=points.dtype)
    torch.testing.assert_close(points.T @ points / len(points), eye)
    cubes = torch.einsum("ka,kb,kc->abc", points, points, points)
    torch.testing.assert_close(cubes, torch.zeros_like(cubes))


def test_evaluation_is_what_many_draws_come_to_without_their_noise():
    vae, x = program(), rows()
    many = CorExELBO(num_particles=3000, vectorize_particles=True, max_plate_nesting=2)
    drawn = many.terms(vae.model, vae.guide, x)
    assert "point" not in drawn.kl
    vae.eval()
    exact = CorExELBO().terms(vae.model, vae.guide, x)
    assert exact.elbo == pytest.approx(drawn.elbo, abs=0.02)
    assert exact.elbo == CorExELBO().terms(vae.model, vae.guide, x).elbo
    assert float(exact.kl["point"].sum()) == 0.0


def test_the_bound_of_a_linear_gaussian_program_is_its_likelihood():
    torch.manual_seed(1)
    vae = TableVAE(TableSpec(("continuous",) * 5, (0,) * 5), 2).double().eval()
    w = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64))[0] * torch.tensor([1.5, 0.8])
    with torch.no_grad():
        vae.weight.copy_(w)  # orthogonal columns: the factorised encoder is exact
    x = torch.randn(30, 5, dtype=torch.float64)
    whole = torch.distributions.MultivariateNormal(torch.zeros(5).double(), w @ w.T + torch.eye(5))
    terms = CorExELBO().terms(vae.model, vae.guide, x)
    assert terms.elbo == pytest.approx(whole.log_prob(x).mean().item(), abs=1e-9)


def test_where_nothing_is_enumerated_latents_are_drawn_from_the_encoder():
    vae = program().eval()
    x = rows(1).repeat(4000, 1)
    z, q = vae.guide(x), vae.encode(x[:1])
    torch.testing.assert_close(z.mean(0), q.loc[0], atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(0), q.scale[0], atol=0.05, rtol=0)
    assert len(z.unique(dim=0)) == 4000


def test_sites_have_their_columns():
    assert program().site_columns == {
        "continuous": [0], "ordinal": [1], "counts": [3], "nominal": [2],
    }  # fmt: skip
    assert program(hidden=(8,)).n_points == program().n_points


@pytest.mark.parametrize("m", [1, 2, 5])
def test_a_simplex_has_the_moments_of_a_standard_normal(m):
    points = simplex(m)
    assert points.shape == (m + 1, m)
    torch.testing.assert_close(points.mean(0), torch.zeros(m, dtype=torch.float64))
    torch.testing.assert_close(points.T @ points / (m + 1), torch.eye(m, dtype=torch.float64))

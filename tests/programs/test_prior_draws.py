"""Draws from the prior of ready-made programs, and the hooks of which model and guide are made."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive
from torch import Tensor, nn

from pyro_corex import AnchorVAE, CorExELBO, CorExVAE, StackedCorEx, fit
from pyro_corex.programs import LearnedNormalLikelihood, conv_decoder, mlp_decoder, mlp_encoder
from pyro_corex.programs.latent_classes import LatentClasses
from pyro_corex.programs.tables import TableSpec, TableVAE

D, M = 4, 2
SPEC = TableSpec(("continuous", "ordinal", "nominal", "counts"), (0, 3, 3, 0))


def networks() -> tuple[nn.Module, nn.Module, int]:
    return mlp_encoder([D, M]), mlp_decoder([M, D]), M


PROGRAMS: dict[str, Any] = {
    "CorExVAE": lambda: CorExVAE(*networks()),
    "learned": lambda: CorExVAE(
        *networks(), likelihood=LearnedNormalLikelihood(D), prior="learned_mixture"
    ),
    "AnchorVAE": lambda: AnchorVAE(*networks(), anchors={0: 0.5}),
    "discrete top": lambda: StackedCorEx([(D, M), (M, 3)], n_classes=3),
    "continuous stack": lambda: StackedCorEx([(D, M), (M, 1)], n_classes=None),
    "classes alone": lambda: StackedCorEx([(D, 3)], n_classes=3),
    "TableVAE": lambda: TableVAE(SPEC, M),
    "TableVAE, evaluation": lambda: TableVAE(SPEC, M).eval(),
    "LatentClasses": lambda: LatentClasses(SPEC, [0, 1, 0, 1], [2, 3]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_draws_latents_and_data(name):
    program = PROGRAMS[name]()
    assert program.model().shape == program.model(None).shape == (1, D)
    assert program.model(n=5).shape == (5, D)
    trace = poutine.trace(program.model).get_trace(n=5)
    assert not trace.observation_nodes
    for parallel in (False, True):
        draws = Predictive(program.model, num_samples=6, parallel=parallel)(None)
        assert set(draws) == set(trace.stochastic_nodes) - {"data", *_plates(trace)}
        assert all(value.shape[:2] == (6, 1) for value in draws.values())


def _plates(trace: Any) -> set[str]:
    return {
        frame.name for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ())
    }


@pytest.mark.usefixtures("_float64")
def test_moments_of_a_linear_program():
    pyro.set_rng_seed(0)
    decoder = nn.Linear(M, D)
    vae = CorExVAE(mlp_encoder([D, M]), decoder, M, likelihood=LearnedNormalLikelihood(D, 0.5))
    n = 100_000
    x = Predictive(vae.model, num_samples=n, parallel=True)(None)["x"][:, 0].detach()
    w, b = decoder.weight.detach(), decoder.bias.detach()
    cov = w @ w.T + 0.25 * torch.eye(D)
    error = (cov.square() + cov.diag()[:, None] * cov.diag()).div(n).sqrt()
    assert (((x.T.cov() - cov) / error).abs() < 5).all()
    assert ((x.mean(0) - b).abs() < 5 * (cov.diag() / n).sqrt()).all()


def test_pyros_handlers_do_what_they_do_elsewhere():
    vae, x = PROGRAMS["CorExVAE"](), torch.ones(5, D)
    z = torch.tensor([[1.0, -2.0]])
    given = poutine.trace(pyro.condition(vae.model, {"z": z})).get_trace(None)
    torch.testing.assert_close(given.nodes["x"]["fn"].logits, vae.decoder(z))
    free = poutine.trace(poutine.uncondition(vae.model)).get_trace(x)
    assert not free.nodes["x"]["is_observed"]
    assert free.nodes["x"]["value"].shape == (5, D)
    drawn = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=3)(x)
    assert drawn["z"].shape == (3, 5, M)
    assert drawn["x"].shape == (3, 5, D)
    assert pyro.condition(vae.model, {"x": x})(n=5) is x


def test_images_are_drawn_in_their_shape():
    shape = (2, 8, 8)
    vae = CorExVAE(mlp_encoder([128, M]), conv_decoder(M, shape, (4,)), M)
    assert vae.model(n=3).shape == (3, *shape)
    assert Predictive(vae.model, num_samples=2)(None)["x"].shape == (2, 1, 128)


def test_gaps_of_a_table_are_drawn_by_uncondition_and_stay_gaps_otherwise():
    table, x = PROGRAMS["TableVAE"](), torch.tensor([[0.5, 1.0, 2.0, torch.nan]])
    torch.testing.assert_close(table.model(x), x, equal_nan=True)
    assert not poutine.uncondition(table.model)(x).isnan().any()


def test_n_goes_without_x():
    with pytest.raises(ValueError, match="n must be left out where x is observed"):
        PROGRAMS["CorExVAE"]().model(torch.ones(5, D), n=5)
    with pytest.raises(ValueError, match="n must be an integer >= 1, but got 0"):
        PROGRAMS["TableVAE"]().model(n=0)


# ---------------------------------------------------------------------- hooks


class Laplace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, 2 * M)

    def forward(self, x: Tensor) -> Any:
        loc, scale = self.linear(x).chunk(2, -1)
        return dist.Laplace(loc, scale.exp())


class Own(CorExVAE):
    """Positive latents, and Student's t."""

    def __init__(self) -> None:
        super().__init__(*networks(), prior=dist.LogNormal(torch.zeros(M), 1.0))
        self.log_df = nn.Parameter(torch.tensor(1.0))

    def encode(self, x: Tensor) -> Any:
        q = super().encode(x)
        return dist.LogNormal(q.loc, q.scale).to_event(1)

    def decode(self, z: Tensor) -> Any:
        return dist.StudentT(self.log_df.exp(), self.decoder(z), 1.0)


def by_hand(vae: Any, x: Tensor, z: Tensor) -> float:
    q = vae.encode(x)
    q = q.base_dist if q.event_shape else q
    kl = torch.distributions.kl_divergence(q, vae.prior()).sum(-1)
    return (vae.decode(z).log_prob(x).sum(-1) - kl).mean().item()


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    "make",
    [Own, lambda: CorExVAE(Laplace(), networks()[1], M, likelihood="normal")],
    ids=["subclass", "network"],
)
def test_other_families_give_the_bound_by_hand(make):
    vae, x = make(), torch.randn(7, D)
    pyro.set_rng_seed(1)
    found = -CorExELBO().loss(vae.model, vae.guide, x) / 7
    pyro.set_rng_seed(1)
    assert found == pytest.approx(by_hand(vae, x, vae.guide(x).detach()), abs=1e-9)


def test_parameters_of_a_subclass_are_trained():
    for how in ("SVI", "fit"):
        vae, x = Own(), torch.randn(20, D)
        before = vae.log_df.item()
        if how == "SVI":
            SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), CorExELBO()).step(x)
        else:
            fit(vae, x, epochs=1, progress=False)
        assert vae.log_df.item() != before


class Grey(CorExVAE):
    """Images with values between 0 and 1, by a distribution that is a mixture."""

    def decode(self, z: Tensor) -> Any:
        logits = self.decoder(z)
        parts = dist.Beta(logits.exp().unsqueeze(-1), logits.new_tensor([1.0, 2.0]))
        return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros_like(parts.mean)), parts)


def test_a_distribution_of_images_is_flattened():
    vae, x = Grey(mlp_encoder([6, M]), mlp_decoder([M, 6], shape=(2, 3)), M), torch.rand(5, 2, 3)
    z = torch.randn(5, M)
    trace = poutine.trace(pyro.condition(vae.model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    expected = vae.decode(z).log_prob(x).flatten(1)
    torch.testing.assert_close(trace.nodes["x"]["unscaled_log_prob"], expected)
    assert CorExELBO().terms(vae.model, vae.guide, x).reconstruction["x"].shape == (6,)
    with pytest.raises(ValueError, match=r"decode\(z\) gives MixtureSameFamily .* hold 2 "):
        vae.model(2 * torch.ones(5, 2, 3))


# ---------------------------------------------------------------------- gaps


@pytest.mark.usefixtures("_float64")
def test_a_table_with_gaps_is_fitted_and_its_bound_is_that_of_what_is_there():
    pyro.set_rng_seed(0)
    x = torch.randn(30, D)
    x[torch.rand(30, D) < 0.3] = torch.nan
    table = TableVAE(TableSpec(("continuous",) * D, (0,) * D), 1).double()
    with torch.no_grad():
        table.weight.fill_(0.7)
    fit(table, x, epochs=2, batch_size=10, progress=False)
    found = CorExELBO().terms(table.eval().model, table.guide, x).elbo
    w, b, noise = table.loadings().detach(), table.bias.detach(), (2 * table.log_scale).exp()
    cov, rows = (w @ w.T + noise.diag()).detach(), []
    for row in x:
        i = ~row.isnan()
        own = torch.distributions.MultivariateNormal(b[i], cov[i][:, i]) if i.any() else None
        rows.append(own.log_prob(row[i]) if own else torch.zeros(()))
    assert found == pytest.approx(float(torch.stack(rows).mean()), abs=1e-6)


@pytest.mark.parametrize("name", ["TableVAE", "LatentClasses"])
def test_what_cannot_be_in_a_table_is_refused_before_training(name):
    x = torch.tensor([[0.5, torch.nan, 1.0, 3.0], [0.5, 3.0, 1.0, 3.0]])
    with pytest.raises(ValueError, match=r"Column 1 is ordinal .* 0 to 2, or NaN .* holds 3"):
        fit(PROGRAMS[name](), x, epochs=1, progress=False)
    fit(PROGRAMS[name](), x[:1].repeat(8, 1), epochs=1, progress=False)


# ---------------------------------------------------------------------- units


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("kind", ["vae", "table", "classes"])
def test_a_unit_that_a_learned_scale_does_not_reach_is_told(kind, unit):
    x = torch.randn(40, 2) * torch.tensor([1.0, unit])
    spec = TableSpec(("continuous",) * 2, (0, 0))
    program = {
        "vae": lambda: CorExVAE(
            mlp_encoder([2, 1]), mlp_decoder([1, 2]), 1, likelihood="learned_normal"
        ),
        "table": lambda: TableVAE(spec, 1),
        "classes": lambda: LatentClasses(spec, [0, 0], [2]),
    }[kind]()
    with pytest.warns(UserWarning, match=r"1 of the columns .* in column 1, .* Standardise"):
        fit(program, x, epochs=1, progress=False)
    fit(program, (x - x.mean(0)) / x.std(0), epochs=1, progress=False)  # without a warning

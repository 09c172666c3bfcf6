"""Trained programs in ArviZ: the groups, and what ArviZ does with them."""

import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_corex as pc
from pyro_corex.programs import CategoricalLikelihood, mlp_decoder, mlp_encoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 tells once a day that 1.0 is coming
    az = pytest.importorskip("arviz")

V1 = int(az.__version__.split(".")[0]) >= 1


def binary(n=24):
    return torch.bernoulli(torch.full((n, 6), 0.4))


def anchored():
    networks = mlp_encoder([6, 3]), mlp_decoder([3, 6])
    return pc.AnchorVAE(*networks, 3, anchors={0: 0.5}, likelihood="bernoulli")


def of_states():
    decoder = mlp_decoder([2, 6], n_params=3)
    return pc.CorExVAE(mlp_encoder([6, 2]), decoder, 2, likelihood=CategoricalLikelihood(3))


class Own:
    """Programs without a module, whose latents are event dimensions."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.repeat(1, 3), 0.7).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] / 2, 0.5).to_event(1))


PROGRAMS = {
    "CorExVAE": lambda: pc.CorExVAE(mlp_encoder([6, 2]), mlp_decoder([2, 6]), 2),
    "states": of_states,
    "AnchorVAE": anchored,
    "two layers": lambda: pc.StackedCorEx([(6, 4), (4, 2)], n_classes=None),
    "discrete top": lambda: pc.StackedCorEx([(6, 4), (4, 3)], n_classes=3),
    "own": Own,
}


def group(exported, name):
    return exported[name]


def export(module, x, **options):
    return pc.to_arviz(module, x, **{"num_draws": 30, "num_chains": 2, **options})


@pytest.mark.parametrize("name", PROGRAMS)
def test_arviz_works_on_it(name):
    exported = export(PROGRAMS[name](), binary(8))
    sites = list(group(exported, "posterior").data_vars)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pareto k, of numbers of draws, and of ArviZ's own kind
        summary = az.summary(exported)
        loo = az.loo(exported)
        if V1:
            az.plot_forest(exported, var_names=sites[:1], backend="none")
        else:
            axes = az.plot_forest(exported, var_names=sites[:1])
            assert axes[0].get_lines()
            assert az.plot_ppc(exported, num_pp_samples=5).get_lines()
    latents = sum(group(exported, "posterior")[site][0, 0].size for site in sites)
    assert len(summary) == latents
    assert np.isfinite(summary["mean"].astype(float)).all()
    assert loo.n_data_points == 8
    assert np.isfinite(loo.elpd if V1 else loo.elpd_loo)


def test_the_draws_are_the_guides():
    module, x = anchored(), binary(10)
    exported = export(module, x.repeat(100, 1), num_draws=10)
    z = group(exported, "posterior")["z"]
    assert z.dims == ("chain", "draw", "datum", "z_dim")
    assert z.shape == (2, 10, 1000, 3)
    drawn = z.values.reshape(2000, 10, 3)  # 2,000 of each datum
    q = module.encode(x)
    error = (drawn.mean(0) - q.mean.detach().numpy()) / q.stddev.detach().numpy()
    assert np.abs(error).max() < 5 / 2000**0.5
    ratio = drawn.std(0) / q.stddev.detach().numpy()
    assert np.abs(ratio - 1).max() < 0.1


@pytest.mark.parametrize("name", PROGRAMS)
def test_data_are_drawn_again_from_the_decoder_at_the_draws(name):
    """Their mean is the decoder's, to five errors of it; and plot_ppc takes them."""
    module, x = PROGRAMS[name](), binary(5)
    exported = export(module, x, num_predictive=150, num_draws=150, num_chains=1)
    again = group(exported, "posterior_predictive")["x"]
    assert again.dims == ("chain", "draw", "datum", "x_dim")
    stack = isinstance(module, pc.StackedCorEx)
    z = torch.as_tensor(group(exported, "posterior")["z1" if stack else "z"].values[0])
    options = {"layer": 1} if stack else {}
    with torch.no_grad():
        own = dist.Normal(z.repeat(1, 1, 3), 0.7)
        p = own if name == "own" else module.decode(z.flatten(0, 1), **options)
    levels = torch.arange(3.0)
    states = name == "states"
    mean = p.probs @ levels if states else p.mean
    variance = p.probs @ levels**2 - mean**2 if states else p.variance
    mean, variance = (value.reshape(150, 5, 6).mean(0) for value in (mean, variance))
    error = (torch.as_tensor(again.values[0]).float().mean(0) - mean) / (variance / 150).sqrt()
    assert error.abs().max() < 5


def test_few_draws_of_data_are_kept_and_none_if_none_are_asked_for():
    exported = export(anchored(), binary(7), batch_size=4)
    assert group(exported, "posterior_predictive")["x"].shape == (2, 10, 7, 6)
    exported = export(anchored(), binary(7), num_predictive=0)
    assert not hasattr(exported, "posterior_predictive")


@pytest.mark.parametrize("name", ["AnchorVAE", "own"])
def test_the_log_likelihood_is_that_at_the_draws(name):
    module, x = PROGRAMS[name](), binary(7)
    exported = export(module, x, batch_size=4)  # two batches, of unequal size
    z = torch.as_tensor(group(exported, "posterior")["z"].values)
    found = torch.as_tensor(group(exported, "log_likelihood")["x"].values)
    p = dist.Normal(z.repeat(1, 1, 1, 3), 0.7) if name == "own" else None
    if p is None:
        p = module.decode(z.flatten(0, 2))
        x = x.expand(2, 30, 7, 6).flatten(0, 2)
    expected = p.log_prob(x).sum(-1).reshape(2, 30, 7)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_known_of_each_draw_adds_up_without_anchors():
    module, x = anchored(), binary(7)
    exported = export(module, x)
    z = torch.as_tensor(group(exported, "posterior")["z"].values)
    q, p = module.encode(x), module.prior()
    ratio = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    stats = group(exported, "sample_stats")
    found = torch.as_tensor(stats["log_ratio_z"].values).float()
    torch.testing.assert_close(found, ratio.detach(), rtol=1e-4, atol=1e-4)
    elbo = group(exported, "log_likelihood")["x"] - stats["log_ratio_z"]
    np.testing.assert_allclose(stats["elbo"].values, elbo.values, rtol=1e-6)


class Exact:
    """Three readings of one cause, and a guide that is the posterior."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(-1, 3), 4.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            q = dist.Normal(x.sum(-1, keepdim=True) / 19, (16 / 19) ** 0.5)
            pyro.sample("z", q.to_event(1))


def test_loo_estimates_the_marginal_likelihood_where_the_guide_is_the_posterior():
    x = torch.randn(50, 1) + 4 * torch.randn(50, 3)
    covariance = torch.ones(3, 3) + 16 * torch.eye(3)
    truth = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    exported = export(Exact(), x, num_draws=250, num_chains=4)
    loo = az.loo(exported)
    found = loo.elpd if V1 else loo.elpd_loo
    assert found == pytest.approx(float(truth.sum()), abs=0.5)
    plain = float(group(exported, "log_likelihood")["x"].mean(("chain", "draw")).sum())
    assert plain > found + 2  # what the draws, which have seen each datum, are credited with
    elbo = group(exported, "sample_stats")["elbo"].values  # ln q(x), whatever the draw
    np.testing.assert_allclose(elbo, truth.expand(4, 250, 50).numpy(), rtol=1e-4)


def test_a_discrete_top_is_drawn_and_not_summed_over():
    module, x = PROGRAMS["discrete top"](), binary(12)
    exported = export(module, x.repeat(40, 1), num_draws=10)
    z1, z2 = (torch.as_tensor(group(exported, "posterior")[site].values) for site in ("z1", "z2"))
    assert z2.shape == (2, 10, 480, 1)
    assert set(z2.unique().tolist()) <= {0, 1, 2}
    with torch.no_grad():
        logits = module.encoders[1](z1.flatten(0, 2)).reshape(800, 12, 3)  # 800 of each datum
    expected = logits.softmax(-1).mean(0)
    drawn = z2.reshape(800, 12)
    shares = torch.stack([(drawn == k).float().mean(0) for k in range(3)], -1)
    assert (shares - expected).abs().max() < 5 * (0.25 / 800) ** 0.5


def test_the_bound_and_its_terms():
    module, x = PROGRAMS["discrete top"](), binary(40)
    exported = export(module, x)
    bound = pc.tc_bound(module, x)
    assert exported.attrs["tc_bound"] == pytest.approx(bound.estimate)
    assert exported.attrs["tc_bound_stderr"] == pytest.approx(bound.stderr)
    assert exported.attrs["program"] == "StackedCorEx"
    assert exported.attrs["num_data"] == 40
    found = group(exported, "bound")
    kl = sum(float(found[f"kl_{site}"].sum()) for site in ("z1", "z2"))
    assert float(found["relevance_x"].sum()) - kl == pytest.approx(bound.estimate, rel=1e-5)
    assert found["kl_z1"].shape == (4,)
    np.testing.assert_array_equal(group(exported, "observed_data")["x"].values, x.numpy())


def test_anchors_are_told_and_the_objective_counts_them():
    exported = export(anchored(), binary())
    assert group(exported, "bound")["kl_weight_z"].values.tolist() == [0.5, 1.0, 1.0]
    assert exported.attrs["objective"] > exported.attrs["elbo"]


def test_without_a_proper_likelihood_there_is_no_bound_but_the_rest():
    exported = export(PROGRAMS["CorExVAE"](), torch.rand(20, 6))
    assert "tc_bound" not in exported.attrs
    assert "log-likelihood of nothing" in exported.attrs["tc_bound_problem"]
    assert "relevance_x" not in group(exported, "bound")
    assert np.isfinite(group(exported, "log_likelihood")["x"].values).all()


def test_draws_follow_the_seed_and_leave_torch_alone():
    module, x = anchored(), binary()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (export(module, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    z = [group(exported, "posterior")["z"].values for exported in (first, again, other)]
    np.testing.assert_array_equal(z[0], z[1])
    assert not np.array_equal(z[0], z[2])
    assert module.training


def test_a_transform_is_applied_once():
    exported = export(anchored(), torch.rand(9, 6), transform=torch.bernoulli)
    x = torch.as_tensor(group(exported, "observed_data")["x"].values)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    z = torch.as_tensor(group(exported, "posterior")["z"].values)
    assert z.shape == (2, 30, 9, 3)


def unplated(x):
    pyro.sample("z", dist.Normal(0.0, 1.0))


def observing(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


WRONG = {
    "num_draws": (anchored, {"num_draws": 0}, "num_draws must be an integer >= 1, but got 0"),
    "num_predictive": (anchored, {"num_predictive": -1}, "num_predictive must be an integer >= 0"),
    "num_chains": (anchored, {"num_chains": True}, "num_chains must be an integer"),
    "no data": (anchored, {"data": torch.zeros(0, 6)}, "The data are empty"),
    "global latent": (
        lambda: SimpleNamespace(model=observing, guide=unplated),
        {},
        "The terms are not known for each datum, which ArviZ needs",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case):
    make, options, message = WRONG[case]
    data = options.pop("data", None)
    with pytest.raises(ValueError, match=message):
        export(make(), binary() if data is None else data, **options)


def test_a_module_without_programs_is_refused():
    with pytest.raises(TypeError, match=r"Linear must have the methods \.model\(x\)"):
        export(torch.nn.Linear(6, 2), binary())


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arviz", None)
    with pytest.raises(ImportError, match="to_arviz needs ArviZ"):
        export(anchored(), binary())


def test_all_groups_are_of_the_same_transformed_data():
    """Draws between the batches must not change how the next batch is binarised."""
    module, grey = anchored(), torch.rand(9, 6)
    exported = export(module, grey, transform=torch.bernoulli, batch_size=4)
    x = torch.as_tensor(group(exported, "observed_data")["x"].values)
    z = torch.as_tensor(group(exported, "posterior")["z"].values)
    found = torch.as_tensor(group(exported, "log_likelihood")["x"].values)
    p = module.decode(z.flatten(0, 2))
    expected = p.log_prob(x.expand(2, 30, 9, 6).flatten(0, 2)).sum(-1).reshape(2, 30, 9)
    torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-4, atol=1e-5)

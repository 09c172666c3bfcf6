"""tc_bound with importance samples, against exact log-likelihoods."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_corex as pc

D, NOISE, N = 5, 0.6, 80
PRECISION = 1 + D / NOISE**2
MANY = {"batch_size": 1 << 17}


def readings(n=N, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, generator=g) + NOISE * torch.randn(n, D, generator=g)


def exact(x):
    cov = torch.ones(D, D) + NOISE**2 * torch.eye(D)
    return dist.MultivariateNormal(torch.zeros(D), cov).log_prob(x).double()


def one_cause(spread=1.6, shift=0.1, plate=None):
    """Readings of one cause; with spread 1 and shift 0 the guide is the posterior."""

    def model(x):
        with pyro.plate("data", plate or len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], D), NOISE).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", plate or len(x)):
            loc = x.sum(1, keepdim=True) / NOISE**2 / PRECISION + shift
            pyro.sample("z", dist.Normal(loc, spread * PRECISION**-0.5).to_event(1))

    return SimpleNamespace(model=model, guide=guide)


def excess(bound, x):
    """How far the bound on ln p(x) is above the truth."""
    return bound.log_likelihood.estimate - float(exact(x).mean())


def test_it_grows_towards_the_exact_log_likelihood_and_stays_below():
    x = readings()
    entropies = float(pc.information.marginal_entropy(x, "continuous").double().sum())
    gaps = {}
    for samples in (1, 5, 1000):
        found = [
            pc.tc_bound(one_cause(), x, importance_samples=samples, seed=seed, **MANY)
            for seed in range(12)
        ]
        noise = torch.tensor([excess(bound, x) for bound in found])
        gaps[samples] = float(noise.mean()), float(noise.std()) / len(found) ** 0.5
        assert gaps[samples][0] < 4 * gaps[samples][1]
        for bound in found[:1]:
            assert bound.estimate == pytest.approx(entropies + bound.log_likelihood.estimate)
    means = [mean for mean, _ in gaps.values()]
    assert means[0] < means[1] - 0.05 < means[2] - 0.05
    assert abs(means[2]) < 4 * gaps[1000][1]
    # of one draw the gap is KL(guide || posterior), in closed form
    kl = (1.6**2 - 1 + 0.1**2 * PRECISION) / 2 - math.log(1.6)
    assert -means[0] == pytest.approx(kl, abs=4 * gaps[1][1])


@pytest.mark.parametrize("samples", [1, 3, 1000])
def test_with_the_posterior_for_a_guide_each_weight_is_the_likelihood(samples):
    x = readings()
    bound = pc.tc_bound(one_cause(1.0, 0.0), x, importance_samples=samples, **MANY)
    assert excess(bound, x) == pytest.approx(0, abs=1e-5)
    assert bound.log_likelihood.stderr == pytest.approx(float(exact(x).std()) / N**0.5, rel=1e-4)
    plain = pc.tc_bound(one_cause(1.0, 0.0), x)  # whose KL is in closed form, over draws
    assert abs(plain.estimate - bound.estimate) < 4 * plain.stderr


def test_the_terms_are_those_of_the_plain_bound():
    x = readings()
    plain = pc.tc_bound(one_cause(), x, batch_size=30, num_particles=2)
    bound = pc.tc_bound(one_cause(), x, batch_size=30, num_particles=2, importance_samples=4)
    assert bound.terms.tc_bound == plain.terms.tc_bound
    assert torch.equal(bound.terms.relevance["x"], plain.terms.relevance["x"])
    assert (plain.importance_samples, plain.log_likelihood) == (None, None)
    assert (bound.importance_samples, bound.layers) == (4, ())
    shown = repr(bound)
    assert f"ln p(x) per datum >= {bound.log_likelihood!r}" in shown
    assert "K = 4 importance samples; of one draw: reconstruction" in shown


def test_the_number_of_runs_and_of_rows_is_bounded():
    rows = []
    programs = one_cause()
    counted = SimpleNamespace(
        model=lambda x: (rows.append(len(x)), programs.model(x)), guide=programs.guide
    )
    pc.tc_bound(counted, readings(), importance_samples=1000, batch_size=4000)
    assert max(rows) == 4000  # 50 draws at once
    assert len(rows) < 30
    rows.clear()
    pc.tc_bound(counted, readings(), importance_samples=3, batch_size=20)
    assert max(rows) == 20


def test_a_plate_of_fixed_size_is_run_once_for_each_draw():
    x = readings()
    bound = pc.tc_bound(one_cause(plate=N), x, importance_samples=200, **MANY)
    assert excess(bound, x) == pytest.approx(0, abs=0.02)


def test_anchors_and_scales_have_no_part_in_it():
    x = readings()
    torch.manual_seed(0)
    parts = pc.programs.mlp_encoder([D, 2]), pc.programs.mlp_decoder([2, D])
    plain = pc.CorExVAE(*parts, 2, likelihood="normal")
    anchored = pc.AnchorVAE(*parts, 2, anchors={0: 0.1}, likelihood="normal")
    found = [pc.tc_bound(vae, x, importance_samples=9).estimate for vae in (plain, anchored)]
    assert found[0] == pytest.approx(found[1])


def test_an_enumerated_class_is_drawn():
    """A mixture of two: ln p(x) in closed form, a guide that is not the posterior."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(60, 2, generator=g) + 2.0 * (torch.rand(60, 1, generator=g) < 0.5)
    centres = torch.tensor([[0.0, 0.0], [2.0, 2.0]])

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(centres[c], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            p = dist.Categorical(x.new_ones(len(x), 2))
            pyro.sample("c", p, infer={"enumerate": "parallel"})

    densities = dist.Normal(centres, 1.0).to_event(1).log_prob(x[:, None]).double()
    truth = float((densities.logsumexp(1) - math.log(2)).mean())
    bound = pc.tc_bound(
        SimpleNamespace(model=model, guide=guide), x, importance_samples=4000, **MANY
    )
    assert bound.log_likelihood.estimate == pytest.approx(truth, abs=0.02)


def test_a_stack_with_classes_on_top_and_binary_data():
    """By quadrature over the one latent of the middle layer."""
    torch.manual_seed(0)
    stack = pc.StackedCorEx([(4, 1), (1, 3)], n_classes=3, likelihood="bernoulli")
    x = torch.bernoulli(torch.full((50, 4), 0.4))
    bounds = [pc.tc_bound(stack, x, importance_samples=k, **MANY) for k in (1, 2000)]
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    found = [
        pc.tc_bound(stack, row.expand(2, 4), importance_samples=4000, **MANY).log_likelihood
        for row in patterns
    ]
    total = sum(math.exp(each.estimate) for each in found)
    assert total == pytest.approx(1, abs=0.02)  # of all that x may be
    assert bounds[0].estimate < bounds[1].estimate


def test_several_sites_and_latents_in_plates_of_their_own():
    """Each datum has three readings with a latent each, and a word for all."""

    def model(x, w):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(x.new_zeros(1), 1.0))
            pyro.sample("w", dist.Normal(a, 1.0), obs=w)
            with pyro.plate("readings", 3, dim=-1):
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x, w):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal((w + x.mean(1, keepdim=True)) / 3, 0.7))
            with pyro.plate("readings", 3, dim=-1):
                pyro.sample("b", dist.Normal((a + x) / 2, 0.8))

    g = torch.Generator().manual_seed(0)
    a = torch.randn(60, 1, generator=g)
    w, x = a + torch.randn(60, 1, generator=g), a + 2**0.5 * torch.randn(60, 3, generator=g)
    cov = torch.ones(4, 4) + torch.diag(torch.tensor([1.0, 2.0, 2.0, 2.0]))
    truth = dist.MultivariateNormal(torch.zeros(4), cov).log_prob(torch.cat([w, x], 1)).mean()
    bound = pc.tc_bound(
        SimpleNamespace(model=model, guide=guide), (x, w), importance_samples=2000, **MANY
    )
    assert bound.log_likelihood.estimate == pytest.approx(float(truth), abs=0.03)


def test_an_autoguide():
    x = readings()
    model = one_cause().model
    guide = AutoNormal(model, init_scale=0.3)
    guide(x)
    guide.locs.z.data = x.sum(1, keepdim=True) / NOISE**2 / PRECISION
    bound = pc.tc_bound(
        SimpleNamespace(model=model, guide=guide), x, importance_samples=300, **MANY
    )
    assert excess(bound, x) == pytest.approx(0, abs=0.02)


def test_a_latent_of_all_data_is_refused():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x.new_zeros(D), scale).to_event(1), obs=x)

    def guide(x):
        pyro.sample("scale", dist.LogNormal(0.0, 0.1))

    programs = SimpleNamespace(model=model, guide=guide)
    with pytest.raises(ValueError, match=r"latents that each datum has for itself.*share 'scale'"):
        pc.tc_bound(programs, readings(), importance_samples=3)


def test_programs_that_observe_other_data_each_time_are_refused():
    plain = one_cause()
    programs = SimpleNamespace(
        model=lambda x: plain.model(x + 0.01 * torch.randn_like(x)), guide=plain.guide
    )
    with pytest.raises(ValueError, match=r"observe the same data each time.*site 'x' observes"):
        pc.tc_bound(programs, readings(), importance_samples=3)


@pytest.mark.parametrize("samples", [0, -1, 2.5, True, "10"])
def test_the_number_of_samples(samples):
    with pytest.raises(ValueError, match="importance_samples must be an integer >= 1, but got"):
        pc.tc_bound(one_cause(), readings(), importance_samples=samples)


def test_what_has_no_bound_has_none_with_more_samples():
    grey = pc.CorExVAE(pc.programs.mlp_encoder([D, 1]), pc.programs.mlp_decoder([1, D]), 1)
    with pytest.raises(ValueError, match="Bernoulli, but its data hold other values"):
        pc.tc_bound(grey, torch.rand(20, D), importance_samples=3)

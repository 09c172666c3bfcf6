"""The bound on TC(x) of one batch, against closed forms."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_corex import CorExELBO, CorExTerms, CorExVAE, StackedCorEx, tc_bound
from pyro_corex.information import marginal_entropy
from pyro_corex.programs import mlp_decoder, mlp_encoder

N = 20_000


def equicorrelated(d, noise):
    """d readings of one standard normal cause, and their total correlation in nats."""
    x = torch.randn(N, 1) + noise * torch.randn(N, d)
    cov = torch.ones(d, d) + noise**2 * torch.eye(d)
    return x, 0.5 * (cov.diagonal().log().sum() - torch.logdet(cov)).item()


def exact_programs(d, noise, to_event):
    """The true model and its posterior, for which the bound is tight."""
    precision = 1 + d / noise**2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            loc = z.unsqueeze(-1).expand(-1, d)
            if to_event:
                pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)
            else:
                pyro.sample("x", dist.Normal(z, noise), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x.sum(-1) / noise**2 / precision
            pyro.sample("z", dist.Normal(loc, precision**-0.5))

    return model, guide


def test_the_bound_is_tight_at_the_true_model():
    torch.manual_seed(0)
    x, truth = equicorrelated(6, 0.5)
    terms = CorExELBO().terms(*exact_programs(6, 0.5, to_event=True), x)
    assert terms.tc_bound == pytest.approx(truth, rel=0.02)
    assert sum(terms.layers) == pytest.approx(terms.tc_bound, abs=1e-5)


def test_a_guide_that_moves_a_draw_of_its_own():
    torch.manual_seed(0)
    x, truth = equicorrelated(4, 0.5)
    model, _ = exact_programs(4, 0.5, to_event=True)
    sd = (1 + 4 / 0.5**2) ** -0.5

    def guide(x):
        with pyro.plate("data", len(x)):
            noise = dist.Normal(x.new_zeros(len(x)), sd)
            u = pyro.sample("u", noise, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u + x.sum(-1) * sd**2 / 0.5**2))

    bound = tc_bound(SimpleNamespace(model=model, guide=guide), x)
    assert bound.estimate == pytest.approx(truth, abs=4 * bound.stderr)
    assert bound.stderr < 0.05


def test_one_observed_dimension_has_no_total_correlation():
    torch.manual_seed(0)
    x, _ = equicorrelated(1, 0.5)
    terms = CorExELBO().terms(*exact_programs(1, 0.5, to_event=False), x)
    assert terms.tc_bound == pytest.approx(0.0, abs=0.05)


def test_the_layers_of_a_stack_add_up():
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((500, 12), 0.4))
    stack = StackedCorEx([(12, 16, 4), (4, 8, 3), (3, 8, 2)], n_classes=None)
    terms = CorExELBO().terms(stack.model, stack.guide, x)
    assert len(terms.layers) == 3
    assert sum(terms.layers) == pytest.approx(terms.tc_bound, abs=1e-5 * abs(terms.tc_bound))


def test_grey_values_under_a_bernoulli_are_refused():
    x = torch.rand(50, 6)
    vae = CorExVAE(mlp_encoder([6, 2]), mlp_decoder([2, 6]), 2)
    with pyro.validation_enabled(False):
        terms = CorExELBO().terms(vae.model, vae.guide, x)
    assert math.isfinite(terms.elbo)
    with pytest.raises(ValueError, match=r"(?i)binar"):
        _ = terms.tc_bound


# ---------------------------------------------------------------------- relevance and its kin


def batch_terms(model, guide, *args, **options):
    torch.manual_seed(1)
    with pyro.validation_enabled(False):
        return CorExELBO(**options).terms(model, guide, *args)


def plates_and_events(as_event, x):
    """One program written both ways."""
    n, d = x.shape

    def observe(fn):
        if as_event:
            pyro.sample("x", fn.to_event(1), obs=x.unsqueeze(-2))
        else:
            with pyro.plate("inputs", d, dim=-1):
                pyro.sample("x", fn, obs=x)

    def model(_):
        with pyro.plate("data", n, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(n, 1), 1.0))
            loc = z * torch.linspace(0.2, 1.0, d)
            observe(dist.Normal(loc.unsqueeze(-2) if as_event else loc, 0.5))

    def guide(_):
        with pyro.plate("data", n, dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 0.3))

    return model, guide, x


@pytest.mark.parametrize("as_event", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]
)
def test_relevance_is_entropy_plus_reconstruction(as_event, options):
    torch.manual_seed(0)
    x = torch.randn(300, 4) + torch.randn(300, 1)
    terms = batch_terms(*plates_and_events(as_event, x), max_plate_nesting=2, **options)
    entropy = marginal_entropy(x, "continuous")
    assert torch.allclose(terms.entropy["x"].flatten(), entropy)
    want = entropy + terms.reconstruction["x"].flatten()
    assert torch.allclose(terms.relevance["x"].flatten(), want)
    assert terms.relevance["x"].shape == terms.reconstruction["x"].shape
    bound = float(terms.relevance["x"].sum() - terms.kl["z"].sum())
    assert terms.tc_bound == pytest.approx(bound, abs=1e-8)
    assert terms.informativeness == terms.tc_bound
    assert terms.layers == (pytest.approx(terms.tc_bound),)


@pytest.mark.parametrize("options", [{}, {"num_particles": 3, "vectorize_particles": True}])
def test_terms_of_each_datum_add_up(options):
    x = torch.bernoulli(torch.full((40, 12), 0.4))
    for stack in (
        StackedCorEx([(12, 4), (4, 3)], n_classes=3),
        StackedCorEx([(12, 4), (4, 3), (3, 2)], n_classes=None),
    ):
        for parameter in stack.parameters():  # narrow layers in a chain may start with huge scales
            parameter.data *= 0.3
        terms = batch_terms(stack.model, stack.guide, x, max_plate_nesting=2, **options)
        evidence = terms.evidence
        assert evidence.size == 40
        for name, kl in terms.kl.items():
            assert float(evidence.per_datum["kl", name].mean()) == pytest.approx(float(kl.sum()))
        total = sum(evidence.signed(name).mean() for name in ["x", *terms.kl])
        assert float(total) == pytest.approx(terms.elbo)


def test_layers_of_a_discrete_top_by_hand():
    """The second layer explains z1: its entropies, its density given the classes, the KL."""
    x = torch.bernoulli(torch.full((40, 12), 0.4))
    stack = StackedCorEx([(12, 4), (4, 3)], n_classes=3)
    terms = batch_terms(stack.model, stack.guide, x, max_plate_nesting=2)
    torch.manual_seed(1)
    z = stack.encode(x)[0].rsample()
    probs = stack.encoders[1](z).softmax(-1)
    log_q = torch.stack([stack.given_top(torch.tensor([k])).log_prob(z).sum(-1) for k in range(3)])
    expected = float((probs.T * log_q).sum(0).mean().detach())
    second = float(marginal_entropy(z.detach(), "continuous").sum()) + expected
    second -= float(terms.kl["z2"].sum())
    assert terms.layers[1] == pytest.approx(second, abs=1e-6)
    assert sum(terms.layers) == pytest.approx(terms.tc_bound, abs=1e-5)


def test_a_subsample_is_the_batch():
    torch.manual_seed(0)
    data = torch.randn(200, 4)

    def model(x):
        with pyro.plate("data", 200, subsample_size=50, dim=-2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inputs", 4, dim=-1):
                pyro.sample("x", dist.Normal(z * 0.1, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", 200, subsample_size=50, dim=-2) as rows:
            pyro.sample("z", dist.Normal(x[rows].mean(1, keepdim=True), 1.0))

    terms = batch_terms(model, guide, data)
    assert terms.num_data == 200
    assert terms.evidence.size == 50
    assert float(terms.evidence.signed("x").mean()) == pytest.approx(
        float(terms.reconstruction["x"].sum())
    )
    assert math.isfinite(terms.tc_bound)


def test_terms_that_let_go_of_their_data():
    x = torch.bernoulli(torch.full((40, 12), 0.4))
    vae = CorExVAE(mlp_encoder([12, 2]), mlp_decoder([2, 12]), 2)
    terms = batch_terms(vae.model, vae.guide, x)
    kept = terms.without_data()
    assert kept.elbo == terms.elbo
    with pytest.raises(ValueError, match="have let go of their data"):
        _ = kept.relevance
    with pytest.raises(ValueError, match="have let go of their data"):
        CorExTerms.join([terms, kept])


def test_joined_batches_are_one_batch():
    """With a program that draws nothing at random that matters."""
    torch.manual_seed(0)
    x = torch.randn(300, 4)

    def programs(x):
        def model(_):
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
                with pyro.plate("inputs", 4, dim=-1):
                    pyro.sample("x", dist.Normal(torch.linspace(-1.0, 1.0, 4), 1.0), obs=x)

        def guide(_):
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 1.0))

        return model, guide, x

    whole = batch_terms(*programs(x))
    parts = [batch_terms(*programs(part)) for part in (x[:250], x[250:])]
    joined = CorExTerms.join(parts)
    assert joined.num_data == 300
    assert torch.allclose(joined.reconstruction["x"], whole.reconstruction["x"])
    assert joined.tc_bound == pytest.approx(whole.tc_bound)
    with pytest.raises(ValueError, match="no terms to join"):
        CorExTerms.join([])


@pytest.mark.parametrize(
    "options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": True}]
)
def test_what_all_data_share_is_shared_by_them(options):
    """The KL of a latent outside of the data plate, and of one that stands for others beside it."""
    n, columns = 40, 6

    def program(x, loc, observed):
        pyro.sample("mean", dist.Normal(loc, 1.0).expand((3,)).to_event(1))
        with pyro.plate("columns", columns, subsample_size=2, dim=-1):
            pyro.sample("scale", dist.Normal(loc, 1.0))
        with pyro.plate("data", n, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(n, 1), 1.0))
            with pyro.plate("inputs", 4, dim=-1):
                if observed:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    programs = (
        lambda x: program(x, torch.zeros(()), True),
        lambda x: program(x, torch.ones(()), False),
    )
    terms = batch_terms(*programs, torch.randn(n, 4), max_plate_nesting=2, **options)
    assert terms.kl["mean"].tolist() == pytest.approx([0.5 / n] * 3)
    assert float(terms.kl["scale"].sum()) == pytest.approx(0.5 * columns / n)
    evidence = terms.evidence
    for name, kl in terms.kl.items():
        assert evidence.per_datum["kl", name].shape == (n,)
        assert float(evidence.per_datum["kl", name].mean()) == pytest.approx(float(kl.sum()))
    whole, _ = evidence.whole()
    assert float(whole.mean()) == pytest.approx(terms.elbo)


# ---------------------------------------------------------------------- what is a stack


def siblings(order):
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(torch.zeros(1), 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inputs", 4, dim=-1):
                pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            for name in order:
                pyro.sample(name, dist.Normal(x.mean(1, keepdim=True), 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("order", "message"),
    [("ab", "in reverse order"), ("ba", "without regard to the latents above it")],
)
def test_siblings_are_not_layers(order, message):
    torch.manual_seed(0)
    terms = batch_terms(*siblings(order), torch.randn(50, 4))
    assert math.isfinite(terms.tc_bound)
    with pytest.raises(ValueError, match=message):
        _ = terms.layers


def test_global_latents_are_not_layers():
    torch.manual_seed(0)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inputs", 4, dim=-1):
                pyro.sample("x", dist.Normal(mu + z, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.0, 0.1))
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 1.0))

    terms = batch_terms(model, guide, torch.randn(50, 4))
    assert math.isfinite(terms.tc_bound)
    with pytest.raises(ValueError, match=r"\['mu'\] are not drawn by the guide for each"):
        _ = terms.layers


def test_a_discrete_middle_layer_is_refused():
    torch.manual_seed(0)
    infer = {"enumerate": "parallel"}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            probs = torch.stack([z.sigmoid(), 1 - z.sigmoid()], -1)
            c = pyro.sample("c", dist.Categorical(probs), infer=infer)
            loc = c.to(x.dtype).unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, torch.ones(4)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(len(x), 2)), infer=infer)
            pyro.sample("z", dist.Normal(c.to(x.dtype), 1.0))

    with pytest.raises(ValueError, match="'c' is discrete and not the top layer"):
        _ = batch_terms(model, guide, torch.randn(30, 4)).layers

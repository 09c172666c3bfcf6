"""Step: what a regularizer gets to see."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch.testing import assert_close

from pyro_corex import CorExELBO

N, D, M = 8, 4, 2


def model(x, shift=0.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
        fn = dist.Normal(z.sum(-1, keepdim=True) + shift, 1.0).expand([N, D])
        pyro.sample("x", fn.to_event(1), obs=x)


def guide(x, shift=0.0):
    scale = pyro.param("scale", torch.tensor(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :M], scale).to_event(1))


class Look:
    """Keeps the step that it is given."""

    name, weight = "look", 0.0

    def __call__(self, step):
        self.step = step
        self.seen = self.look(step)
        return step.draw("z").new_zeros(())

    def look(self, step):
        return None


def evaluate(look, told=None, **options):
    x = torch.randn(N, D)
    elbo = CorExELBO(regularizers=[look], **options)
    elbo.num_data = told
    elbo.differentiable_loss(model, guide, x, shift=1.0)
    return x, elbo.last_terms


def test_draws_distributions_data_and_programs():
    look = Look()
    look.look = lambda step: (step.draw("z"), step.q("z"), step.p("z"), step.observed("x"))
    x, _ = evaluate(look)
    z, q, p, seen = look.seen
    assert z.shape == (N, M)
    assert z.requires_grad
    assert_close(q.mean, x[:, :M])
    assert_close(p.mean, torch.zeros(N, M).expand_as(p.mean))
    assert seen is x
    assert look.step.args == (x,)
    assert look.step.kwargs == {"shift": 1.0}
    assert (look.step.model, look.step.guide) == (model, guide)


def test_the_kl_has_its_graph():
    look = Look()
    look.look = lambda step: step.kl("z")
    _, terms = evaluate(look, num_particles=3)
    assert_close(look.seen.detach(), terms.kl["z"])
    look.seen.sum().backward()
    assert pyro.param("scale").unconstrained().grad is not None


def test_the_size_of_the_data():
    look = Look()
    evaluate(look)
    assert look.step.num_data == N
    evaluate(look, told=1000)
    assert look.step.num_data == 1000


@pytest.mark.parametrize(("ask", "message"), [
    (lambda step: step.draw("y"), r"The guide has no site 'y', but \['z'\]"),
    (lambda step: step.p("y"), "The model has no site 'y'"),
    (lambda step: step.observed("z"), "Site 'z' of the model is not observed: see step.draw"),
    (lambda step: step.kl("x"), r"There is no KL of site 'x', but of \['z'\]"),
])  # fmt: skip
def test_sites_that_are_not_there(ask, message):
    look = Look()
    look.look = ask
    with pytest.raises(KeyError, match=message):
        evaluate(look)


def test_the_guide_at_other_arguments():
    look = Look()
    look.look = lambda step: step.rerun((step.args[0] + 5.0,), step.kwargs)["z"]["fn"].mean
    x, _ = evaluate(look)
    assert_close(look.seen, x[:, :M] + 5.0)


def test_a_trace_is_not_kept_alive():
    """Only the step's own references hold the draws' graph: the objective lets go of it."""
    elbo = CorExELBO(regularizers=[Look()])
    elbo.differentiable_loss(model, guide, torch.randn(N, D))
    kept = elbo._last[-1]
    assert kept.model == kept.guide == {}
    assert not any(term.value.requires_grad for term in kept.terms)


# ---------------------------------------------------------------------- the top layer


class Top:
    """Reports nothing, and keeps what the step says of the top layer."""

    name, weight = "top", 1.0

    def __call__(self, step):
        self.found = step.top_layer()
        return torch.zeros(())


def stack_model(x):
    """z3 above z2 above z1, and w beside them."""
    with pyro.plate("data", len(x)):
        z3 = pyro.sample("z3", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z2 = pyro.sample("z2", dist.Normal(z3, 1.0).to_event(1))
        mean = torch.zeros_like(z2)
        mean[...] = z2.detach()  # a write, through which labels are lost
        z1 = pyro.sample("z1", dist.Normal(mean, 1.0).to_event(1))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z1 + w, 1.0).to_event(1), obs=x)


def flat_model(x):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))  # of all data
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(shift, 1.0).expand([2]).to_event(1))
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(a + b, 1.0).to_event(1), obs=x)


def guide_in(order, above=False):
    """Draws the sites in turn, each from the one before or from the data."""

    def guide(x):
        if above:
            pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            last = x
            for name in order:
                infer = {"analytic_kl": False}
                last = pyro.sample(name, dist.Normal(last, 1.0).to_event(1), infer=infer)

    return guide


def top_of(model, guide):
    x, top = torch.randn(5, 2), Top()
    pyro.set_rng_seed(1)
    CorExELBO(regularizers=[top]).loss(model, guide, x)
    return top.found


@pytest.mark.parametrize("order", [["z1", "z2", "z3", "w"], ["w", "z3", "z2", "z1"]])
def test_the_top_layer_is_that_of_the_model_whichever_way_the_guide_goes(order):
    assert set(top_of(stack_model, guide_in(order))) == {"z3", "w"}


def test_the_top_layer_of_a_flat_program_is_all_that_data_have():
    assert top_of(flat_model, guide_in(["a", "b"], above=True)) == ["a", "b"]


@pytest.mark.parametrize(("make", "expected"), [
    (AutoNormal, {"z3_unconstrained", "w_unconstrained"}),
    (AutoMultivariateNormal, {"_AutoMultivariateNormal_latent"}),
])  # fmt: skip
def test_the_top_layer_of_an_autoguide_is_named_by_what_is_drawn(make, expected):
    assert set(top_of(stack_model, make(stack_model))) == expected


def test_the_top_layer_is_unknown_where_the_model_reads_a_value():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            shift = 1.0 if a.sum().item() > 0 else 2.0
            b = pyro.sample("b", dist.Normal(torch.zeros(2), shift).to_event(1))
            pyro.sample("x", dist.Normal(a + b, 1.0).to_event(1), obs=x)

    assert top_of(model, guide_in(["a", "b"])) is None

"""Log densities and KLs with their event dimensions kept apart, against torch's own."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence
from torch.testing import assert_close

from pyro_corex.objective import sites

B, D = 4, 3


def loc():
    torch.manual_seed(0)
    return torch.randn(B, D, dtype=torch.double)


DENSITIES = {
    "normal in events": (dist.Normal(loc(), 0.5).to_event(1), 1),
    "normal in plates": (dist.Normal(loc(), loc().exp()), 0),
    "shared scale": (dist.Normal(loc(), torch.tensor(0.5).double().expand(B, D)).to_event(1), 1),
    "bernoulli": (dist.Bernoulli(logits=loc()).to_event(1), 1),
    "masked": (dist.Bernoulli(logits=loc()).mask(loc() > 0).to_event(1), 1),
    "twice": (dist.Normal(loc().reshape(2, 2, D), 1.0).to_event(1).to_event(1), 2),
    "a joint density": (dist.MultivariateNormal(loc(), torch.eye(D).double()), 0),
    "transformed": (dist.LogNormal(loc(), 1.0).to_event(1), 1),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_log_prob(name):
    fn, n = DENSITIES[name]
    torch.manual_seed(1)
    value = fn.sample()
    found = sites.log_prob(fn, value)
    assert found[1] == n
    assert_close(sites.total(found), fn.log_prob(value))
    assert found[0].shape == fn.batch_shape + fn.event_shape[:n]


def test_the_gradient_of_a_bernoulli_at_0():
    logits = torch.zeros(2, dtype=torch.double, requires_grad=True)
    value = torch.tensor([0.0, 1.0], dtype=torch.double)
    sites.log_prob(dist.Bernoulli(logits=logits), value)[0].sum().backward()
    assert_close(logits.grad, value - 0.5)


def test_enumerated_states_need_no_look_up():
    fn = dist.Categorical(logits=loc())
    states = fn.enumerate_support(expand=False)
    assert hasattr(states, "_pyro_categorical_support")
    assert_close(sites.log_prob(fn, states)[0], fn.log_prob(states))


def test_analytic_kl():
    q, p = dist.Normal(loc(), 0.5).to_event(1), dist.Normal(loc() * 0, 1.0).to_event(1)
    value, n = sites.analytic_kl(q, p)
    assert n == 1
    assert value.shape == (B, D)
    assert_close(value.sum(-1), kl_divergence(q, p))


@pytest.mark.parametrize(("q", "p"), [
    (dist.Delta(loc()), dist.Normal(loc(), 1.0)),  # its density may be a Jacobian
    (dist.StudentT(3.0), dist.Normal(0.0, 1.0)),
])  # fmt: skip
def test_without_a_closed_form(q, p):
    assert sites.analytic_kl(q, p) is None


def test_errors_name_the_site():
    site = {"fn": dist.Normal(0.0, 1.0), "value": torch.tensor(torch.nan), "args": (), "kwargs": {}}
    with pytest.raises(ValueError, match="Error while computing log_prob at site 'z'"):
        sites.log_prob_at("z", site)

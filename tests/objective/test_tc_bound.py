"""The bound on TC(x) of one batch, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_corex import CorExELBO, CorExVAE, StackedCorEx
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

"""Latents that are masked in one of the programs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_corex import CorExELBO

X = torch.tensor([0.3, -1.0, 2.0, 0.5])
KNOWN = torch.tensor([True, False, True, False])


def model(mask=KNOWN):
    with pyro.plate("data", 4):
        with poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=X)


def guide(mask=True, **infer):
    with pyro.plate("data", 4), poutine.mask(mask=mask):
        pyro.sample("z", dist.Normal(X, 0.7), infer=infer)


@pytest.mark.parametrize("mask", [KNOWN, False])
def test_what_the_model_leaves_out_has_no_kl(mask):
    kl = torch.distributions.kl_divergence(dist.Normal(X, 0.7), dist.Normal(0.0, 1.0))
    terms = CorExELBO().terms(model, guide, mask)
    expected = float(kl[KNOWN].sum()) if mask is KNOWN else 0.0
    assert 4 * float(terms.kl["z"].sum()) == pytest.approx(expected)


@pytest.mark.parametrize("mask", [KNOWN, False])
def test_nor_a_log_ratio(mask):
    losses = []
    for elbo, own in ((CorExELBO(), True), (Trace_ELBO(), mask)):
        pyro.set_rng_seed(0)
        losses.append(elbo.loss(lambda: model(mask), lambda m=own: guide(m, analytic_kl=False)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def labels(x, known):
    with pyro.plate("data", 4):
        y = pyro.sample(
            "y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), obs=known, obs_mask=KNOWN
        )
        pyro.sample("x", dist.Normal(y - 1.0, 1.0), obs=x)


def labeller(mask):
    def found(*_):
        with pyro.plate("data", 4), poutine.mask(mask=mask):
            pyro.sample(
                "y_unobserved",
                dist.Categorical(torch.tensor([0.6, 0.3, 0.1])),
                infer={"enumerate": "parallel"},
            )

    return found


def test_labels_that_are_known_in_part_are_enumerated():
    known = torch.tensor([0, 1, 2, 0])
    expected = TraceEnum_ELBO(max_plate_nesting=1).loss(labels, labeller(~KNOWN), X, known)
    for mask in (~KNOWN, True):
        loss = CorExELBO().loss(labels, labeller(mask), X, known)
        assert loss == pytest.approx(expected, rel=1e-6)


def test_an_autoguide_of_data_without_gaps():
    """What is observed has no KL, so that each datum counts once."""

    def mean(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x, obs_mask=torch.ones(4, dtype=torch.bool))

    terms = CorExELBO().terms(mean, AutoNormal(mean), X)
    assert terms.kl["x_unobserved"].abs().sum() == 0
    assert terms.kl["mu"].sum() > 0


@pytest.mark.parametrize(("p", "q"), [(True, KNOWN), (KNOWN, ~KNOWN), (True, False)])
def test_a_guide_that_leaves_out_what_the_model_counts_is_refused(p, q):
    with pytest.raises(ValueError, match="'z' is masked in the guide where it is not in the model"):
        CorExELBO().loss(lambda: model(p), lambda: guide(q))

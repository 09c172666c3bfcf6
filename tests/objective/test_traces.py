"""Traces: what running the programs leaves, and what it costs nobody."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from pyro_corex import CorExELBO
from pyro_corex.objective.traces import Enumerate, Pair, SequentialSiteError, runs_the_model

N, K = 6, 3


def coins(how):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
            pyro.sample("x", dist.Normal(z.to(x.dtype), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = pyro.param("logits", torch.zeros(K))
            pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": how})

    return model, guide


@pytest.mark.parametrize("how", ["parallel", "sequential"])
def test_enumerated_as_pyro_does(how):
    x = torch.randn(N if how == "parallel" else 2)
    model, guide = coins(how)
    want = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    assert CorExELBO().loss(model, guide, x) == pytest.approx(want, rel=1e-6)
    assert CorExELBO(max_plate_nesting=1).loss(model, guide, x) == pytest.approx(want, rel=1e-6)


def test_a_sequential_site_is_found_once():
    model, guide = coins("sequential")
    with pytest.raises(SequentialSiteError):
        Enumerate(first_available_dim=-2)(guide)(torch.randn(2))
    elbo = CorExELBO(max_plate_nesting=1)
    elbo.loss(model, guide, torch.randn(2))
    assert elbo.pair(model, guide).sequential


def test_the_draws_are_those_of_the_objective_in_whose_place_it_stands():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3):
            pyro.sample("z", dist.StudentT(3.0))

    x = torch.randn(N)
    losses = []
    for objective in (Trace_ELBO(num_particles=2), CorExELBO(num_particles=2)):
        pyro.set_rng_seed(0)
        losses.append(objective.loss(model, guide, x))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_pairs_are_remembered():
    elbo = CorExELBO()
    programs = [coins("parallel") for _ in range(10)]
    first = elbo.pair(*programs[0])
    assert isinstance(first, Pair)
    assert elbo.pair(*programs[0]) is first
    for program in programs[1:]:
        elbo.pair(*program)
    assert elbo.pair(*programs[0]) is not first, "only the last few are kept"


def test_a_guide_that_runs_the_model():
    _, guide = coins("parallel")
    assert not runs_the_model(guide)
    assert runs_the_model(poutine.messenger.Messenger())
    with pytest.raises(ValueError, match="a guide that runs the model does not allow"):
        CorExELBO().rerun_guide(poutine.messenger.Messenger(), (), {})

"""What traces leave behind."""

import pyro
import pyro.distributions as dist
import torch
from torch.testing import assert_close

from pyro_corex import CorExELBO

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def programs(together):
    """A mean that all data share, a latent for each column, and one for each datum."""

    def program(x, loc, observed):
        pyro.sample("mean", dist.Normal(loc, 1.0))
        with pyro.plate("columns", 2, dim=-1):
            pyro.sample("slope", dist.Normal(loc, 1.0))
        if together:
            z = pyro.sample("z", dist.Normal(loc, 1.0).expand([6, 1]).to_event(2))
        else:
            with pyro.plate("data", 6, dim=-2):
                z = pyro.sample("z", dist.Normal(loc, 1.0).expand([6, 1]))
        if observed:
            with pyro.plate("rows", 6, dim=-2), pyro.plate("inputs", 2, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    zero, one = torch.zeros(()), torch.ones(())
    return lambda x: program(x, zero, True), lambda x: program(x, one, False)


def recorded(together=False):
    elbo = CorExELBO(data_plates=["rows"] if together else ["data", "rows"])
    terms = elbo.terms(*programs(together), X)
    return elbo, terms


def test_latents_that_the_data_share():
    elbo, _ = recorded()
    assert elbo.last_shared == ["mean", "slope"]


def test_a_term_for_each_datum_and_dimension_and_the_draws():
    elbo, terms = recorded(together=True)
    (source,) = terms.evidence.sources
    found = source.matrix("reconstruction", "x")
    assert found.shape == (6, 2)
    assert_close(found.sum(0) / 6, terms.reconstruction["x"].double(), rtol=1e-5, atol=1e-6)
    assert source.draws() == {}  # none is drawn for each datum
    assert elbo.last_batch_size == elbo.last_num_data == 6

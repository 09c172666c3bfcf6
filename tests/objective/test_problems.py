"""Why no bound on TC(x) is stated for a site, each with its cure."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_corex import CorExELBO


def batch_terms(model, guide, *args, **options):
    torch.manual_seed(1)
    with pyro.validation_enabled(False):
        return CorExELBO(**options).terms(model, guide, *args)


def normal_model(x, likelihood=None, mask=None, scale=1.0):
    def model(_):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            fn = dist.Normal(z, 1.0) if likelihood is None else likelihood(z)
            with (
                pyro.plate("inputs", x.shape[1], dim=-1),
                pyro.poutine.mask(mask=True if mask is None else mask),
                pyro.poutine.scale(scale=scale),
            ):
                pyro.sample("x", fn, obs=x)

    def guide(_):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))

    return model, guide, x


READINGS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
REFUSED = {
    "masked": (normal_model(READINGS, mask=READINGS > -1), "is masked"),
    "masked distribution": (
        normal_model(READINGS, lambda z: dist.Normal(z, 1.0).mask(READINGS > -1)),
        "is masked",
    ),
    "a density on counts": (
        normal_model(READINGS.round()),
        "entropies of site 'x' are not known.*use a discrete likelihood",
    ),
    "a density on bits": (normal_model((READINGS > 0).double()), "use a discrete likelihood"),
    "grey values": (
        normal_model(READINGS.sigmoid(), lambda z: dist.Bernoulli(logits=z)),
        "other values than 0 and 1.*Binarise",
    ),
    "outside of the support": (
        normal_model(READINGS, lambda z: dist.ContinuousBernoulli(logits=z)),
        "values outside of the support of its likelihood, ContinuousBernoulli",
    ),
    "delta": (normal_model(READINGS * 0, lambda z: dist.Delta(z * 0)), "no density"),
    "one datum": (normal_model(READINGS[:1]), "at least 2"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:The loss is not finite")
def test_improper_likelihoods_are_refused(name):
    programs, message = REFUSED[name]
    terms = batch_terms(*programs, data_plates=["data"])
    for read in ("entropy", "relevance", "tc_bound", "informativeness", "layers"):
        with pytest.raises(ValueError, match=message):
            getattr(terms, read)


@pytest.mark.parametrize("scale", [0.5, torch.linspace(0.5, 3.0, 60)[:, None]])
def test_the_scale_of_a_likelihood_is_no_part_of_the_bound(scale):
    terms = batch_terms(*normal_model(READINGS, scale=scale))
    free = batch_terms(*normal_model(READINGS))
    assert terms.tc_bound == pytest.approx(free.tc_bound, rel=1e-10)
    assert terms.objective != pytest.approx(free.objective, rel=1e-3)
    for key, term in free.evidence.per_datum.items():
        torch.testing.assert_close(terms.evidence.per_datum[key], term)


def test_a_likelihood_that_does_not_factorise_is_refused():
    x = torch.randn(20, 3)

    def model(x):
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            loc = z.unsqueeze(-1).expand(20, 3)
            pyro.sample("x", dist.MultivariateNormal(loc, torch.eye(3)), obs=x)

    def guide(x):
        with pyro.plate("data", 20):
            pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    with pytest.raises(ValueError, match="MultivariateNormal, does not factorise"):
        _ = batch_terms(model, guide, x).tc_bound


def test_a_subsample_of_the_inputs_is_refused():
    x = torch.randn(20, 6)

    def model(x):
        with pyro.plate("data", 20, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("inputs", 6, subsample_size=2, dim=-1) as columns:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, columns])

    def guide(x):
        with pyro.plate("data", 20, dim=-2):
            pyro.sample("z", dist.Normal(x.mean(1, keepdim=True), 1.0))

    with pytest.raises(ValueError, match="sees 2 of the 6 input dimensions"):
        _ = batch_terms(model, guide, x).tc_bound


def test_no_data_plate_is_refused():
    x = torch.randn(6)

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, torch.ones(6)).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x.mean(), 1.0))

    with pytest.raises(ValueError, match="not in a plate of data"):
        _ = batch_terms(model, guide, x).tc_bound


def test_nothing_observed_is_refused():
    def program():
        with pyro.plate("data", 5):
            pyro.sample("z", dist.Normal(torch.zeros(5), 1.0))

    with pytest.raises(ValueError, match="observes nothing"):
        _ = batch_terms(program, program).tc_bound


@pyro.infer.config_enumerate
def mixture(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.ones(2)))
        loc = torch.tensor([-1.0, 1.0])[c].unsqueeze(-1)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def test_latents_that_the_model_sums_out_are_refused():
    terms = batch_terms(mixture, lambda x: None, torch.randn(20, 1))
    with pytest.raises(ValueError, match="summed with latents that the model enumerates"):
        _ = terms.tc_bound

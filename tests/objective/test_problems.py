"""Why no bound on TC(x) is stated for a site, each with its cure."""

import math
import warnings
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

import pyro_corex as pc
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


@pyro.infer.config_enumerate
def mixture_of_sites(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.5))
        for j in range(3):
            pyro.sample(f"x{j}", dist.Bernoulli(0.1 + 0.8 * c), obs=x[:, j])


def test_latents_that_the_model_sums_out_are_refused():
    for model, x in ((mixture, torch.randn(20, 1)), (mixture_of_sites, torch.eye(3))):
        terms = batch_terms(model, lambda x: None, x)
        with pytest.raises(ValueError, match="summed with latents that the model enumerates"):
            _ = terms.tc_bound


# ---------------------------------------------------------------------- latents


def of_latents(in_model, in_guide, observe=lambda z: dist.Normal(z, 1.0)):
    """Four readings; ``in_model(x)`` and ``in_guide(x)`` draw the latents, the first gives z."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = in_model(x)
            with pyro.plate("inputs", x.shape[1], dim=-1):
                pyro.sample("x", observe(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            in_guide(x)

    return model, guide, READINGS


def zero(x):
    return x.new_zeros(len(x), 1)


def normal(x, name="z", scale=1.0):
    return pyro.sample(name, dist.Normal(zero(x), scale))


def with_factor(value, then=normal, **options):
    def latents(x):
        pyro.factor("extra", value + zero(x), **options)
        return then(x)

    return latents


def masked(x):
    with poutine.mask(mask=torch.arange(len(x))[:, None] > 0):
        return normal(x)


def masked_distribution(x):
    return pyro.sample("z", dist.Normal(zero(x), 1.0).mask(torch.arange(len(x))[:, None] > 0))


def never_masked(x):
    with poutine.mask(mask=torch.arange(len(x))[:, None] >= 0):
        return normal(x)


def moved(x):
    """As autoguides do it: z = 1 + 2 u, whose density is that of u, divided by 2."""
    u = pyro.sample("u", dist.Normal(zero(x), 0.5), infer={"is_auxiliary": True})
    log_density = torch.full_like(u, -math.log(2))
    return pyro.sample("z", dist.Delta(1 + 2 * u, log_density=log_density))


def unpaired(x):
    pyro.sample("u", dist.Normal(zero(x), 100.0), infer={"is_auxiliary": True})
    return normal(x)


def point(x):
    return pyro.sample("z", dist.Delta(x.mean(1, keepdim=True)))


def beside(x):
    """A random site from which the point is not computed."""
    pyro.sample("u", dist.Normal(zero(x), 100.0), infer={"is_auxiliary": True})
    return point(x)


def observing(x):
    pyro.sample("label", dist.Normal(zero(x), 1.0), obs=x[:, :1])
    return normal(x)


def improper(x):
    return pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))


UNNORMALISED = {
    "a factor in the guide": (
        of_latents(normal, with_factor(0.5, has_rsample=True)),
        "The guide has the factor 'extra', and an unnormalised program bounds nothing",
    ),
    "a factor in the guide that is drawn": (
        of_latents(normal, with_factor(0.5, has_rsample=False)),
        "The guide has the factor 'extra'",
    ),
    "a factor in the model": (
        of_latents(with_factor(0.5), normal),
        "The model has the factor 'extra'",
    ),
    "a guide that observes": (of_latents(normal, observing), "The guide observes site 'label'"),
    "a latent that the model lacks": (
        of_latents(normal, unpaired),
        "The guide draws 'u', which the model lacks",
    ),
    "a point": (of_latents(normal, point), "The guide puts 'z' at a point"),
    "a point beside a draw": (
        of_latents(normal, beside),
        "The guide draws 'u', which the model lacks",
    ),
    "an improper prior": (of_latents(improper, normal), "The prior of site 'z' is improper"),
    "a masked distribution in the guide": (
        of_latents(normal, masked_distribution),
        "latent site 'z' is masked in the guide",
    ),
    "a mask in both": (of_latents(masked, masked), "latent site 'z' is masked in the model"),
    "a masked distribution": (
        of_latents(masked_distribution, masked_distribution),
        "latent site 'z' is masked in the model",
    ),
}
HARMLESS = {
    "factors of 0": of_latents(with_factor(0.0), with_factor(0.0, has_rsample=True)),
    "masks that hide nothing": of_latents(never_masked, never_masked),
    "a mask that hides no data": of_latents(
        normal, normal, lambda z: dist.Normal(z, 1.0).mask(z.isfinite())
    ),
    "a point that moves with a draw": of_latents(normal, moved),
}


@pytest.mark.parametrize("name", UNNORMALISED)
@pytest.mark.filterwarnings("ignore:The loss is not finite")
def test_unnormalised_programs_are_refused(name):
    programs, message = UNNORMALISED[name]
    terms = batch_terms(*programs)
    for read in ("tc_bound", "informativeness"):
        with pytest.raises(ValueError, match=message):
            getattr(terms, read)
    with pytest.raises(ValueError, match=message):
        pc.tc_bound(SimpleNamespace(model=programs[0], guide=programs[1]), programs[2])


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_not_refused(name):
    """All are worth what they would be without it: a guide Normal(0, 1), or Normal(1, 1)."""
    model, guide, x = HARMLESS[name]
    elbo = CorExELBO(400, vectorize_particles=True)
    terms = elbo.terms(model, guide, x)
    loc = float(name == "a point that moves with a draw")
    plain = of_latents(normal, lambda x: pyro.sample("z", dist.Normal(loc + zero(x), 1.0)))
    assert terms.tc_bound == pytest.approx(elbo.terms(*plain).tc_bound, abs=0.1)


def test_a_discrete_point_is_a_guide_like_any_other():
    """Its KL is -ln p, here ln 2."""

    def coin(x):
        return pyro.sample("z", dist.Bernoulli(zero(x) + 0.5))

    def heads(x):
        return pyro.sample("z", dist.Delta((x[:, :1] > 0).to(x)))

    terms = batch_terms(*of_latents(coin, heads))
    assert float(terms.kl["z"]) == pytest.approx(math.log(2))
    assert math.isfinite(terms.tc_bound)


@pytest.mark.parametrize(
    "make", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal]
)
@pytest.mark.parametrize("prior", [dist.Normal(0.0, 1.0), dist.LogNormal(0.0, 1.0)])
def test_autoguides_have_bounds(make, prior):
    model, _, x = of_latents(lambda x: pyro.sample("z", prior.expand((len(x), 1))), normal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pyro's, about the full covariance of 60 latents
        terms = CorExELBO(data_plates=["data"]).terms(model, make(model), x.float())
    assert math.isfinite(terms.tc_bound)
    with pytest.raises(ValueError, match="The guide puts 'z' at a point"):
        _ = CorExELBO().terms(model, AutoDelta(model), x.float()).tc_bound


def test_what_is_missing_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            seen = x[:, 0] > 0
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0], obs_mask=seen)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x_unobserved", dist.Normal(torch.zeros(len(x)), 1.0))

    with pytest.raises(ValueError, match="Site 'x_observed' is masked"):
        _ = batch_terms(model, guide, READINGS).tc_bound


def test_data_that_share_a_latent_are_refused():
    """Documents of words, where the words are taken for the data."""

    def program(x, observed):
        with pyro.plate("documents", len(x), dim=-2):
            theta = normal(x, "theta")
            with pyro.plate("words", x.shape[1], dim=-1):
                z = pyro.sample("z", dist.Normal(theta.expand(x.shape), 1.0))
                if observed:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    programs = (lambda x: program(x, True)), (lambda x: program(x, False)), READINGS
    with pytest.raises(ValueError, match=r"'theta' is drawn once.*data_plates=\['documents'\]"):
        _ = batch_terms(*programs).tc_bound
    assert math.isfinite(batch_terms(*programs, data_plates=["documents"]).tc_bound)


def test_sites_of_different_data_are_refused():
    def program(x, observed):
        for name, part in (("a", x[:20]), ("b", x[20:])):
            with pyro.plate(f"data of {name}", len(part), dim=-2):
                z = normal(part, f"z_{name}")
                with pyro.plate(f"inputs of {name}", part.shape[1], dim=-1):
                    if observed:
                        pyro.sample(name, dist.Normal(z, 1.0), obs=part)

    programs = (lambda x: program(x, True)), (lambda x: program(x, False)), READINGS
    with pytest.raises(ValueError, match=r"'a' is not in all plates of data.*'data of b'"):
        _ = batch_terms(*programs).tc_bound

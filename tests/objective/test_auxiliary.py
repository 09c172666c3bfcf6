"""Auxiliary sites of autoguides: the KL stands under the model's site, whole."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, autoguide
from torch.distributions import biject_to
from torch.testing import assert_close

from pyro_corex import CorExELBO, anchor

from .pairs.autoguides import noisy_regression
from .pairs.registry import D, N, reals

SITES = ["noise", "w", "share"]


def evaluated(make, model=noisy_regression, **options):
    x = reals(N, D)
    args = (x, x.sum(-1))
    guide = make(model)
    guide(*args)
    pyro.set_rng_seed(1)
    guide_trace = pyro.poutine.trace(guide).get_trace(*args)
    model_trace = pyro.poutine.trace(pyro.poutine.replay(model, guide_trace)).get_trace(*args)
    pyro.set_rng_seed(1)
    return CorExELBO(**options).terms(model, guide, *args), model_trace.nodes, guide_trace.nodes


def log_ratio(model, guide, name, log_q):
    """ln q(z) - ln p(z) of each dimension, from the density of the unconstrained value."""
    fn, z = model[name]["fn"], guide[name]["value"]
    support, p = fn.support, fn
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    while isinstance(p, dist.Independent):
        p = p.base_dist
    transform = biject_to(support)
    u = transform.inv(z)
    return log_q(u) - transform.log_abs_det_jacobian(u, z) - p.log_prob(z)


def test_a_site_for_each_latent():
    terms, model, guide = evaluated(autoguide.AutoNormal)
    assert set(terms.kl) == set(SITES)
    for name in SITES:
        fn = guide[f"{name}_unconstrained"]["fn"]
        base = fn.base_dist if isinstance(fn, dist.Independent) else fn
        kl = log_ratio(model, guide, name, base.log_prob).detach()
        kl = kl.sum(0) if name == "share" else kl  # one for each datum
        assert_close(terms.kl[name], kl / N, rtol=1e-6, atol=1e-6)


def test_a_flat_draw_that_factorises_is_split():
    terms, model, guide = evaluated(autoguide.AutoDiagonalNormal)
    assert set(terms.kl) == set(SITES)
    base, start = guide["_AutoDiagonalNormal_latent"]["fn"].base_dist, 0
    for name in SITES:
        part = slice(start, start + guide[name]["value"].numel())
        start = part.stop
        own = dist.Normal(base.loc[part], base.scale[part])
        kl = log_ratio(model, guide, name, lambda u, q=own: q.log_prob(u.reshape(q.batch_shape)))
        kl = kl.detach().sum(0) if name == "share" else kl.detach().reshape(terms.kl[name].shape)
        assert_close(terms.kl[name], kl / N, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    lambda model: autoguide.AutoIAFNormal(model, hidden_dim=[12]),
])  # fmt: skip
def test_latents_that_are_drawn_together_have_one_kl(make):
    terms, model, guide = evaluated(make)
    (auxiliary,) = [name for name in guide if name.endswith("latent")]
    kl = guide[auxiliary]["fn"].log_prob(guide[auxiliary]["value"])
    for name in SITES:
        z = guide[name]["value"]
        kl = kl + (guide[name]["fn"].log_prob(z) - model[name]["fn"].log_prob(z)).sum()
    assert set(terms.kl) == {"noise+w+share"}
    assert_close(terms.kl["noise+w+share"], kl.detach() / N)


@pytest.mark.parametrize("make", [
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
])  # fmt: skip
def test_an_anchor_weighs_the_whole_kl(make):
    y = torch.randn(7)

    def model(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    guide = make(model, init_scale=0.4)
    programs = [anchor(fn, {"z": 0.25}) for fn in (model, guide)]
    programs[1](y)
    pyro.set_rng_seed(1)
    terms = CorExELBO().terms(*programs, y)
    pyro.set_rng_seed(1)
    assert -terms.elbo * 7 == pytest.approx(Trace_ELBO().loss(model, guide, y), rel=1e-6)
    assert set(terms.kl) == {"z"}
    kl = float(terms.kl["z"].sum())
    seen = float(terms.reconstruction["y"].sum())
    assert terms.objective == pytest.approx(seen - 0.25 * kl, rel=1e-6)
    by_datum = terms.evidence.per_datum
    if make is autoguide.AutoMultivariateNormal:
        assert not by_datum
    else:
        assert float(by_datum["kl", "z"].mean()) == pytest.approx(kl)


def test_weights_that_differ_within_one_kl_are_refused():
    x = reals(N, D)
    guide = autoguide.AutoMultivariateNormal(noisy_regression)
    programs = [anchor(fn, {"w": 0.5}) for fn in (noisy_regression, guide)]
    with pytest.raises(ValueError, match=r"same number to each latent .* got none for"):
        CorExELBO().loss(*programs, x, x.sum(-1))


def model_of_one(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 0.01).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_no_bound_follows_from_a_point():
    """ln p(z) is 6.9 - 1.8 nats at a point of this prior: a "KL" below 0, and a bound too high."""
    x = reals(20, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x), 2)).to_event(1))

    terms = CorExELBO().terms(model_of_one, guide, x)
    assert float(terms.kl["z"].sum()) < 0
    with pytest.raises(ValueError, match="ln p of a point is a density and no KL"):
        _ = terms.tc_bound


def test_no_bound_follows_from_a_draw_that_the_model_lacks():
    x = reals(20, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x, 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 1.0).to_event(1))

    terms = CorExELBO().terms(model_of_one, guide, x)
    with pytest.raises(ValueError, match="draws 'u', which the model lacks"):
        _ = terms.tc_bound

"""Guides that Pyro writes.

On constrained latents they are compared with ``Trace_ELBO``: the Jacobian of the transform is the
``log_density`` of a ``Delta``, which the closed form that Pyro registers, and with it
``TraceMeanField_ELBO``, leaves out.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
)
from pyro.poutine import block

from .registry import D, N, pair, positive, real, reals


def regression(x, y):
    """Unconstrained latents."""
    bias = pyro.sample("bias", dist.Normal(real("bias.prior"), 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(D), positive("w.prior")).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(bias + (x * w).sum(-1), 1.0), obs=y)


def noisy_regression(x, y):
    """Constrained latents too, one of them local."""
    noise = pyro.sample("noise", dist.LogNormal(real("noise.prior"), 1.0))
    w = pyro.sample("w", dist.Gamma(2.0 * torch.ones(D), positive("w.prior")).to_event(1))
    with pyro.plate("data", len(x)):
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        pyro.sample("y", dist.Normal(share * (x * w).sum(-1), noise), obs=y)


def fit_to(model, make_guide):
    x = reals(N, D)
    return model, make_guide(model), (x, x.sum(-1))


@pair(TraceMeanField_ELBO)
def auto_normal_unconstrained():
    return fit_to(regression, AutoNormal)


@pair(Trace_ELBO)
def auto_normal_constrained():
    return fit_to(noisy_regression, AutoNormal)


@pair(Trace_ELBO, num_particles=3)
def auto_diagonal_normal():
    return fit_to(noisy_regression, AutoDiagonalNormal)


@pair(Trace_ELBO)
def auto_low_rank():
    return fit_to(noisy_regression, AutoLowRankMultivariateNormal)


@pair(Trace_ELBO, num_particles=3, vectorize_particles=True, max_plate_nesting=1)
def auto_multivariate_normal():
    return fit_to(regression, AutoMultivariateNormal)


@pair(Trace_ELBO)
def auto_delta():
    """A maximum a posteriori estimate, in constrained space."""
    return fit_to(noisy_regression, AutoDelta)


@pair(Trace_ELBO)
def auto_guide_list():
    def make(model):
        guide = AutoGuideList(model)
        guide.append(AutoNormal(block(model, hide=["w"])))
        guide.append(AutoDiagonalNormal(block(model, expose=["w"])))
        return guide

    return fit_to(noisy_regression, make)


@pair(Trace_ELBO, num_particles=2)
def auto_normal_messenger():
    """A guide that runs the model, and follows it site by site."""
    return fit_to(noisy_regression, AutoNormalMessenger)

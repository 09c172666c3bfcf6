"""Continuous and discrete latents in one program.

``TraceEnum_ELBO`` samples every continuous log-ratio.  It is the reference where the sites are
marked ``analytic_kl=False``; where they have a closed form the loss is written out.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import TraceEnum_ELBO
from torch.distributions import kl_divergence

from .registry import D, M, N, bits, linear, pair, positive, real, reals, simplex

K = 2
PARALLEL = {"enumerate": "parallel"}
SAMPLED = {"analytic_kl": False}

# ---------------------------------------------------------------------- a class above the latents


def one_hot(z):
    return torch.nn.functional.one_hot(z, K).to(torch.get_default_dtype())


def stack_model(x):
    """z2 is the class; z1's prior depends on it."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Categorical(simplex("z2.prior", K)), infer=PARALLEL)
        fn = dist.Normal(real("z1.loc", K, M)[z2], positive("z1.scale", K, M)[z2])
        z1 = pyro.sample("z1", fn.to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=linear(z1, "decoder", D)).to_event(1), obs=x)


def stack_guide(x):
    """z1 from x, the class from z1: the log-ratio of z1 has to be sampled."""
    with pyro.plate("data", len(x)):
        fn = dist.Normal(linear(x, "encoder", M), positive("q.scale", M))
        z1 = pyro.sample("z1", fn.to_event(1), infer=SAMPLED)
        pyro.sample("z2", dist.Categorical(logits=linear(z1, "class", K)), infer=PARALLEL)


@pair(TraceEnum_ELBO)
def stack():
    return stack_model, stack_guide, (bits(N, D),)


@pair(TraceEnum_ELBO, num_particles=3)
def stack_particles():
    return stack_model, stack_guide, (bits(N, D),)


@pair(TraceEnum_ELBO, num_particles=3, vectorize_particles=True)
def stack_particles_vectorised():
    return stack_model, stack_guide, (bits(N, D),)


@pair()
def stack_by_hand():
    def by_hand(x):
        q1 = dist.Normal(linear(x, "encoder", M), positive("q.scale", M).expand(N, M))
        q1.rsample()  # the first run finds the nesting of the plates; it draws a class as well
        dist.Categorical(logits=torch.zeros(N, K)).sample()
        z1 = q1.rsample()
        log_q2 = linear(z1, "class", K).log_softmax(-1)
        p1 = dist.Normal(real("z1.loc", K, M), positive("z1.scale", K, M))
        log_p = p1.log_prob(z1.unsqueeze(1)).sum(-1) + simplex("z2.prior", K).log()
        log_lik = dist.Bernoulli(logits=linear(z1, "decoder", D)).log_prob(x)
        kl = q1.log_prob(z1).sum() + (log_q2.exp() * (log_q2 - log_p)).sum()
        return kl - log_lik.sum()

    return stack_model, stack_guide, (bits(N, D),), by_hand


@pair(TraceEnum_ELBO)
def stack_of_plates():
    """The shape of ``StackedCorEx``: two layers of latents in plates, the class on a plate of 1."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z3 = pyro.sample("z3", dist.Categorical(simplex("z3.prior", K)), infer=PARALLEL)
            h = one_hot(z3.squeeze(-1))
            with pyro.plate("latents_2", 2, dim=-1):
                z2 = pyro.sample("z2", dist.Normal(linear(h, "down3", 2), 0.8))
            with pyro.plate("latents_1", M, dim=-1):
                z1 = pyro.sample("z1", dist.Normal(linear(z2, "down2", M), 0.6))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Bernoulli(logits=linear(z1, "down1", D)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("latents_1", M, dim=-1):
                z1 = pyro.sample("z1", dist.Normal(linear(x, "up1", M), 0.5), infer=SAMPLED)
            with pyro.plate("latents_2", 2, dim=-1):
                z2 = pyro.sample("z2", dist.Normal(linear(z1, "up2", 2), 0.5), infer=SAMPLED)
            logits = linear(z2, "up3", K).unsqueeze(-2)
            pyro.sample("z3", dist.Categorical(logits=logits), infer=PARALLEL)

    return model, guide, (bits(N, D),)


# ---------------------------------------------------------------------- latents given a class


def class_then_latents(infer):
    """Guide and model both draw the class first, then the latents given it."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(simplex("c.prior", K)), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(real("z.loc", K, M)[c], 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=linear(z, "decoder", D)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = linear(x, "class", K)
            c = pyro.sample("c", dist.Categorical(logits=logits), infer=PARALLEL)
            loc = linear(x, "encoder", M) + real("shift", K, M)[c]
            pyro.sample("z", dist.Normal(loc, positive("q.scale", M)).to_event(1), infer=infer)

    return model, guide, (bits(N, D),)


def class_then_latents_by_hand(c_weight=1.0, z_weight=1.0):
    """Sum over the class of its weight and the closed KL, each class with a sample of its own."""

    def by_hand(x):
        log_q = linear(x, "class", K).log_softmax(-1)
        loc = linear(x, "encoder", M) + real("shift", K, M).unsqueeze(1)
        q = dist.Normal(loc, positive("q.scale", M).expand(K, N, M))
        z = q.rsample()
        p = dist.Normal(real("z.loc", K, M).unsqueeze(1), 1.0)
        log_lik = dist.Bernoulli(logits=linear(z, "decoder", D)).log_prob(x).sum(-1)
        kl_z = (z_weight * kl_divergence(q, p)).sum(-1)
        kl_c = c_weight * (log_q - simplex("c.prior", K).log())
        return (log_q.exp() * (kl_c + (kl_z - log_lik).T)).sum()

    return by_hand


@pair(TraceEnum_ELBO)
def latents_given_class_sampled():
    return class_then_latents(SAMPLED)


@pair(max_plate_nesting=1)
def latents_given_class():
    return *class_then_latents({}), class_then_latents_by_hand()


@pair(TraceEnum_ELBO, num_particles=3, vectorize_particles=True)
def latents_given_class_particles_vectorised():
    return class_then_latents(SAMPLED)


@pair(TraceEnum_ELBO)
def latents_given_class_subsampling():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3, dim=-2) as index:
            c = pyro.sample("c", dist.Categorical(simplex("c.prior", K)), infer=PARALLEL)
            with pyro.plate("latents", M, dim=-1):
                z = pyro.sample("z", dist.Normal(real("z.loc", K, M)[c.squeeze(-1)], 1.0))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3, dim=-2) as index:
            logits = linear(x[index], "class", K).unsqueeze(-2)
            pyro.sample("c", dist.Categorical(logits=logits), infer=PARALLEL)
            with pyro.plate("latents", M, dim=-1):
                pyro.sample("z", dist.Normal(linear(x[index], "encoder", M), 0.5), infer=SAMPLED)

    return model, guide, (reals(N, D),)


@pair(TraceEnum_ELBO)
def local_importance_samples():
    """Several parallel samples of a continuous site (``num_samples``)."""
    infer = {"enumerate": "parallel", "num_samples": 4}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(real("r.loc"), positive("r.scale")))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(real("gain") * x, positive("q.scale")), infer=infer)

    return model, guide, (reals(N),)


@pair(TraceEnum_ELBO, strict_enumeration_warning=False, max_plate_nesting=1)
def rejection_sampler():
    """A sampler whose gradient is partly a path and partly a score; no plate, hence no baseline."""

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(positive("r.a"), positive("r.b")))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Exponential(rate), obs=x)

    def guide(x):
        pyro.sample("rate", ShapeAugmentedGamma(positive("q.a"), positive("q.b")), infer=SAMPLED)

    return model, guide, (reals(N).exp(),)


# ---------------------------------------------------------------------- a class only in the model


def mixture_model(x):
    """Locations from the guide, components summed over in the model."""
    with pyro.plate("components", K):
        locs = pyro.sample("locs", dist.Normal(real("locs.prior"), positive("locs.width")))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(simplex("weights", K)), infer=PARALLEL)
        pyro.sample("x", dist.Normal(locs[c], positive("noise")), obs=x)


def mixture_guide(infer):
    def guide(x):
        with pyro.plate("components", K):
            pyro.sample("locs", dist.Normal(real("q.loc", K), positive("q.scale", K)), infer=infer)

    return guide


@pair(TraceEnum_ELBO)
def mixture_sampled():
    return mixture_model, mixture_guide(SAMPLED), (reals(N),)


@pair(max_plate_nesting=1)
def mixture():
    def by_hand(x):
        q = dist.Normal(real("q.loc", K), positive("q.scale", K))
        log_p = dist.Normal(q.rsample(), positive("noise")).log_prob(x.unsqueeze(-1))
        kl = kl_divergence(q, dist.Normal(real("locs.prior"), positive("locs.width")))
        return kl.sum() - (simplex("weights", K).log() + log_p).logsumexp(-1).sum()

    return mixture_model, mixture_guide({}), (reals(N),), by_hand


@pair(TraceEnum_ELBO)
def latents_given_a_class_of_the_model():
    """The prior of a guide's latent depends on a class that is summed over in the model."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(simplex("c.prior", K)), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(real("z.loc", K, M)[c], 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=linear(z, "decoder", D)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), 0.5).to_event(1))

    return model, guide, (bits(N, D),)

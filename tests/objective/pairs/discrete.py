"""Discrete latents, summed over exactly in the guide or in the model."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex
from torch.distributions import constraints

from .registry import D, N, bits, linear, pair, positive, real, reals, simplex

K = 3  # classes
PARALLEL = {"enumerate": "parallel"}
SEQUENTIAL = {"enumerate": "sequential"}


class Certain(dist.Bernoulli):
    """A Bernoulli whose log density is minus infinity where it should be."""

    def log_prob(self, value):
        return torch.where(value > 0, self.probs.log(), (1 - self.probs).log())


def bernoulli_mixture(infer):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(simplex("prior", K)), infer=infer)
            logits = real("decoder", K, D)[z]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = linear(x, "encoder", K)
            pyro.sample("z", dist.Categorical(logits=logits), infer=infer)

    return model, guide, (bits(N, D),)


# ---------------------------------------------------------------------- summed over in the guide


@pair(TraceEnum_ELBO)
def parallel():
    return bernoulli_mixture(PARALLEL)


@pair(TraceEnum_ELBO)
def sequential():
    return bernoulli_mixture(SEQUENTIAL)


@pair()
def parallel_by_hand():
    model, guide, (x,) = bernoulli_mixture(PARALLEL)

    def by_hand(x):
        log_q = linear(x, "encoder", K).log_softmax(-1)
        log_p = simplex("prior", K).log()
        log_lik = dist.Bernoulli(logits=real("decoder", K, D)).log_prob(x.unsqueeze(1)).sum(-1)
        return (log_q.exp() * (log_q - log_p - log_lik)).sum()

    return model, guide, (x,), by_hand


@pair(TraceEnum_ELBO)
def sequential_plate_of_data():
    """Every datum a site of its own, enumerated one after the other."""

    def model(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Bernoulli(simplex("prior", 2)[0]), infer=SEQUENTIAL)
            pyro.sample(f"x_{i}", dist.Normal(real("decoder", 2)[z.long()], 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z_{i}", dist.Bernoulli(logits=real("encoder") * x[i]), infer=SEQUENTIAL)

    return model, guide, (reals(2),)


def two_sites(a_infer, b_infer):
    """The guide draws b from a; the model draws both apart."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(simplex("a.prior", 2)[0]), infer=a_infer).long()
            b = pyro.sample("b", dist.Categorical(simplex("b.prior", K)), infer=b_infer)
            loc = Vindex(real("decoder", 2, K, D))[a, b]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a_logits = linear(x, "a", 1).squeeze(-1)
            a = pyro.sample("a", dist.Bernoulli(logits=a_logits), infer=a_infer)
            logits = linear(x, "b", K) + a.unsqueeze(-1) * real("b.shift", K)
            pyro.sample("b", dist.Categorical(logits=logits), infer=b_infer)

    return model, guide, (reals(N, D),)


@pair(TraceEnum_ELBO)
def two_sites_parallel():
    return two_sites(PARALLEL, PARALLEL)


@pair(TraceEnum_ELBO)
def two_sites_parallel_then_sequential():
    return two_sites(PARALLEL, SEQUENTIAL)


@pair(TraceEnum_ELBO, num_particles=2)
def two_sites_sequential_particles():
    return two_sites(SEQUENTIAL, SEQUENTIAL)


@pair(TraceEnum_ELBO)
def plate_of_discrete_latents():
    """A binary latent for each input dimension, and one for the datum above them."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            c = pyro.sample("c", dist.Categorical(simplex("c.prior", K)), infer=PARALLEL)
            with pyro.plate("inputs", D, dim=-1):
                probs = simplex("z.prior", K, 2)[c, 0]
                z = pyro.sample("z", dist.Bernoulli(probs), infer=PARALLEL)
                pyro.sample("x", dist.Normal(real("decoder", 2)[z.long()], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            logits = linear(x, "c", K).unsqueeze(-2)
            c = pyro.sample("c", dist.Categorical(logits=logits), infer=PARALLEL)
            with pyro.plate("inputs", D, dim=-1):
                z_logits = real("z.gain") * x + real("z.shift", K)[c]
                pyro.sample("z", dist.Bernoulli(logits=z_logits), infer=PARALLEL)

    return model, guide, (reals(N, D),)


@pair(TraceEnum_ELBO)
def global_class():
    """A discrete latent outside of the data's plate, one inside."""

    def model(x):
        c = pyro.sample("c", dist.Categorical(simplex("c.prior", K)), infer=PARALLEL)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(simplex("z.prior", K, 2)[c, 0]), infer=PARALLEL)
            loc = Vindex(real("decoder", K, 2))[c, z.long()]
            pyro.sample("x", dist.Normal(loc, positive("noise")), obs=x)

    def guide(x):
        pyro.sample("c", dist.Categorical(simplex("c.guide", K)), infer=PARALLEL)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=real("z.gain") * x), infer=PARALLEL)

    return model, guide, (reals(N),)


@pair(TraceEnum_ELBO)
def enumerated_subsampling():
    """With ``config_enumerate``, which must leave the choice of indices alone."""

    @config_enumerate
    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Categorical(simplex("prior", K)))
            pyro.sample("x", dist.Normal(real("decoder", K)[z], 1.0), obs=x[index])

    @config_enumerate(default="parallel")
    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            logits = linear(x[index].unsqueeze(-1), "encoder", K)
            pyro.sample("z", dist.Categorical(logits=logits))

    return model, guide, (reals(N),)


@pair(TraceEnum_ELBO)
def enumerated_masked():
    model, guide, (x,) = bernoulli_mixture(PARALLEL)
    keep = torch.tensor([True, False, True, True, False])
    return poutine.mask(model, mask=keep), poutine.mask(guide, mask=keep), (x,)


@pair(TraceEnum_ELBO)
def impossible_classes():
    """A class that neither guide nor model believe in: 0 times infinity is 0, in loss and gradient.

    Under the class, the data are impossible as well.
    """
    never = torch.tensor([-torch.inf])

    def model(x):
        with pyro.plate("data", len(x)):
            logits = torch.cat([real("prior", 2), never])
            z = pyro.sample("z", dist.Categorical(logits=logits), infer=PARALLEL)
            probs = torch.cat([positive("probs", 2).neg().exp(), torch.zeros(1)])[z]
            pyro.sample("x", Certain(probs), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = torch.cat([real("guide", N, 2), never.expand(N, 1)], -1)
            pyro.sample("z", dist.Categorical(logits=logits), infer=PARALLEL)

    return model, guide, (torch.ones(N),)


@pair(TraceEnum_ELBO)
def chain():
    """A Markov chain in the guide: enumeration dimensions are used again and again."""

    def model(x):
        z = 0
        for t in pyro.markov(range(4)):
            z = pyro.sample(f"z_{t}", dist.Categorical(simplex("p", K, K)[z]), infer=PARALLEL)
            pyro.sample(f"x_{t}", dist.Normal(real("decoder", K)[z], 1.0), obs=x[t])

    def guide(x):
        z = 0
        for t in pyro.markov(range(4)):
            z = pyro.sample(f"z_{t}", dist.Categorical(simplex("q", K, K)[z]), infer=PARALLEL)

    return model, guide, (reals(4),)


# ---------------------------------------------------------------------- summed over in the model


def hidden_markov_model(x):
    """``x`` of shape (N, T): N sequences, hidden states that no guide draws."""
    with pyro.plate("sequences", len(x)):
        z = 0
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(simplex("p", K, K)[z]), infer=PARALLEL)
            fn = dist.Normal(real("decoder", K)[z], positive("noise"))
            pyro.sample(f"x_{t}", fn, obs=x[:, t])


@pair(TraceEnum_ELBO)
def hidden_markov():
    return hidden_markov_model, lambda x: None, (reals(N, 3),)


@pair()
def gaussian_mixture():
    """Written out: the exact log-likelihood."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(simplex("weights", K)), infer=PARALLEL)
            pyro.sample("x", dist.Normal(real("locs", K)[z], positive("noise")), obs=x)

    def by_hand(x):
        log_p = dist.Normal(real("locs", K), positive("noise")).log_prob(x.unsqueeze(-1))
        return -(simplex("weights", K).log() + log_p).logsumexp(-1).sum()

    return model, lambda x: None, (reals(N),), by_hand


@pair(TraceEnum_ELBO)
def one_class_in_the_guide_one_in_the_model():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(simplex("a.prior", K)), infer=PARALLEL)
            b = pyro.sample("b", dist.Bernoulli(simplex("b.prior", K, 2)[a, 0]), infer=PARALLEL)
            loc = Vindex(real("decoder", K, 2))[a, b.long()]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = linear(x.unsqueeze(-1), "encoder", K)
            pyro.sample("a", dist.Categorical(logits=logits), infer=PARALLEL)

    return model, guide, (reals(N),)


@pair(TraceEnum_ELBO)
def impossible_class_of_the_guide():
    """The same around a class that is summed over in the model."""
    never = torch.tensor([-torch.inf])

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(simplex("a.prior", K)), infer=PARALLEL)
            b = pyro.sample("b", dist.Bernoulli(simplex("b.prior", K, 2)[a, 0]), infer=PARALLEL)
            probs = torch.cat([positive("probs", 2, 2).neg().exp(), torch.zeros(1, 2)])
            pyro.sample("x", Certain(Vindex(probs)[a, b.long()]), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = torch.cat([real("guide", N, 2), never.expand(N, 1)], -1)
            pyro.sample("a", dist.Categorical(logits=logits), infer=PARALLEL)

    return model, guide, (torch.ones(N),)


@pair(TraceEnum_ELBO)
def maximum_a_posteriori_mixture():
    """Point estimates of the parameters, mixture components summed over in the model."""

    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(K)))
        with pyro.plate("components", K):
            locs = pyro.sample("locs", dist.Normal(real("locs.prior"), 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights), infer=PARALLEL)
            pyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)

    def guide(x):
        weights = pyro.param(
            "weights.map", lambda: torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex
        )
        pyro.sample("weights", dist.Delta(weights).to_event(1))
        with pyro.plate("components", K):
            pyro.sample("locs", dist.Delta(real("locs.map", K)))

    return model, guide, (reals(N),)

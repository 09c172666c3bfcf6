"""KL weights: ``poutine.scale`` and ``anchor``, per site, per latent and per datum."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import kl_divergence

from pyro_corex import AnchorVAE, StackedCorEx, Warmup, anchor

from .continuous import bottom_up_guide, event_vae, matrix_vae, plate_vae, two_layer_model
from .discrete import PARALLEL, bernoulli_mixture, hidden_markov_model
from .mixed import class_then_latents, class_then_latents_by_hand, stack_guide, stack_model
from .registry import D, M, N, bits, linear, pair, positive, real, reals

SCALES = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)  # poutine.scale refuses 0
WEIGHTS = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)  # one for each of the M latents


def anchored(programs, weights):
    model, guide, args = programs
    return anchor(model, weights), anchor(guide, weights), args


# ---------------------------------------------------------------------- poutine.scale


@pair(TraceMeanField_ELBO)
def scale_everything():
    model, guide, args = event_vae()
    return poutine.scale(model, scale=0.3), poutine.scale(guide, scale=0.3), args


@pair(TraceMeanField_ELBO, num_particles=2)
def scale_each_datum():
    """Data that count more than others: the KL has no one weight."""
    model, guide, args = event_vae()
    weights = 0.5 + torch.arange(N)
    return poutine.scale(model, scale=weights), poutine.scale(guide, scale=weights), args


@pair(Trace_ELBO, num_particles=3)
def scale_each_datum_sampled():
    """The same, where the KL differs from particle to particle."""
    weights = 0.5 + torch.arange(N)
    guide = bottom_up_guide({"analytic_kl": False}, {"analytic_kl": False})
    model = poutine.scale(two_layer_model, scale=weights)
    return model, poutine.scale(guide, scale=weights), (bits(N, D),)


@pair(TraceMeanField_ELBO, num_particles=2, vectorize_particles=True)
def scale_each_latent():
    """A tensor over the plate of latents."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("latents", M, dim=-1), poutine.scale(scale=SCALES):
                z = pyro.sample("z", dist.Normal(0.0, positive("r.scale", M)))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0), obs=x)

    def guide(x):
        latents = pyro.plate("latents", M, dim=-1)
        with pyro.plate("data", len(x), dim=-2), latents, poutine.scale(scale=SCALES):
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), positive("q.scale", M)))

    return model, guide, (reals(N, D),)


@pair(TraceEnum_ELBO)
def scale_enumerated():
    model, guide, args = bernoulli_mixture(PARALLEL)
    return poutine.scale(model, scale=0.3), poutine.scale(guide, scale=0.3), args


@pair(TraceEnum_ELBO)
def scale_hidden_markov():
    """A scale on sites that are summed over in the model stands outside of the logarithm."""
    guide = poutine.scale(lambda x: None, scale=0.3)
    return poutine.scale(hidden_markov_model, scale=0.3), guide, (reals(N, 3),)


# ---------------------------------------------------------------------- anchor, one weight a site


@pair(TraceMeanField_ELBO)
def anchor_site():
    return anchored(event_vae(), {"z": 0.5})


@pair(TraceMeanField_ELBO)
def anchor_site_tensor():
    return anchored(event_vae(), {"z": torch.tensor(0.5)})


@pair(TraceMeanField_ELBO)
def anchor_warmup():
    weight = Warmup(0.0, 2.0, steps=4)
    weight.step()
    return anchored(plate_vae(), {"z": weight})


@pair()
def anchor_off():
    """Weight 0: the guide feels the reconstruction only, and the prior nothing."""
    model, guide, args = anchored(event_vae(), {"z": 0})

    def by_hand(x):
        q = dist.Normal(linear(x, "encoder", M).tanh(), positive("q.scale", M).expand(N, M))
        return -dist.Bernoulli(logits=linear(q.rsample(), "decoder", D)).log_prob(x).sum()

    return model, guide, args, by_hand


@pair(Trace_ELBO)
def anchor_stack():
    programs = two_layer_model, bottom_up_guide({"analytic_kl": False}, {"analytic_kl": False})
    return anchored((*programs, (bits(N, D),)), {"z1": 0.5, "z2": 2.0})


@pair(TraceEnum_ELBO)
def anchor_stack_with_class():
    return anchored((stack_model, stack_guide, (bits(N, D),)), {"z1": 0.25, "z2": 4.0})


@pair()
def anchor_class_off():
    model, guide, args = anchored(bernoulli_mixture(PARALLEL), {"z": 0.0})

    def by_hand(x):
        q = linear(x, "encoder", 3).softmax(-1)
        log_lik = dist.Bernoulli(logits=real("decoder", 3, D)).log_prob(x.unsqueeze(1)).sum(-1)
        return -(q * log_lik).sum()

    return model, guide, args, by_hand


@pair(TraceMeanField_ELBO)
def anchor_subsampling():
    """A weight and a plate's own factor: they multiply, and only the first is a KL weight."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=2, dim=-2) as index:
            with pyro.plate("latents", M, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, positive("r.scale", M)))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0), obs=x[index])

    def guide(x):
        data = pyro.plate("data", len(x), subsample_size=2, dim=-2)
        with data as index, pyro.plate("latents", M, dim=-1):
            pyro.sample("z", dist.Normal(linear(x[index], "encoder", M), 0.5))

    return anchored((model, guide, (reals(N, D),)), {"z": WEIGHTS})


# ---------------------------------------------------------------------- anchor, a weight a latent


@pair()
def anchor_events():
    model, guide, args = anchored(event_vae(), {"z": WEIGHTS})

    def by_hand(x):
        q = dist.Normal(linear(x, "encoder", M).tanh(), positive("q.scale", M).expand(N, M))
        log_lik = dist.Bernoulli(logits=linear(q.rsample(), "decoder", D)).log_prob(x)
        kl = kl_divergence(q, dist.Normal(real("r.loc", M), positive("r.scale", M)))
        return (WEIGHTS * kl).sum() - log_lik.sum()

    return model, guide, args, by_hand


@pair()
def anchor_events_square():
    """As many data as latents: a weight that broadcast against the batch would not be noticed."""
    model, guide, _ = anchored(event_vae(), {"z": WEIGHTS})

    def by_hand(x):
        q = dist.Normal(linear(x, "encoder", M).tanh(), positive("q.scale", M).expand(M, M))
        log_lik = dist.Bernoulli(logits=linear(q.rsample(), "decoder", D)).log_prob(x)
        kl = kl_divergence(q, dist.Normal(real("r.loc", M), positive("r.scale", M)))
        return (WEIGHTS * kl).sum() - log_lik.sum()

    return model, guide, (bits(M, D),), by_hand


@pair()
def anchor_event_matrix():
    """Latents that are a matrix of event dimensions, each with its weight."""
    weights = torch.stack([WEIGHTS, 1 - WEIGHTS / 4])
    model, guide, args = anchored(matrix_vae(), {"z": weights})

    def by_hand(x):
        loc = linear(x, "encoder", 2 * M).reshape(N, 2, M)
        q = dist.Normal(loc, positive("q.scale", M).expand(N, 2, M))
        log_lik = dist.Normal(linear(q.rsample().sum(-2), "decoder", D), 1.0).log_prob(x)
        kl = kl_divergence(q, dist.Normal(0.0, positive("r.scale", 2, M)))
        return (weights * kl).sum() - log_lik.sum()

    return model, guide, args, by_hand


@pair()
def anchor_plate():
    model, guide, args = anchored(plate_vae(), {"z": WEIGHTS})

    def by_hand(x):
        q = dist.Normal(linear(x, "encoder", M), positive("q.scale", M).expand(N, M))
        log_lik = dist.Normal(linear(q.rsample(), "decoder", D), positive("noise")).log_prob(x)
        kl = kl_divergence(q, dist.Normal(real("r.loc", M), positive("r.scale", M)))
        return (WEIGHTS * kl).sum() - log_lik.sum()

    return model, guide, args, by_hand


@pair(TraceMeanField_ELBO, num_particles=3, vectorize_particles=True)
def anchor_plate_particles_vectorised():
    return anchored(plate_vae(), {"z": WEIGHTS})


@pair()
def anchor_events_sampled():
    """Weights a latent on a log-ratio that is sampled."""
    programs = two_layer_model, bottom_up_guide({"analytic_kl": False}), (bits(N, D),)
    model, guide, args = anchored(programs, {"z1": WEIGHTS})

    def by_hand(x):
        q1 = dist.Normal(linear(x, "up1", M), positive("q1.scale", M).expand(N, M))
        z1 = q1.rsample()
        q2 = dist.Normal(linear(z1, "up2", 2), positive("q2.scale", 2).expand(N, 2))
        p1 = dist.Normal(linear(q2.rsample(), "down", M).tanh(), positive("z1.prior", M))
        log_lik = dist.Bernoulli(logits=linear(z1, "decoder", D)).log_prob(x)
        kl1 = WEIGHTS * (q1.log_prob(z1) - p1.log_prob(z1))
        kl2 = kl_divergence(q2, dist.Normal(torch.zeros(()), 1.0))
        return kl1.sum() + kl2.sum() - log_lik.sum()

    return model, guide, args, by_hand


@pair(max_plate_nesting=1)
def anchor_latents_given_class():
    """A weight of each latent, and of the class, inside of the sum over the class."""
    programs = anchored(class_then_latents({}), {"c": 0.7, "z": WEIGHTS})
    return *programs, class_then_latents_by_hand(0.7, WEIGHTS)


@pair()
def anchor_masked():
    """The weights of the latents, with some of the data masked."""
    keep = torch.tensor([True, False, True, True, False])
    model, guide, args = anchored(event_vae(), {"z": WEIGHTS})
    model, guide = poutine.mask(model, mask=keep), poutine.mask(guide, mask=keep)

    def by_hand(x):
        q = dist.Normal(linear(x, "encoder", M).tanh(), positive("q.scale", M).expand(N, M))
        log_lik = dist.Bernoulli(logits=linear(q.rsample(), "decoder", D)).log_prob(x)
        kl = kl_divergence(q, dist.Normal(real("r.loc", M), positive("r.scale", M)))
        return ((WEIGHTS * kl).sum(-1) - log_lik.sum(-1))[keep].sum()

    return model, guide, args, by_hand


# ---------------------------------------------------------------------- modules


class Encoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.network = PyroModule[nn.Linear](D, 2 * M)

    def forward(self, x):
        loc, log_scale = self.network(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-2), pyro.plate("latents", M, dim=-1):
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()))


class Decoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.network = PyroModule[nn.Linear](M, D)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("latents", M, dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("inputs", D, dim=-1):
                return pyro.sample("x", dist.Bernoulli(logits=self.network(z)), obs=x)


@pair(TraceMeanField_ELBO)
def modules():
    return Decoder(), Encoder(), (bits(N, D),)


@pair(TraceMeanField_ELBO)
def anchor_modules():
    return anchored((Decoder(), Encoder(), (bits(N, D),)), {"z": WEIGHTS})


@pair(TraceMeanField_ELBO)
def anchor_vae():
    vae = AnchorVAE(nn.Linear(D, 2 * M), nn.Linear(M, D), M, anchors={0: 0.0, 2: 0.5})
    return vae.model, vae.guide, (bits(N, D),)


@pair(TraceEnum_ELBO)
def stacked_corex():
    stack = StackedCorEx([(D, M + 2), (M + 2, 3)], n_classes=3)
    return stack.model, stack.guide, (bits(N, D),)

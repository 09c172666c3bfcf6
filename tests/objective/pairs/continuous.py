"""One or more layers of continuous latents: events, plates, masks, particles, dependencies."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from .registry import D, M, N, bits, linear, pair, positive, real, reals

# ---------------------------------------------------------------------- latents as events or plate


def event_vae():
    """Latents and inputs are event dimensions."""

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(real("r.loc", M), positive("r.scale", M))
            z = pyro.sample("z", prior.expand([len(x), M]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=linear(z, "decoder", D)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = linear(x, "encoder", M).tanh()
            pyro.sample("z", dist.Normal(loc, positive("q.scale", M)).to_event(1))

    return model, guide, (bits(N, D),)


def plate_vae():
    """Latents and inputs are plates."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("latents", M, dim=-1):
                z = pyro.sample("z", dist.Normal(real("r.loc", M), positive("r.scale", M)))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(linear(z, "decoder", D), positive("noise")), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("latents", M, dim=-1):
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), positive("q.scale", M)))

    return model, guide, (reals(N, D),)


def matrix_vae():
    """Latents are a matrix of event dimensions."""

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(0.0, positive("r.scale", 2, M)).expand([len(x), 2, M])
            z = pyro.sample("z", prior.to_event(2))
            loc = linear(z.sum(-2), "decoder", D)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = linear(x, "encoder", 2 * M).reshape(len(x), 2, M)
            pyro.sample("z", dist.Normal(loc, positive("q.scale", M)).to_event(2))

    return model, guide, (reals(N, D),)


@pair(TraceMeanField_ELBO)
def event_matrix():
    return matrix_vae()


@pair(TraceMeanField_ELBO)
def events():
    return event_vae()


@pair(TraceMeanField_ELBO)
def latent_plate():
    return plate_vae()


@pair(TraceMeanField_ELBO, num_particles=3)
def events_particles():
    return event_vae()


@pair(TraceMeanField_ELBO, num_particles=3, vectorize_particles=True)
def events_particles_vectorised():
    return event_vae()


@pair(TraceMeanField_ELBO, num_particles=3)
def latent_plate_particles():
    return plate_vae()


@pair(TraceMeanField_ELBO, num_particles=3, vectorize_particles=True, max_plate_nesting=2)
def latent_plate_particles_vectorised():
    return plate_vae()


# ---------------------------------------------------------------------- plates


@pair()
def no_plates():
    """A global vector: Bayesian linear regression, written out."""

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 2.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, positive("noise")), obs=y)

    def guide(x, y):
        pyro.sample("w", dist.Normal(real("w.loc", D), positive("w.scale", D)).to_event(1))

    def by_hand(x, y):
        loc, scale, noise = real("w.loc", D), positive("w.scale", D), positive("noise")
        error = (y - x @ (loc + scale * torch.randn(D))) / noise
        negative_log_lik = 0.5 * error**2 + (2 * torch.pi * noise**2).log() / 2
        kl = 0.5 * ((scale / 2) ** 2 + (loc / 2) ** 2 - 1) - (scale / 2).log()
        return negative_log_lik.sum() + kl.sum()

    x = reals(N, D)
    return model, guide, (x, x.sum(-1)), by_hand


@pair(TraceMeanField_ELBO)
def global_and_local_latents():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(M), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, positive("r.scale", M)).to_event(1))
            pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(real("mu.loc", M), positive("mu.scale", M)).to_event(1))
        with pyro.plate("data", len(x)):
            loc = linear(x, "encoder", M)
            pyro.sample("z", dist.Normal(loc, positive("q.scale", M)).to_event(1))

    return model, guide, (reals(N, D),)


@pair(TraceMeanField_ELBO)
def nested_plates():
    """Groups of data, with a latent for each group and one for each datum."""

    def model(x):
        with pyro.plate("groups", 2, dim=-2):
            g = pyro.sample("g", dist.Normal(real("g.prior"), 1.0))
            with pyro.plate("data", N, dim=-1):
                z = pyro.sample("z", dist.Normal(g, positive("z.prior")))
                loc = z.unsqueeze(-1) * real("decoder", D)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("groups", 2, dim=-2):
            pyro.sample("g", dist.Normal(real("g.loc", 2, 1), positive("g.scale", 2, 1)))
            with pyro.plate("data", N, dim=-1):
                pyro.sample("z", dist.Normal(linear(x, "encoder", 1)[..., 0], positive("z.scale")))

    return model, guide, (reals(2, N, D),)


@pair(TraceMeanField_ELBO)
def sequential_plate():
    def model(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(real("r.loc", M), 1.0).to_event(1))
            loc = linear(z, "decoder", D)
            pyro.sample(f"x_{i}", dist.Normal(loc, 1.0).to_event(1), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", len(x)):
            loc = linear(x[i], "encoder", M)
            pyro.sample(f"z_{i}", dist.Normal(loc, positive("q.scale", M)).to_event(1))

    return model, guide, (reals(3, D),)


@pair(TraceMeanField_ELBO)
def subsampling():
    """The plate draws its own indices, in the guide; the model replays them."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
            loc = linear(z, "decoder", D)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x[index])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            loc = linear(x[index], "encoder", M)
            pyro.sample("z", dist.Normal(loc, positive("q.scale", M)).to_event(1))

    return model, guide, (reals(N, D),)


@pair(TraceMeanField_ELBO, num_particles=3, vectorize_particles=True)
def subsampling_latent_plate():
    """Indices that are given, both of the data and of the latents' plate."""

    def model(x, index):
        with pyro.plate("data", 20, subsample=index, dim=-2):
            with pyro.plate("latents", M, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, positive("r.scale", M)))
            with pyro.plate("inputs", 2 * D, subsample_size=D, dim=-1):
                pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0), obs=x)

    def guide(x, index):
        with pyro.plate("data", 20, subsample=index, dim=-2), pyro.plate("latents", M, dim=-1):
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), positive("q.scale", M)))

    return model, guide, (reals(N, D), torch.arange(N))


# ---------------------------------------------------------------------- masks


@pair(TraceMeanField_ELBO)
def masked_data():
    """Data that count for nothing, latents and all."""

    def programs():
        model, guide, (x,) = event_vae()
        keep = torch.tensor([True, False, True, True, False])
        return poutine.mask(model, mask=keep), poutine.mask(guide, mask=keep), (x,)

    return programs()


@pair(TraceMeanField_ELBO)
def masked_latents():
    """A mask over the plate of latents, and one over the event dimensions of the data."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("latents", M, dim=-1), poutine.mask(mask=torch.arange(M) > 0):
                z = pyro.sample("z", dist.Normal(0.0, positive("r.scale", M)))
            loc = linear(z, "decoder", D).unsqueeze(-2)
            fn = dist.Normal(loc, 1.0).mask(x.unsqueeze(-2) > 0).to_event(1)
            pyro.sample("x", fn, obs=x.unsqueeze(-2))

    def guide(x):
        latents = pyro.plate("latents", M, dim=-1)
        with pyro.plate("data", len(x), dim=-2), latents, poutine.mask(mask=torch.arange(M) > 0):
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), positive("q.scale", M)))

    return model, guide, (reals(N, D),)


@pair(TraceMeanField_ELBO)
def fully_masked():
    """``poutine.mask(mask=False)`` on one site, and a distribution that masks itself."""

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=False):
                pyro.sample("a", dist.Normal(real("a.prior"), 1.0))
            pyro.sample("b", dist.Normal(real("b.prior"), 1.0).mask(False))
            z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=False):
                pyro.sample("a", dist.Normal(real("a.loc"), positive("a.scale")))
            pyro.sample("b", dist.Normal(real("b.loc"), positive("b.scale")).mask(False))
            pyro.sample("z", dist.Normal(linear(x, "encoder", M), 1.0).to_event(1))

    return model, guide, (reals(N, D),)


@pair(TraceMeanField_ELBO)
def missing_values():
    """``obs_mask``: what is missing is a latent of the guide."""

    def model(x, seen):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inputs", D, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, positive("noise", D)), obs=x, obs_mask=seen)

    def guide(x, seen):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inputs", D, dim=-1):
            pyro.sample("z", dist.Normal(real("gain", D) * x, positive("q.scale", D)))
            with poutine.mask(mask=~seen):
                pyro.sample("x_unobserved", dist.Normal(real("fill", D), positive("fill.scale")))

    return model, guide, (reals(N, D), bits(N, D).bool())


# ---------------------------------------------------------------------- layers


def two_layer_model(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        loc = linear(z2, "down", M).tanh()
        z1 = pyro.sample("z1", dist.Normal(loc, positive("z1.prior", M)).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=linear(z1, "decoder", D)).to_event(1), obs=x)


@pair(TraceMeanField_ELBO)
def two_layers_top_down():
    """The guide draws as the model does: both KLs have a closed form."""

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(linear(x, "up2", 2), 0.7).to_event(1))
            loc = linear(torch.cat([x, z2], -1), "up1", M)
            pyro.sample("z1", dist.Normal(loc, positive("q1.scale", M)).to_event(1))

    return two_layer_model, guide, (bits(N, D),)


def bottom_up_guide(infer1, infer2=None):
    """z1 from x, z2 from z1, as in Eq. 18."""

    def guide(x):
        with pyro.plate("data", len(x)):
            q1 = dist.Normal(linear(x, "up1", M), positive("q1.scale", M)).to_event(1)
            z1 = pyro.sample("z1", q1, infer=infer1)
            q2 = dist.Normal(linear(z1, "up2", 2), positive("q2.scale", 2)).to_event(1)
            pyro.sample("z2", q2, infer=infer2 or {})

    return guide


@pair()
def two_layers_bottom_up():
    """The log-ratio of z1 is sampled and the KL of z2 has its closed form."""

    def by_hand(x):
        q1 = dist.Normal(linear(x, "up1", M), positive("q1.scale", M).expand(N, M))
        z1 = q1.rsample()
        q2 = dist.Normal(linear(z1, "up2", 2), positive("q2.scale", 2).expand(N, 2))
        z2 = q2.rsample()
        p1 = dist.Normal(linear(z2, "down", M).tanh(), positive("z1.prior", M))
        log_lik = dist.Bernoulli(logits=linear(z1, "decoder", D)).log_prob(x)
        kl1 = q1.log_prob(z1) - p1.log_prob(z1)
        kl2 = kl_divergence(q2, dist.Normal(torch.zeros(()), 1.0))
        return kl1.sum() + kl2.sum() - log_lik.sum()

    return two_layer_model, bottom_up_guide({"analytic_kl": False}), (bits(N, D),), by_hand


@pair(Trace_ELBO, num_particles=3)
def three_layers_bottom_up():
    """Latent plates, all log-ratios sampled."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("top", 2, dim=-1):
                z3 = pyro.sample("z3", dist.Normal(real("r.loc", 2), 1.0))
            with pyro.plate("middle", M, dim=-1):
                z2 = pyro.sample("z2", dist.Normal(linear(z3, "down3", M), 0.5))
            with pyro.plate("bottom", M + 1, dim=-1):
                z1 = pyro.sample("z1", dist.Normal(linear(z2, "down2", M + 1), 0.5))
            with pyro.plate("inputs", D, dim=-1):
                pyro.sample("x", dist.Normal(linear(z1, "down1", D), 1.0), obs=x)

    def guide(x):
        sampled = {"analytic_kl": False}
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("bottom", M + 1, dim=-1):
                z1 = pyro.sample("z1", dist.Normal(linear(x, "up1", M + 1), 0.4), infer=sampled)
            with pyro.plate("middle", M, dim=-1):
                z2 = pyro.sample("z2", dist.Normal(linear(z1, "up2", M), 0.4), infer=sampled)
            with pyro.plate("top", 2, dim=-1):
                pyro.sample("z3", dist.Normal(linear(z2, "up3", 2), 0.4), infer=sampled)

    return model, guide, (reals(N, D),)


# ---------------------------------------------------------------------- guides and families


@pair(TraceMeanField_ELBO)
def auxiliary_site():
    """The guide draws noise that the model does not know."""

    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample(
                "u", dist.Normal(0.0, positive("u.scale")), infer={"is_auxiliary": True}
            )
            loc = linear(x, "encoder", M) + u.unsqueeze(-1) * real("u.weight", M)
            pyro.sample("z", dist.Normal(loc, positive("q.scale", M)).to_event(1))

    return event_vae()[0], guide, (bits(N, D),)


@pair(Trace_ELBO)
def factors():
    """``pyro.factor`` in both programs and ``pyro.deterministic`` in the model."""
    sampled = {"analytic_kl": False}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1), infer=sampled)
            size = pyro.deterministic("size", z.square().sum(-1))
            pyro.factor("small", -positive("penalty") * size)
            pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = linear(x, "encoder", M)
            fn = dist.Normal(loc, positive("q.scale", M)).to_event(1)
            z = pyro.sample("z", fn, infer=sampled)
            pyro.factor("volume", real("tilt") * z.sum(-1), has_rsample=True)

    return model, guide, (reals(N, D),)


@pair(TraceMeanField_ELBO)
def log_normal():
    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.LogNormal(real("r.loc"), positive("r.scale")))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(real("q.loc", N), positive("q.scale", N)))

    return model, guide, (torch.tensor([0.0, 2.0, 1.0, 4.0, 0.0]),)


@pair(TraceMeanField_ELBO)
def gamma():
    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inputs", M, dim=-1):
            rate = pyro.sample("rate", dist.Gamma(positive("r.a", M), positive("r.b", M)))
            pyro.sample("x", dist.Exponential(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("inputs", M, dim=-1):
            pyro.sample("rate", dist.Gamma(positive("q.a", N, M), positive("q.b", N, M)))

    return model, guide, (reals(N, M).exp(),)


@pair(TraceMeanField_ELBO)
def multivariate_normal():
    """A KL that is one number a datum, however many dimensions it has."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(real("r.loc", M), torch.eye(M)))
            pyro.sample("x", dist.Normal(linear(z, "decoder", D), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            tril = torch.eye(M) + real("q.tril", M, M).tril(-1)
            pyro.sample("z", dist.MultivariateNormal(linear(x, "encoder", M), scale_tril=tril))

    return model, guide, (reals(N, D),)


@pair(Trace_ELBO)
def no_closed_form():
    """Laplace against StudentT, event by event; a multivariate guide for a factorised prior."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z", dist.StudentT(3.0, torch.zeros(M), positive("r.scale", M)).to_event(1)
            )
            w = pyro.sample("w", dist.Normal(torch.zeros(M), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(linear(z + w, "decoder", D), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Laplace(linear(x, "encoder", M), 0.5).to_event(1))
            tril = torch.eye(M) + real("q.tril", M, M).tril(-1)
            pyro.sample("w", dist.MultivariateNormal(linear(x, "w", M), scale_tril=tril))

    return model, guide, (reals(N, D),)

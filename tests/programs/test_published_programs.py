"""Programs of others' papers, whose objectives are written from the formulas and held against ours.

VIB, the VampPrior and Information Dropout are in the tests of their programs.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from pyro_corex import CorExELBO, CorExVAE, StackedCorEx

D, M, B = 6, 3, 8


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((B, D), 0.4)).double()


def check(program, x, published):
    """Value and gradient of ``published(program, x, noise)`` are those of the loss."""
    program = program.double()
    parameters = list(program.parameters())
    pyro.set_rng_seed(3)
    trace = pyro.poutine.trace(program.guide).get_trace(x)
    noise = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and isinstance(site["fn"], (dist.Normal, dist.Independent)):
            q = site["fn"]
            noise[name] = ((site["value"] - q.mean) / q.variance.sqrt()).detach()
    right = published(program, x, noise)
    wanted = torch.autograd.grad(right, parameters)
    pyro.set_rng_seed(3)
    loss = CorExELBO().differentiable_loss(program.model, program.guide, x)
    torch.testing.assert_close(loss, right, rtol=0, atol=1e-10)
    found = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def log_bits(logits, x):
    return x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)


def kl(loc, log_scale):
    """Of a normal against the standard normal."""
    return 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale)


def log_normal(z, loc, log_scale):
    noise = (z - loc) / log_scale.exp()
    return -0.5 * noise**2 - log_scale - 0.5 * math.log(2 * math.pi)


class PixelVAE(nn.Module):
    """Gulrajani et al. 2017: each pixel is given z and the pixels before it."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(D, 2 * M), nn.Linear(M, D)
        self.before = nn.Parameter(torch.randn(D, D))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(M), 1.0).to_event(1))
            logits = self.down(z) + x @ self.before.tril(-1).T
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.up(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_pixelvae(x):
    """Pixel by pixel, as its decoder draws them."""

    def published(program, x, noise):
        loc, log_scale = program.up(x).split(M, -1)
        of_z = program.down(loc + log_scale.exp() * noise["z"])
        loss = kl(loc, log_scale).sum()
        for i in range(D):
            logit = of_z[:, i]
            for k in range(i):
                logit = logit + program.before[i, k] * x[:, k]
            loss = loss - log_bits(logit, x[:, i]).sum()
        return loss

    check(PixelVAE(), x, published)


class LadderUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(D, 5), nn.Linear(5, 4)])
        self.heads = nn.ModuleList([nn.Linear(5, 2 * M), nn.Linear(4, 2 * M)])

    def forward(self, h):
        found = []
        for step, head in zip(self.steps, self.heads, strict=True):
            h = torch.tanh(step(h))
            found.append(head(h).chunk(2, -1))
        loc, log_scale = (torch.cat(part, -1) for part in zip(*found, strict=True))
        return loc, log_scale.exp()


class LadderDown(nn.Module):
    def __init__(self):
        super().__init__()
        self.top, self.low, self.out = nn.Linear(M, 4), nn.Linear(4 + M, 5), nn.Linear(5, D)

    def forward(self, z):
        low, top = z.chunk(2, -1)
        return self.out(torch.tanh(self.low(torch.cat([torch.tanh(self.top(top)), low], -1))))


def test_vlae(x):
    """Zhao et al. 2017b: a flat prior; z1 leaves and enters the networks below z2."""

    def published(program, x, noise):
        up, down = program.encoder, program.decoder
        n1, n2 = noise["z"].split(M, -1)
        h1 = torch.tanh(up.steps[0](x))
        h2 = torch.tanh(up.steps[1](h1))
        loc1, log_scale1 = up.heads[0](h1).split(M, -1)
        loc2, log_scale2 = up.heads[1](h2).split(M, -1)
        z1, z2 = loc1 + log_scale1.exp() * n1, loc2 + log_scale2.exp() * n2
        from_top, from_z1 = down.low.weight.split([4, M], -1)
        inner = torch.tanh(down.top(z2)) @ from_top.T + z1 @ from_z1.T + down.low.bias
        fit = log_bits(down.out(torch.tanh(inner)), x).sum()
        return kl(loc1, log_scale1).sum() + kl(loc2, log_scale2).sum() - fit

    check(CorExVAE(LadderUp(), LadderDown(), 2 * M), x, published)


class DLGM(nn.Module):
    """Rezende et al. 2014: h2 = G2 e2, h1 = T1(h2) + G1 e1, and a guide of the noise e alone."""

    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList([nn.Linear(D, 2 * M), nn.Linear(D, 2 * M)])
        self.noise = nn.ParameterList([torch.randn(M, M), torch.randn(M, M)])
        self.down, self.out = nn.Linear(M, M), nn.Linear(M, D)

    def model(self, x):
        standard = dist.Normal(x.new_zeros(M), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            h = pyro.sample("e2", standard) @ self.noise[1].T
            h = torch.tanh(self.down(h)) + pyro.sample("e1", standard) @ self.noise[0].T
            pyro.sample("x", dist.Bernoulli(logits=self.out(h)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            for name, up in zip(("e1", "e2"), self.up, strict=True):
                loc, log_scale = up(x).chunk(2, -1)
                pyro.sample(name, dist.Normal(loc, log_scale.exp()).to_event(1))


def test_dlgm(x):
    """Its free energy without weight decay, with diagonal covariances in the guide."""

    def published(program, x, noise):
        energy, e = 0, {}
        for name, up in zip(("e1", "e2"), program.up, strict=True):
            loc, log_scale = up(x).split(M, -1)
            e[name] = loc + log_scale.exp() * noise[name]
            trace_and_log_det = (2 * log_scale).exp().sum() - 2 * log_scale.sum()
            energy = energy + 0.5 * ((loc**2).sum() + trace_and_log_det - B * M)
        h2 = torch.einsum("ij,bj->bi", program.noise[1], e["e2"])
        h1 = torch.tanh(program.down(h2)) + torch.einsum("ij,bj->bi", program.noise[0], e["e1"])
        return energy - log_bits(program.out(h1), x).sum()

    check(DLGM(), x, published)


def test_stack_of_continuous_layers_is_a_dlgm_with_a_guide_from_layer_to_layer(x):
    """Its layers are h1 = T1(h2) + G1(h2) e1: the density of h1 is that of e1 over det G1."""

    def published(program, x, noise):
        up, down = program.encoders, program.decoders
        loc1, log_scale1 = up[0](x).split(4, -1)
        h1 = loc1 + log_scale1.exp() * noise["z1"]
        loc2, log_scale2 = up[1](h1).split(2, -1)
        h2 = loc2 + log_scale2.exp() * noise["z2"]
        t1, log_g1 = down[1](h2).split(4, -1)
        e1 = (h1 - t1) * (-log_g1).exp()
        log_p = log_bits(down[0](h1), x).sum() - 0.5 * (e1**2 + math.log(2 * math.pi)).sum()
        log_p = log_p - log_g1.sum()
        log_q = log_normal(h1, loc1, log_scale1).sum()
        return log_q + kl(loc2, log_scale2).sum() - log_p

    check(StackedCorEx([(D, 5, 4), (4, 3, 2)], n_classes=None), x, published)

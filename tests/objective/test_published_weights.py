"""Objectives that weigh the KL or its parts, against their papers' formulas, in plain torch."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_corex import AnchorVAE, CorExELBO, CorExVAE, anchor
from pyro_corex.programs import mlp, mlp_decoder, mlp_encoder
from pyro_corex.regularizers import DensityRatio, MinibatchTotalCorrelation

B, D, M, N = 12, 5, 3, 100


def networks():
    return mlp_encoder([D, 6, M]), mlp_decoder([M, 6, D]), M


def binary():
    return torch.bernoulli(torch.full((B, D), 0.4))


class Encoded:
    """Draws, their densities and the reconstruction of a Bernoulli VAE, for each datum."""

    def __init__(self, program, x):
        self.loc, self.log_scale = program.encoder(x).chunk(2, -1)
        self.z = self.loc + self.log_scale.exp() * torch.normal(torch.zeros(B, M), torch.ones(B, M))
        logits = program.decoder(self.z)
        self.seen = (x * logits - nn.functional.softplus(logits)).sum(-1)
        self.kl = 0.5 * (self.loc**2 + (2 * self.log_scale).exp() - 1 - 2 * self.log_scale)

    def log_q(self, b, i):
        """ln q(z_bj|x_i) of each latent j."""
        u = (self.z[b] - self.loc[i]) / self.log_scale[i].exp()
        return -0.5 * u**2 - self.log_scale[i] - 0.5 * math.log(2 * math.pi)


def agrees(found, want, parameters):
    """Two losses from the same draws have one value and one gradient."""
    pairs = []
    for loss in (found, want):
        pyro.set_rng_seed(3)
        value = loss()
        pairs.append((value.detach(), torch.autograd.grad(value, parameters)))
    assert_close(*pairs, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- beta-VAE


class Scaled(CorExVAE):
    """The weight as Pyro writes it, around the latents' statement."""

    def _sample(self, fn):
        with poutine.scale(scale=4.0):
            return super()._sample(fn)


def anchored():
    program, beta = CorExVAE(*networks()), {"z": 4.0}
    return program, anchor(program.model, beta), anchor(program.guide, beta)


def own(program):
    return program, program.model, program.guide


@pytest.mark.parametrize(
    "make",
    [
        anchored,
        lambda: own(Scaled(*networks())),
        lambda: own(AnchorVAE(*networks(), anchors={}, free_weight=4.0)),
    ],
)
def test_beta_vae(make):
    """Higgins et al. 2017, Eq. 4."""
    program, model, guide = make()
    elbo, x = CorExELBO(max_plate_nesting=2), binary()

    def published():
        found = Encoded(program, x)
        return -(found.seen - 4.0 * found.kl.sum(-1)).sum()

    agrees(lambda: elbo.differentiable_loss(model, guide, x), published, list(program.parameters()))


# ---------------------------------------------------------------------- beta-TCVAE


def pairwise(found):
    """ln q(z_bj|x_i): shape (B, B, M)."""
    return torch.stack([torch.stack([found.log_q(b, i) for i in range(B)]) for b in range(B)])


def mean_of_logs(log_q, weight):
    """The means of ln q(z) and of the sum of ln q(z_j), with weights (B, B) of the batch."""
    joint = (weight * log_q.sum(-1).exp()).sum(1).log().mean()
    return joint, (weight[:, :, None] * log_q.exp()).sum(1).log().sum(-1).mean()


WEIGHTS = {
    # Sec. 4.1, minibatch-weighted sampling
    "weighted": torch.full((B, B), 1 / (N * B), dtype=torch.double),
    # the own datum once, the others for the N - 1 that are left
    "stratified": torch.full((B, B), (N - 1) / (N * (B - 1)), dtype=torch.double).fill_diagonal_(
        1 / N
    ),
}


@pytest.mark.parametrize("method", ["weighted", "stratified"])
@pytest.mark.parametrize("analytic", [False, True])
def test_beta_tcvae(method, analytic):
    """Chen et al. 2018, Eq. 4 with alpha = gamma = 1: three parts of the KL, each from draws."""
    program, x, beta = CorExVAE(*networks()), binary(), 6.0
    penalty = MinibatchTotalCorrelation(beta - 1, num_data=N, method=method)
    elbo = CorExELBO(max_plate_nesting=2, regularizers=[penalty])
    options = {"analytic_kl": analytic}
    guide = poutine.infer_config(program.guide, lambda site: options if site["name"] == "z" else {})

    def published():
        found = Encoded(program, x)
        log_q = pairwise(found)
        given = log_q.sum(-1).diagonal().mean()  # ln q(z|n)
        joint, product = mean_of_logs(log_q, WEIGHTS[method])
        prior = (-0.5 * found.z**2 - 0.5 * math.log(2 * math.pi)).sum(-1).mean()
        parts = given - joint, joint - product, product - prior  # I(z;n), TC(z), and by dimension
        loss = found.seen.mean() - parts[0] - beta * parts[1] - parts[2]
        if analytic:  # the whole KL in closed form, in place of that of the draws
            loss = loss + (given - prior) - found.kl.sum(-1).mean()
        return -B * loss

    agrees(
        lambda: elbo.differentiable_loss(program.model, guide, x),
        published,
        list(program.parameters()),
    )


# ---------------------------------------------------------------------- FactorVAE


def factor_vae():
    program, critic = CorExVAE(*networks()), DensityRatio(7.0, M, critic=mlp([M, 8, 1]))
    return program, critic, CorExELBO(max_plate_nesting=2, regularizers=[critic])


def standardised(z):
    """What the critic is given: it is a function of the latents up to location and scale."""
    return (z - z.mean(0)) / ((z - z.mean(0)) ** 2).sum(0).div(B - 1).sqrt()


def test_factor_vae_given_the_critic():
    """Kim & Mnih 2018, Eq. 2 with the ratio of Eq. 3."""
    program, critic, elbo = factor_vae()
    x = binary()

    def published():
        found = Encoded(program, x)
        d = critic.critic(standardised(found.z)).sigmoid()
        return -B * (found.seen - found.kl.sum(-1) - 7.0 * (d / (1 - d)).log().squeeze(-1)).mean()

    agrees(
        lambda: elbo.differentiable_loss(program.model, program.guide, x),
        published,
        list(program.parameters()),
    )


def test_the_critic_of_factor_vae():
    """Kim & Mnih 2018, Algorithm 2: half the cross-entropy of true and of shuffled draws."""
    program, critic, elbo = factor_vae()
    x = binary()
    pyro.set_rng_seed(3)
    elbo.loss_and_grads(program.model, program.guide, x)
    pyro.set_rng_seed(3)
    z = standardised(Encoded(program, x).z.detach())
    apart = torch.stack([z[torch.randperm(B), j] for j in range(M)], 1)
    d, shuffled = critic.critic(z).sigmoid(), critic.critic(apart).sigmoid()
    loss = -0.5 * (d.log().mean() + (1 - shuffled).log().mean())
    wanted = torch.autograd.grad(loss, list(critic.parameters()))
    assert max(float(grad.abs().max()) for grad in wanted) > 1e-3
    found = tuple(parameter.grad for parameter in critic.parameters())
    assert_close(found, wanted, rtol=1e-9, atol=1e-12)

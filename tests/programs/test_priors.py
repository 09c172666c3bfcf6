from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
import zuko
from pyro.distributions.transforms import Spline
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_corex import CorExELBO, CorExVAE, StackedCorEx
from pyro_corex.programs import Prior, mlp_decoder, mlp_encoder
from pyro_corex.programs.priors import (
    Flat,
    LearnedCategorical,
    LearnedMixture,
    LearnedNormal,
    StandardNormal,
    factorised,
    make_prior,
)

D, M = 6, 3


class PyroFlow(nn.Module):
    """A monotonic spline for each latent: Pyro's transform."""

    def __init__(self) -> None:
        super().__init__()
        self.spline = Spline(M, count_bins=4, bound=3.0)

    def forward(self) -> Any:
        return dist.TransformedDistribution(dist.Normal(torch.zeros(M), 1.0), [self.spline])


class ZukoFlow(nn.Module):
    """A monotonic spline for each latent: Zuko's transform."""

    def __init__(self, bins: int = 4) -> None:
        super().__init__()
        self.widths = nn.Parameter(torch.randn(M, bins))
        self.heights = nn.Parameter(torch.randn(M, bins))
        self.slopes = nn.Parameter(torch.randn(M, bins - 1))

    def forward(self) -> Any:
        spline = zuko.transforms.MonotonicRQSTransform(self.widths, self.heights, self.slopes)
        return dist.TransformedDistribution(dist.Normal(torch.zeros(M), 1.0), [spline])


class Laplace(Prior):
    """A prior of the user's own, with event dimensions."""

    def __init__(self) -> None:
        super().__init__(M)
        self.log_scale = nn.Parameter(torch.zeros(M))

    def forward(self) -> Any:
        return dist.Laplace(0.0, self.log_scale.exp()).to_event(1)


class PyroPrior(PyroModule):
    """A prior with a constrained parameter, in Pyro's own style."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.ones(M), constraints.positive)

    def forward(self) -> Any:
        return dist.Normal(torch.zeros(M), self.scale)


PRIORS: dict[str, Callable[[], Any]] = {
    "standard_normal": lambda: "standard_normal",
    "learned_normal": lambda: "learned_normal",
    "learned_mixture": lambda: "learned_mixture",
    "flat": lambda: "flat",
    "flat for some": lambda: Flat(M, [0, 2]),
    "mixture of 3": lambda: LearnedMixture(M, n_components=3),
    "mixture of 1": lambda: LearnedMixture(M, n_components=1),
    "distribution": lambda: dist.StudentT(4.0, torch.zeros(M), torch.ones(M)),
    "event dimensions": lambda: dist.Normal(torch.zeros(M), 2.0).to_event(1),
    "one for all": lambda: dist.Normal(0.0, 2.0),
    "torch's": lambda: torch.distributions.Laplace(torch.zeros(M), torch.ones(M)),
    "function": lambda: lambda: dist.Laplace(torch.zeros(M), 1.0),
    "Prior": Laplace,
    "PyroModule": PyroPrior,
    "pyro flow": PyroFlow,
    "zuko flow": ZukoFlow,
}
LEARNED = [
    "learned_normal",
    "learned_mixture",
    "mixture of 3",
    "Prior",
    "PyroModule",
    "pyro flow",
    "zuko flow",
]


def make_vae(prior: Any) -> CorExVAE:
    return CorExVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, prior=prior)


def density(prior: Prior, z: Tensor) -> Tensor:
    """The log density of each latent, of shape ``(n, M)``, for ``z`` of shape ``(n,)``."""
    return prior().expand((len(z), M)).log_prob(z[:, None].expand(-1, M))


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_a_density_for_each_latent(name):
    prior = make_prior(PRIORS[name](), M)
    assert prior().event_shape == ()
    z = torch.linspace(-300, 300, 600_001 if name == "pyro flow" else 60_001)
    mass = torch.trapezoid(density(prior, z).detach().double().exp(), z.double(), dim=0)
    torch.testing.assert_close(mass, torch.ones(M).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("particles", [1, 2])
def test_every_prior_gives_a_term_for_each_latent(name, particles):
    vae, x = make_vae(PRIORS[name]()), torch.rand(5, D).round()
    elbo = CorExELBO(particles, vectorize_particles=particles > 1, max_plate_nesting=2)
    loss = elbo.differentiable_loss(vae.model, vae.guide, x)
    assert loss.isfinite()
    assert elbo.last_terms.kl["z"].shape == (M,)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_priors_are_trained(name):
    vae, x = make_vae(PRIORS[name]()), torch.rand(5, D).round()
    before = {n: p.detach().clone() for n, p in vae.prior.named_parameters()}
    assert before
    CorExELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all((p.grad != 0).any() for p in vae.prior.parameters())
    SVI(vae.model, vae.guide, Adam({"lr": 0.1}), CorExELBO()).step(x)
    assert not any(torch.equal(before[n], p) for n, p in vae.prior.named_parameters())


@pytest.mark.parametrize("flow", [PyroFlow, ZukoFlow])
def test_a_flow_fits_the_aggregate_posterior(flow):
    """Eq. 9: over r, the bound on I(z_j : x) is least at the aggregate posterior."""
    torch.manual_seed(0)
    vae, x = make_vae(flow()), torch.rand(64, D).round()
    with torch.no_grad():
        vae.encoder[-1].bias[:M] += 1.0  # the aggregate is not at 0
        vae.encoder[-1].bias[M:] -= 1.0
    vae.encoder.requires_grad_(False)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.05}), CorExELBO(10, True, 2))
    first = svi.loss.__self__.terms(vae.model, vae.guide, x).kl["z"]
    for _ in range(60):
        svi.step(x)
    last = svi.loss.__self__.terms(vae.model, vae.guide, x).kl["z"]
    assert (last < first - 0.1).all()
    assert (last > 0).all()


def test_standard_normal():
    prior = StandardNormal(M)
    z = torch.linspace(-4, 4, 33)
    expected = torch.from_numpy(scipy.stats.norm.logpdf(z.numpy())).float()
    torch.testing.assert_close(density(prior, z), expected[:, None].expand(-1, M))
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}
    assert repr(prior) == "StandardNormal(dim=3)"


def test_learned_normal():
    prior = LearnedNormal(M)
    at_zero = torch.zeros(1)
    torch.testing.assert_close(density(prior, at_zero), density(StandardNormal(M), at_zero))
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([0.0, 1.0, -2.0]))
        prior.log_scale.copy_(torch.tensor([0.0, -1.0, 0.5]))
    z = torch.linspace(-4, 4, 33)
    loc, scale = prior.loc.detach().numpy(), prior.log_scale.detach().exp().numpy()
    expected = scipy.stats.norm.logpdf(z.numpy()[:, None], loc, scale)
    np.testing.assert_allclose(density(prior, z).detach(), expected, rtol=1e-5, atol=1e-5)


def test_learned_mixture():
    prior = LearnedMixture(M, n_components=2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([[0.0, 0.0], [1.0, -1.0], [-3.0, 0.0]]))
        prior.log_scale.copy_(torch.randn(M, 2) / 2)
    z = torch.linspace(-4, 4, 33)
    weight = prior.logits.softmax(-1).detach().numpy()
    component = scipy.stats.norm.pdf(
        z.numpy()[:, None, None],
        prior.loc.detach().numpy(),
        prior.log_scale.detach().exp().numpy(),
    )
    expected = np.log((weight * component).sum(-1))
    np.testing.assert_allclose(density(prior, z).detach(), expected, rtol=1e-4, atol=1e-5)


def test_learned_mixture_starts_close_to_the_standard_normal():
    moments = make_prior("learned_mixture", M)()
    assert moments.mean.abs().max() < 1e-5
    assert (moments.variance - 1).abs().max() < 0.5


def test_learned_categorical():
    prior = LearnedCategorical(4)
    assert prior().batch_shape == (1,)
    torch.testing.assert_close(prior().probs, torch.full((1, 4), 0.25))
    with torch.no_grad():
        prior.logits.copy_(torch.randn(1, 4))
    states = prior().enumerate_support()
    assert float(prior().log_prob(states).exp().sum().detach()) == pytest.approx(1.0)
    torch.testing.assert_close(prior().log_prob(states), prior.logits.log_softmax(-1).T)


def test_priors_in_pyros_style_are_not_shared():
    first, second = make_vae(PyroPrior()), make_vae(PyroPrior())
    x = torch.rand(5, D).round()
    for vae in (first, second):
        SVI(vae.model, vae.guide, Adam({"lr": 0.1}), CorExELBO()).step(x)
    before = second.prior.source.scale.clone()
    SVI(first.model, first.guide, Adam({"lr": 0.1}), CorExELBO()).step(x)
    assert torch.equal(second.prior.source.scale, before)


def test_a_prior_for_the_top_of_a_stack():
    stack = StackedCorEx([(D, 4), (4, M)], n_classes=None, prior=ZukoFlow())
    elbo = CorExELBO()
    elbo.differentiable_loss(stack.model, stack.guide, torch.rand(5, D).round()).backward()
    assert elbo.last_terms.kl["z2"].shape == (M,)
    assert all((p.grad != 0).any() for p in stack.prior.parameters())


# ---------------------------------------------------------------------- what does not factorise

COUPLED: dict[str, Callable[[], Any]] = {
    "MultivariateNormal": lambda: dist.MultivariateNormal(torch.zeros(M), torch.eye(M)),
    "function": lambda: lambda: dist.MultivariateNormal(torch.zeros(M), torch.eye(M)),
    "LowRankMultivariateNormal": lambda: dist.LowRankMultivariateNormal(
        torch.zeros(M), torch.ones(M, 1), torch.ones(M)
    ),
    "mixture of products": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2, M), 1.0).to_event(1)
    ),
    "flow over all latents": lambda: zuko.flows.NSF(M)(),
}


@pytest.mark.parametrize("name", COUPLED)
def test_a_prior_that_does_not_factorise_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=r"event shape \(3,\).* does not factorise.*Eq\. 9"):
        make_vae(COUPLED[name]())
    with pytest.raises(ValueError, match=r"second layer \(StackedCorEx\)"):
        StackedCorEx([(D, M)], n_classes=None, prior=COUPLED[name]())


def test_factorised_gives_latents_as_batch_dimensions():
    nested = dist.Independent(dist.Normal(torch.zeros(M), softplus(torch.ones(M))), 1)
    assert factorised(nested, M).batch_shape == (M,)
    plain = dist.Normal(torch.zeros(M), 1.0)
    assert factorised(plain, M) is plain


def test_flat_is_a_plateau_with_soft_ends():
    prior = Flat(M, [0, 2], width=2.0)
    assert list(prior.parameters()) == []
    inside, far = density(prior, torch.linspace(-1.6, 1.6, 65)), density(prior, torch.tensor([4.0]))
    assert (inside[:, [0, 2]].amax(0) - inside[:, [0, 2]].amin(0) < 0.05).all()  # nats
    torch.testing.assert_close(
        inside[32, [0, 2]].exp(), torch.full((2,), 1 / 4.0), rtol=0.15, atol=0
    )
    assert (far[0, [0, 2]] < inside[0, [0, 2]] - 5).all()


def test_flat_leaves_other_latents_at_the_standard_normal():
    z = torch.linspace(-4, 4, 33)
    expected = density(StandardNormal(M), z)[:, 1]
    torch.testing.assert_close(density(Flat(M, [0, 2]), z)[:, 1], expected)
    assert repr(Flat(M, [2, 0])) == "Flat(dim=3, latents=[0, 2])"


def test_flat_tells_directions_apart():
    """A rotation changes the density of a product of plateaus, but not that of normals."""
    angle = torch.tensor(torch.pi / 4)
    rotation = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    z = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * 3.2 - 1.6
    for prior, gain in ((Flat(2), 0.08), (StandardNormal(2), 0.0)):
        straight, turned = (prior().log_prob(x).sum(1).mean() for x in (z, z @ rotation))
        if gain:
            assert straight - turned > gain
        else:
            torch.testing.assert_close(straight, turned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0.0}, r"width > 0 and n_components >= 2, but got width=0.0"),
        ({"n_components": 1}, r"but got width=1.6 and n_components=1"),
        ({"n_components": 2.5}, r"n_components must be an integer >= 1"),
        ({"latents": [0, 3]}, r"latents is \[0, 3\], but there are latents 0 to 2"),
    ],
)
def test_flat_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Flat(M, **arguments)

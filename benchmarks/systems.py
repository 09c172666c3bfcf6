"""The systems that benchmarks/models.py compares, on one pair of networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_corex as pc
from pyro_corex import regularizers as terms
from pyro_corex.programs import (
    GaussianMixture,
    LadderVAE,
    Likelihood,
    Vamp,
    latent_plate,
    mlp,
    mlp_decoder,
    mlp_encoder,
)

CLASSES, PSEUDO_INPUTS, UPPER = 10, 500, 20


@dataclass(frozen=True)
class Problem:
    """Data, and the sizes of networks for them: d - hidden - m and back."""

    x: Tensor
    hidden: tuple[int, ...]
    m: int
    likelihood: Callable[[], str | Likelihood]

    @property
    def up(self) -> list[int]:
        """The sizes of the encoder's layers."""
        return [self.x.shape[1], *self.hidden, self.m]

    def vae(self, make: Any = pc.CorExVAE, **options: Any) -> Any:
        """A program of one layer with these networks."""
        networks = mlp_encoder(self.up), mlp_decoder(self.up[::-1])
        return make(*networks, self.m, likelihood=self.likelihood(), **options)

    def stack(self, make: Any, *upper: int, **options: Any) -> Any:
        """A program of two layers, the first with these networks."""
        layers = [tuple(self.up), (self.m, *upper)]
        return make(layers, likelihood=self.likelihood(), **options)


class Ladder(nn.Module):
    """VLAE's encoder (Zhao et al. 2017): a share of the latents is read off at each depth."""

    def __init__(self, sizes: list[int], share: int) -> None:
        super().__init__()
        pairs = pairwise(sizes)
        self.steps = nn.ModuleList([mlp([a, b, b]) for a, b in pairs])
        self.heads = nn.ModuleList([nn.Linear(b, 2 * share) for b in sizes[1:]])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for step, head in zip(self.steps, self.heads, strict=True):
            x = step(x).relu()
            found.append(head(x).chunk(2, -1))
        return torch.cat([loc for loc, _ in found], -1), torch.cat([s for _, s in found], -1).exp()


class Descent(nn.Module):
    """VLAE's decoder: the deepest share comes first, and each of the others joins on the way."""

    def __init__(self, sizes: list[int], share: int) -> None:
        super().__init__()
        self.share = share
        inner = sizes[1:][::-1]
        ends = [*inner[1:], sizes[0]]
        starts = [share, *(end + share for end in ends[:-1])]
        triples = zip(starts, inner, ends, strict=True)
        self.steps = nn.ModuleList([mlp([a, b, c]) for a, b, c in triples])

    def forward(self, z: Tensor) -> Tensor:
        *rest, out = z.split(self.share, -1)
        for step in self.steps:
            out = step(out)
            if rest:
                out = torch.cat([out.relu(), rest.pop()], -1)
        return out


class PixelVAE(nn.Module):
    """A decoder that sees the inputs before its own, too (Gulrajani et al. 2017)."""

    def __init__(self, vae: pc.CorExVAE) -> None:
        super().__init__()
        self.vae = vae
        d = vae.decoder[-1].out_features
        self.before = nn.Parameter(torch.zeros(d, d))
        self.register_buffer("mask", torch.ones(d, d).tril(-1))

    def model(self, x: Tensor) -> None:
        """Inputs one after the other, each given those before it and z."""
        with pyro.plate("data", len(x), dim=-2):
            with latent_plate("latents", self.vae.latent_dim):
                z = pyro.sample("z", self.vae.prior())
            params = self.vae.decoder(z) + x @ (self.before * self.mask).T
            with latent_plate("dims", x.shape[1]):
                pyro.sample("x", self.vae.likelihood(params), obs=x)

    def guide(self, x: Tensor) -> None:
        """As that of the VAE."""
        with pyro.plate("data", len(x), dim=-2), latent_plate("latents", self.vae.latent_dim):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> Any:
        """As that of the VAE."""
        return self.vae.encode(x)


class Classes(pc.StackedCorEx):
    """A stack whose top of ten classes begins where a mixture of its trained first layer is."""

    def begin(self, trained: Any, x: Tensor, seed: int, steps: int) -> None:
        """Takes the networks of a trained VAE, and starts the top."""
        copy_into(self.encoders[0], trained.encoder)
        copy_into(self.decoders[0], trained.decoder)
        pc.start_top(self, x, seed=seed, steps=steps, progress=False)

    def clusters(self, x: Tensor) -> Tensor:
        """The class of each datum."""
        found: Tensor = self.encode(x)[-1].probs.argmax(-1)
        return found


class VaDE(pc.CorExVAE):
    """A mixture prior that begins at the encodings of a trained VAE."""

    def begin(self, trained: Any, x: Tensor, seed: int, steps: int) -> None:
        """Takes the networks of a trained VAE, and fits the mixture by EM."""
        copy_into(self.encoder, trained.encoder)
        copy_into(self.decoder, trained.decoder)
        self.prior.start(trained.encode(x).sample(), seed=seed, n_starts=3)

    def clusters(self, x: Tensor) -> Tensor:
        """The class of each datum."""
        found: Tensor = self.prior.classes(self.encode(x).mean).probs.argmax(-1)
        return found


class GMVAE(nn.Module):
    """A mixture for z that moves with a latent w, its class exact (Dilokthanakul et al. 2016)."""

    def __init__(self, vae: pc.CorExVAE, sizes: list[int], w: int = 10) -> None:
        super().__init__()
        self.vae, self.w = vae, w
        self.inner = mlp_encoder([*sizes[:-1], w])
        self.components = mlp([w, 100, CLASSES * 2 * vae.latent_dim])

    def of(self, w: Tensor) -> Any:
        """Of w ``(B, 1, w)``, z in each class: batch shape ``(B, CLASSES, m)``."""
        shape = (CLASSES, 2, self.vae.latent_dim)
        loc, log_scale = self.components(w.squeeze(-2)).unflatten(-1, shape).unbind(-2)
        return dist.Normal(loc, log_scale.exp(), validate_args=False)

    def model(self, x: Tensor) -> None:
        """w and the class, z given both, and x."""
        zeros = x.new_zeros(len(x), 1, self.w)
        with pyro.plate("data", len(x), dim=-2):
            w = pyro.sample("w", dist.Normal(zeros, 1.0, validate_args=False).to_event(1))
            classes = dist.Categorical(
                logits=zeros[..., :1].expand(-1, -1, CLASSES), validate_args=False
            )
            c = pyro.sample("c", classes)
            chosen = (c == torch.arange(CLASSES, device=x.device)).to(x.dtype).unsqueeze(-1)
            each = self.of(w)
            loc, scale = ((chosen * part).sum(-2) for part in (each.loc, each.scale))
            with latent_plate("latents", self.vae.latent_dim):
                z = pyro.sample("z", dist.Normal(loc, scale, validate_args=False))
            with latent_plate("dims", x.shape[1]):
                pyro.sample("x", self.vae.decode(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """w and z given x, and the class given both, by Bayes' rule."""
        loc, log_scale = self.inner(x).unsqueeze(-2).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-2):
            q = dist.Normal(loc, log_scale.exp(), validate_args=False)
            w = pyro.sample("w", q.to_event(1))
            with latent_plate("latents", self.vae.latent_dim):
                z = pyro.sample("z", self.encode(x), infer={"analytic_kl": False})
            c = self.classes(z, w)
            pyro.sample("c", c, infer={"enumerate": "parallel"})

    def classes(self, z: Tensor, w: Tensor) -> Any:
        """r(c|z, w)."""
        logits = self.of(w).log_prob(z.unsqueeze(-2)).sum(-1)
        return dist.Categorical(logits=logits.unsqueeze(-2), validate_args=False)

    def encode(self, x: Tensor) -> Any:
        """As that of the VAE."""
        return self.vae.encode(x)

    def clusters(self, x: Tensor) -> Tensor:
        """The class of each datum, at the means."""
        w = self.inner(x).unsqueeze(-2).chunk(2, -1)[0]
        found: Tensor = self.classes(self.encode(x).mean, w).logits.squeeze(-2).argmax(-1)
        return found


def copy_into(module: nn.Module, other: nn.Module) -> None:
    """The same parameters."""
    module.load_state_dict(other.state_dict())


@dataclass(frozen=True)
class System:
    """One row of the comparison."""

    changes: str
    """What it changes in the bound."""
    make: Callable[[Problem], Any]
    terms: Callable[[Problem], list[Any]] = lambda _: []


def vlae(p: Problem) -> pc.CorExVAE:
    sizes, depths = p.up[:-1], len(p.hidden)
    share = p.m // depths
    networks = Ladder(sizes, share), Descent(sizes, share)
    return pc.CorExVAE(*networks, share * depths, likelihood=p.likelihood())


def anchored(free: float = 1.0, **anchors: Any) -> Callable[[Problem], Any]:
    return lambda p: p.vae(pc.AnchorVAE, free_weight=free, **{"anchors": {}, **anchors})


SYSTEMS = {
    "VAE": System("nothing: Eq. 10", lambda p: p.vae()),
    "AnchorVAE, 0.5 on five": System(
        "five weights", anchored(anchors=dict.fromkeys(range(5), 0.5))
    ),
    "β-VAE, 4": System("all weights", anchored(4.0)),
    "β-TCVAE, 6": System(
        "adds a term", lambda p: p.vae(), lambda _: [terms.MinibatchTotalCorrelation(5.0)]
    ),
    "FactorVAE, 10": System(
        "adds a term", lambda p: p.vae(), lambda p: [terms.DensityRatio(10.0, p.m)]
    ),
    "TC(z) penalty, 10": System(
        "adds a term", lambda p: p.vae(), lambda _: [terms.TotalCorrelation(10.0)]
    ),
    "InfoVAE, α 0.5, λ 100": System(
        "all weights, adds a term",
        anchored(0.5),
        lambda _: [terms.MaximumMeanDiscrepancy(100.0)],
    ),
    "mixture for each latent": System("prior", lambda p: p.vae(prior="learned_mixture")),
    "VampPrior for each latent": System("prior", lambda p: p.vae(prior=Vamp(p.x[:PSEUDO_INPUTS]))),
    "VampPrior": System(
        "prior, joint", lambda p: p.vae(prior=Vamp(p.x[:PSEUDO_INPUTS], joint=True))
    ),
    "VaDE": System("prior, joint", lambda p: p.vae(VaDE, prior=GaussianMixture(p.m, CLASSES))),
    "GMVAE": System("prior: classes and w on top", lambda p: GMVAE(p.vae(), p.up)),
    "DLGM": System(
        "prior: a layer on top",
        lambda p: p.stack(pc.StackedCorEx, 100, UPPER, n_classes=None),
    ),
    "Ladder VAE": System(
        "as DLGM, guide from the top", lambda p: p.stack(LadderVAE, 100, UPPER, n_classes=None)
    ),
    "CorEx stack": System("prior: ten classes on top", lambda p: p.stack(Classes, 32, 16, CLASSES)),
    "VLAE": System("encoder and decoder", vlae),
    "PixelVAE": System("decoder sees x", lambda p: PixelVAE(p.vae())),
}

"""Where the anchors of an AnchorVAE start from: the directions in which the data vary most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import check_count, check_seed
from pyro_corex.information.checks import check_finite
from pyro_corex.programs import AnchorVAE, NormalLikelihood
from pyro_corex.threads import alone
from pyro_corex.training.optimization import check_positive
from pyro_corex.training.random_state import seeded


@alone()
def start_anchors(
    vae: AnchorVAE,
    x: Any,
    *,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> None:
    r"""Starts each anchor at a direction in which the data vary most, without labels.

    A linear AnchorVAE comes to that at its optimum (Eq. 21 in closed form, see
    :class:`~pyro_corex.information.LinearOptimum`): the smallest weight has the first principal
    direction, and so on, and each :math:`p(z_a)` has the variance of the prior.  From random
    weights training takes very many steps to find it.  From here the anchors lead at once.  The
    decoder learns to read them in a few steps of its own, in which the other latents are draws of
    N(0, 1); then everything is trained as before.

    The encoder is wrapped in an :class:`AnchoredEncoder`, so that :func:`~pyro_corex.load` needs a
    program on which this was called.

    :param vae: an untrained program; changed in place.
    :param x: the data, as its encoder takes them: shape ``(N, ...)``.
    :param steps: of the decoder, towards what the anchors tell of x.
    :param batch_size: of these steps.
    :param lr: the learning rate of these steps, which falls to a hundredth.
    :param seed: of all draws; the global random states are put back.
    :param progress: show a progress bar.
    :raises ValueError: for a program without anchors or one that was started already, fewer data
        than anchors, data that are not finite, cannot occur or do not vary, an encoder that gives a
        distribution or does not take them, and numbers that are not positive.
    :raises TypeError: for another program than an AnchorVAE, and data that hold no numbers.
    """
    if not isinstance(vae, AnchorVAE):
        raise TypeError(f"vae must be an AnchorVAE, but got {type(vae).__name__}")
    if not vae.anchors or isinstance(vae.encoder, AnchoredEncoder):
        raise ValueError(
            "vae must have anchors that were not started before, but got "
            f"{'a started one' if vae.anchors else 'one with anchors={}'}"
        )
    check_seed(seed)
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, value)
    check_positive("lr", lr)
    data = as_tensor(x, "x")
    check_finite("x", data)
    place = next(vae.parameters())
    rows = data.flatten(1).to(place)
    latents = sorted(vae.anchors, key=lambda j: (vae.anchors[j], j))
    if data.dim() < 2 or len(latents) > min(rows.shape):
        raise ValueError(
            f"x must have the shape (N, ...) with at least as many data and dimensions as anchors, "
            f"{len(latents)}, but got {tuple(data.shape)}"
        )
    vae.check_data(data)
    with torch.no_grad():
        vae.encode(data[:2].to(place))  # which says so where it does not take them
    mean = rows.mean(0)
    if not bool((rows != rows[0]).any()):
        raise ValueError("x must vary, but its data are all the same")
    with seeded(seed, place.device):
        more = min(len(latents) + 10, *rows.shape)  # than are asked for, for their precision
        _, values, basis = torch.pca_lowrank(rows - mean, more, center=False, niter=3)
    values, basis = values[: len(latents)], basis[:, : len(latents)]
    variance = (values.square() / len(rows)).clamp(min=torch.finfo(place.dtype).tiny)
    scale = vae.likelihood.scale if isinstance(vae.likelihood, NormalLikelihood) else 0.3
    prices = vae.kl_weights[latents].to(variance) * scale**2
    noise = (prices / variance).clamp(1e-4, 0.99)  # of the encoder, s² where the prior has 1
    directions = basis.T / variance.sqrt().unsqueeze(1)
    encoder = AnchoredEncoder(vae.encoder, latents, directions, mean, noise, vae.latent_dim)
    with torch.no_grad():
        encoder(data[:2].to(place))  # which refuses one of another kind
    vae.encoder = encoder
    with seeded(seed, place.device):
        _teach(vae, data, latents, steps, batch_size, lr, progress)


def _teach(
    vae: AnchorVAE, x: Tensor, latents: list[int], steps: int, size: int, lr: float, progress: bool
) -> None:
    """Trains the decoder, and a scale that is learned, to read the anchors."""
    parameters = [*vae.decoder.parameters(), *vae.likelihood.parameters()]
    place = parameters[0]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    for _ in tqdm(range(steps), desc="anchors", disable=not progress):
        batch = x[torch.randint(len(x), (size,))].to(place)
        z = torch.randn(size, vae.latent_dim, device=place.device, dtype=place.dtype)
        with torch.no_grad():
            told: Any = vae.encode(batch)
            z[:, latents] = told.sample()[:, latents]
        density: Any = vae.decode(z)
        loss = -density.log_prob(batch).flatten(1).sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()


class AnchoredEncoder(nn.Module):
    """An encoder in which chosen latents start at linear functions of x; see :func:`start_anchors`.

    The directions stay as they are.  What is trained is how the latents mix them, and what the
    network adds, which is nothing at the start.

    :param network: the encoder, to ``2 * latent_dim`` numbers or to a pair (loc, scale).
    :param latents: the chosen ones, k of them.
    :param directions: shape ``(k, d)``, along which x has variance 1.
    :param mean: of x, shape ``(d,)``.
    :param noise: the variance of each chosen latent given x at the start, shape ``(k,)``.
    :param latent_dim: m.
    """

    latents: Tensor
    directions: Tensor
    mean: Tensor

    def __init__(
        self,
        network: nn.Module,
        latents: list[int],
        directions: Tensor,
        mean: Tensor,
        noise: Tensor,
        latent_dim: int,
    ) -> None:
        super().__init__()
        self.network, self.latent_dim = network, latent_dim
        self.register_buffer("latents", torch.tensor(latents, device=mean.device))
        self.register_buffer("directions", directions)
        self.register_buffer("mean", mean)
        self.mix = nn.Parameter(torch.diag((1 - noise).sqrt()))
        self.log_scale = nn.Parameter(noise.log() / 2)
        self.gain = nn.Parameter(torch.zeros_like(noise))  # of the network, for these latents

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and scales, ``(B, m)`` each, for ``x`` of shape ``(B, ...)``.

        :raises ValueError: for a network that gives another kind of output.
        """
        out = self.network(x)
        if isinstance(out, Tensor) and out.shape[-1] == 2 * self.latent_dim:
            loc, log_scale = out.chunk(2, -1)
            log_scale = log_scale.clamp(-12, 8)
        elif isinstance(out, (tuple, list)) and len(out) == 2:
            loc, log_scale = out[0], out[1].log()
        else:
            raise ValueError(
                f"encoder must give {2 * self.latent_dim} numbers or a pair (loc, scale) for "
                f"start_anchors, but gave {type(out).__name__}"
            )
        along = (x.flatten(1) - self.mean) @ self.directions.T
        started = along @ self.mix.T + self.gain * loc[:, self.latents]
        noise = self.log_scale + self.gain * log_scale[:, self.latents]
        loc = loc.index_copy(1, self.latents, started)
        return loc, log_scale.index_copy(1, self.latents, noise).exp()

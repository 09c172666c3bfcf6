"""The usual encoders and decoders; a ready-made program takes any ``nn.Module`` in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import check_count


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A fully connected network through ``sizes``, e.g. ``(784, 512, 512, 64)``.

    The activation stands between the layers, not behind the last.

    >>> mlp([784, 512, 64])(torch.zeros(5, 784)).shape
    torch.Size([5, 64])

    :raises ValueError: for fewer than two sizes, or sizes below 1.
    :raises TypeError: for an activation that is a module already, or cannot be called.
    """
    _check_sizes(sizes)
    is_module = isinstance(activation, nn.Module)
    if is_module or not callable(activation):
        raise TypeError(
            "activation must be a class or a function that makes a module, e.g. nn.ReLU, but got "
            f"{'the module ' if is_module else ''}{activation!r}"
        )
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def mlp_encoder(
    sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """A Gaussian encoder through ``sizes``; its output is twice the last: location, log-scale.

    Inputs with several axes are flattened.  The activation is as in :func:`mlp`.

    >>> mlp_encoder([784, 400, 20])(torch.zeros(5, 28, 28)).shape  # 20 locations, 20 log-scales
    torch.Size([5, 40])

    :raises ValueError: as :func:`mlp`.
    """
    _check_sizes(sizes)
    return nn.Sequential(nn.Flatten(), *mlp([*sizes[:-1], 2 * sizes[-1]], activation))


def mlp_decoder(
    sizes: Sequence[int],
    n_params: int = 1,
    shape: Sequence[int] | None = None,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Module:
    """A decoder through ``sizes``, e.g. ``(64, 512, 512, 784)``.

    :param n_params: parameters for each output (see ``Likelihood.n_params``), as a last axis.
    :param shape: the shape of x, if it has several axes.
    :param activation: as in :func:`mlp`.
    :raises ValueError: as :func:`mlp`, for ``n_params`` below 1, and for another number of
        dimensions in ``shape`` than the last of ``sizes``.

    >>> mlp_decoder([20, 400, 784], n_params=3)(torch.zeros(5, 20)).shape
    torch.Size([5, 784, 3])
    """
    _check_sizes(sizes)
    check_count("n_params", n_params)
    shape = (sizes[-1],) if shape is None else shape
    _check_sizes(shape, "shape", 1)
    shape = tuple(shape)
    if prod(shape) != sizes[-1]:
        raise ValueError(
            f"The shape {shape} has {prod(shape)} dimensions, but the last of sizes is {sizes[-1]}"
        )
    network = mlp([*sizes[:-1], sizes[-1] * n_params], activation)
    shape = (*shape, n_params) if n_params > 1 else shape
    return network if len(shape) == 1 else network.append(nn.Unflatten(-1, shape))


class LinearStart(nn.Module):
    """A Gaussian encoder that starts close to a linear map and learns to depart from it.

    Locations are ``x @ weight.T`` plus what the network says, which is made small at the start;
    both are trained.  With independent components as ``weight`` (see
    ``datasets.independent_directions``) the first latents start apart.

    :param network: an encoder whose last layer is an ``nn.Linear``, such as ``mlp_encoder(...)``.
    :param dim: the number of input dimensions, d.
    :param weight: shape ``(k, d)``, for the first k latents; without it, the map starts at zero.
    :raises ValueError: for a weight that does not fit, and for a network with another last layer.
    """

    def __init__(self, network: nn.Sequential, dim: int, weight: Tensor | None = None) -> None:
        super().__init__()
        last = network[-1] if isinstance(network, nn.Sequential) else network
        if last is network or not isinstance(last, nn.Linear):
            raise ValueError(
                "network must be an nn.Sequential, and its last layer an nn.Linear, but got "
                f"{type(last).__name__}"
            )
        start = torch.zeros(last.out_features, check_count("dim", dim))
        if weight is not None:
            weight = as_tensor(weight, "weight")
            if not bool(weight.isfinite().all()):
                raise ValueError("weight must hold finite numbers, but holds NaN or infinity")
            if weight.dim() != 2 or weight.shape[1] != dim or 2 * len(weight) > len(start):
                raise ValueError(
                    f"weight must have the shape (k, {dim}) with k at most {len(start) // 2}, the "
                    f"number of latents, but got {tuple(weight.shape)}"
                )
            start[: len(weight)] = weight
        self.network = network
        self.weight = nn.Parameter(start)
        with torch.no_grad():
            last.weight.mul_(0.1)
            if last.bias is not None:
                last.bias.zero_()

    def _arguments(self) -> dict[str, Any]:
        return {"dim": self.weight.shape[1], "weight": None}

    def forward(self, x: Tensor) -> Tensor:
        """Locations and log-scales, of shape ``(n, 2 * latent_dim)`` for ``(n, d)``."""
        out: Tensor = self.network(x)
        return out + x @ self.weight.T


class GroupedDecoder(nn.Module):
    r"""A decoder in which each latent explains a group of outputs of its own, as in a tree.

    :math:`\mathrm{loc}_i = a_i z_{g(i)} + b_i`, as hierarchical CorEx (Ver Steeg & Galstyan 2015)
    groups variables.  Other than a fully connected decoder it cannot undo a rotation of its
    latents, so what is left dependent among them is left to the next layer.

    :param latent_dim: the number of latents, m.
    :param out_dim: the number of outputs, a multiple of m: the groups are side by side and equal.
    :param scales: also give a learned scale for each output, as a layer above the first must.
    :raises ValueError: where the groups are not equal.
    """

    def __init__(self, latent_dim: int, out_dim: int, *, scales: bool = False) -> None:
        super().__init__()
        _check_sizes([latent_dim, out_dim])
        if out_dim % latent_dim:
            raise ValueError(
                f"out_dim must be a multiple of latent_dim, but {out_dim} outputs do not make "
                f"{latent_dim} equal groups"
            )
        self.copies = out_dim // latent_dim
        self.weight = nn.Parameter(torch.full((out_dim,), 0.5))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.log_scale = nn.Parameter(torch.zeros(out_dim)) if scales else None

    def _arguments(self) -> dict[str, Any]:
        out_dim, scales = len(self.weight), self.log_scale is not None
        return {"latent_dim": out_dim // self.copies, "out_dim": out_dim, "scales": scales}

    def forward(self, z: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Locations, or locations and scales, of shape ``(n, out_dim)`` for ``(n, latent_dim)``."""
        loc = z.repeat_interleave(self.copies, -1) * self.weight + self.bias
        return loc if self.log_scale is None else (loc, self.log_scale.exp().expand_as(loc))


def conv_encoder(
    shape: tuple[int, int, int], latent_dim: int, channels: Sequence[int] = (32, 64, 128)
) -> nn.Sequential:
    """A Gaussian encoder of images: one convolution of stride 2 for each entry of ``channels``.

    :param shape: channels, height, width; both a multiple of ``2 ** len(channels)``.
    :returns: a network from ``(B, *shape)`` to ``(B, 2 * latent_dim)``: locations, log-scales.
    :raises ValueError: for another shape, and without channels.
    """
    height, width = _reduced(shape, channels, latent_dim)
    layers: list[nn.Module] = []
    for n_in, n_out in zip([shape[0], *channels[:-1]], channels, strict=True):
        layers += [nn.Conv2d(n_in, n_out, kernel_size=4, stride=2, padding=1), nn.ReLU()]
    n_features = channels[-1] * height * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_features, 2 * latent_dim))


def conv_decoder(
    latent_dim: int, shape: tuple[int, int, int], channels: Sequence[int] = (32, 64, 128)
) -> nn.Sequential:
    """The mirror image of :func:`conv_encoder`: from ``(B, latent_dim)`` to ``(B, *shape)``.

    :raises ValueError: as there.
    """
    height, width = _reduced(shape, channels, latent_dim)
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, channels[-1] * height * width),
        nn.ReLU(),
        nn.Unflatten(-1, (channels[-1], height, width)),
    ]
    outputs = [*reversed(channels[:-1]), shape[0]]
    for n_in, n_out in zip(reversed(channels), outputs, strict=True):
        layers += [nn.ConvTranspose2d(n_in, n_out, kernel_size=4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _reduced(
    shape: tuple[int, int, int], channels: Sequence[int], latent_dim: int
) -> tuple[int, int]:
    if isinstance(channels, Sequence) and not channels:
        raise ValueError("channels must hold at least one number of channels, but is empty")
    _check_sizes(shape, "shape", 2)
    _check_sizes(channels, "channels", 1)
    check_count("latent_dim", latent_dim)
    factor = 2 ** len(channels)
    if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"{len(channels)} convolutions of stride 2 need images of shape (channels, height, "
            f"width) with height and width multiples of {factor}, but got {tuple(shape)}"
        )
    return shape[1] // factor, shape[2] // factor


def _check_sizes(sizes: Sequence[int], name: str = "sizes", least: int = 2) -> None:
    several = isinstance(sizes, Sequence) and len(sizes) >= least
    if not several or any(not isinstance(s, int) or s < 1 for s in sizes):
        wanted = "at least two positive integers" if least == 2 else "a list of positive integers"
        raise ValueError(f"{name} must be {wanted}, but got {sizes!r}")

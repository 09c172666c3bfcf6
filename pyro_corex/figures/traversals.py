"""What single latents do to the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent

from pyro_corex.arrays import as_tensor


def traversal(module: Any, z: Tensor, latent: int, values: Tensor) -> Tensor:
    """Decoded means along one latent, the others staying where they are (the paper's Fig. 5).

    The mean of a categorical likelihood of K levels is that of the numbers 0 to K - 1: divided by
    K - 1 it can be shown as a grey value.  A distribution without a mean, such as a Cauchy, gives
    its mode.

    :param module: a program with ``.decode(z)``, such as :class:`~pyro_corex.AnchorVAE`.
    :param z: where to start from, shape ``(n, m)``: the encodings of some data.
    :param latent: the latent that takes the values.
    :param values: shape ``(k,)``, e.g. ``torch.linspace(-3, 3, 7)``.
    :returns: shape ``(n, k, ...)``, as x has.

    >>> from pyro_corex.programs import CorExVAE, mlp_decoder, mlp_encoder
    >>> vae = CorExVAE(mlp_encoder([20, 3]), mlp_decoder([3, 20]), 3)
    >>> traversal(vae, torch.zeros(5, 3), latent=0, values=torch.linspace(-3, 3, 7)).shape
    torch.Size([5, 7, 20])

    :raises TypeError: for a module that does not decode.
    :raises ValueError: for other shapes, and for a latent that is not there.
    """
    if not callable(getattr(module, "decode", None)):
        raise TypeError(
            f"module must be a program with .decode(z), but got {type(module).__name__}"
        )
    z, values = as_tensor(z, "z"), as_tensor(values, "values")
    if z.dim() != 2 or values.dim() != 1:
        raise ValueError(
            "z and values must have the shapes (n, m) and (k,), but have "
            f"{tuple(z.shape)} and {tuple(values.shape)}"
        )
    if not 0 <= latent < z.shape[1]:
        raise ValueError(f"There is no latent {latent}: there are 0 to {z.shape[1] - 1}")
    changed = z.unsqueeze(1).repeat(1, len(values), 1)
    changed[:, :, latent] = values.to(z)
    with torch.no_grad():
        decoded = mean_of(module.decode(changed.flatten(0, 1)))
    return decoded.unflatten(0, (len(z), len(values)))


def mean_of(fn: Distribution) -> Tensor:
    """The mean; of states, as numbers, for a categorical; the mode where there is no mean."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if isinstance(fn, Categorical):
        states = torch.arange(fn.probs.shape[-1], device=fn.probs.device, dtype=fn.probs.dtype)
        return fn.probs @ states
    mean: Tensor = fn.mean
    return torch.where(mean.isnan(), fn.mode, mean) if bool(mean.isnan().any()) else mean

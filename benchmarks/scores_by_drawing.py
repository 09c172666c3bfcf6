"""The scores of beta-VAE and FactorVAE, which draw data with factors of their choice.

They need a simulator, and ask a classifier: for codes and factors of given data see
``pyro_corex.evaluation.mutual_information_gap``, ``matched_information`` and ``dci``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Represent = Callable[[Tensor], Tensor]
Draw = Callable[[int, torch.Generator], Tensor]


def beta_vae_score(
    represent: Represent,
    n_factors: int,
    *,
    n_train: int = 1000,
    n_test: int = 500,
    pairs: int = 64,
    draw: Draw | None = None,
    seed: int = 0,
) -> float:
    """The β-VAE score (Higgins et al. 2017): can a linear classifier tell which factor is shared?

    One point is the mean of abs(z - z') over ``pairs`` pairs of data that share one factor.

    :param represent: from factors ``(n, k)`` to codes ``(n, m)``: it draws the data and encodes.
    :param draw: ``draw(n, generator)`` gives independent factors ``(n, k)``; uniform on [-1, 1] by
        default.
    :returns: the accuracy on held-out points; 1/k is chance.
    :raises ValueError: for fewer than two factors, and codes of another shape.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _points(_mean_difference, represent, n_factors, n_train + n_test, pairs, draw, seed)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(x[:n_train], y[:n_train])
    return float(classifier.score(x[n_train:], y[n_train:]))


def factor_vae_score(
    represent: Represent,
    n_factors: int,
    *,
    n_train: int = 1000,
    n_test: int = 500,
    pairs: int = 64,
    draw: Draw | None = None,
    seed: int = 0,
) -> float:
    """The FactorVAE score (Kim & Mnih 2018): does the steadiest latent tell the fixed factor?

    One point is the latent with the least variance, relative to that of all data, among ``pairs``
    data that share one factor; the classifier is a majority vote.  Latents whose variance is below
    5 % of the largest, and so carry nothing, are left out.

    The parameters, and the ValueError for wrong ones, are those of :func:`beta_vae_score`: factors
    have the shape ``(n, k)``, codes ``(n, m)``.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = _uniform(n_factors) if draw is None else draw
    scale = _represent(represent, draw(4096, generator)).var(0)
    active = scale >= 0.05 * scale.max()
    scale = torch.where(active, scale, scale.new_tensor(float("inf")))

    def steadiest(z: Tensor, _: Tensor) -> Tensor:
        spread = torch.where(scale.isinf(), scale, z.var(1) / scale)
        return spread.argmin(1)

    x, y = _points(steadiest, represent, n_factors, n_train + n_test, pairs, draw, seed)
    votes = np.zeros((len(scale), n_factors))
    np.add.at(votes, (x[:n_train], y[:n_train]), 1)
    return float((votes.argmax(1)[x[n_train:]] == y[n_train:]).mean())


def _mean_difference(z: Tensor, other: Tensor) -> Tensor:
    return (z - other).abs().mean(1)


def _points(
    feature: Callable[[Tensor, Tensor], Tensor],
    represent: Represent,
    n_factors: int,
    n: int,
    pairs: int,
    draw: Draw | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    if n_factors < 2:
        raise ValueError(f"n_factors must be at least 2, but got {n_factors}")
    draw = _uniform(n_factors) if draw is None else draw
    generator = torch.Generator().manual_seed(seed + 1)
    shared = torch.randint(n_factors, (n,), generator=generator)
    features = []
    for part in shared.split(32):
        size = len(part) * pairs
        first, second = draw(size, generator), draw(size, generator)
        mask = torch.nn.functional.one_hot(part, n_factors).bool().repeat_interleave(pairs, 0)
        value = draw(len(part), generator).repeat_interleave(pairs, 0)
        first, second = torch.where(mask, value, first), torch.where(mask, value, second)
        z, other = (_represent(represent, f).unflatten(0, (-1, pairs)) for f in (first, second))
        features.append(feature(z, other))
    return torch.cat(features).cpu().numpy(), shared.numpy()


def _uniform(n_factors: int) -> Draw:
    return lambda n, generator: torch.rand(n, n_factors, generator=generator) * 2 - 1


def _represent(represent: Represent, factors: Tensor) -> Tensor:
    with torch.no_grad():
        z = represent(factors)
    if not isinstance(z, Tensor) or z.dim() != 2 or len(z) != len(factors):
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(
            f"represent must give codes of shape ({len(factors)}, m) for {len(factors)} rows of "
            f"factors, but gave {got}"
        )
    return z

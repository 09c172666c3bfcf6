r"""How well single latents stand for single factors.

``codes`` are a representation, such as posterior means, of shape ``(N, m)``; ``factors`` the true
factors behind the data, of shape ``(N, k)``. Factors are for scoring only.

Information is estimated from quantile bins, ``bins`` of them for everything that has more distinct
values than that, and normalised by the entropy of the factor's bins, ln ``bins`` for a continuous
one. With N data the estimate of an independent pair is about :math:`(bins - 1)^2 / 2N` nats too
high: 0.018 at 10,000 data and 20 bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class Matching:
    """A one-to-one assignment of latents to factors; see :func:`matched_information`."""

    values: Tensor
    """Normalised mutual information of each factor with its latent, shape ``(k,)``, in [0, 1] and
    not in nats."""

    latents: Tensor
    """The latent of each factor, shape ``(k,)``."""

    @property
    def mean(self) -> float:
        """The mean over the factors, in [0, 1]."""
        return float(self.values.mean())

    def __repr__(self) -> str:
        pairs = zip(self.values.tolist(), self.latents.tolist(), strict=True)
        shown = ", ".join(f"{value:.2f} (z{latent})" for value, latent in pairs)
        return f"Matching(mean {self.mean:.3f}; by factor: {shown})"


def factor_information(codes: Tensor, factors: Tensor, *, bins: int = 20) -> Tensor:
    """I(z_j : factor_k) in nats, of the binned values: what :func:`mutual_information_gap` is from.

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :returns: shape ``(m, k)``.
    :raises ValueError: for shapes that do not fit, values that are not finite, factors that are
        constant, and ``bins`` < 2.
    :raises TypeError: for codes or factors that are no tensors.
    """
    z, f = _binned(codes, factors, bins)
    return _information(z, f).to(torch.get_default_dtype())


def matched_information(
    codes: Tensor, factors: Tensor, *, latents: Sequence[int] | None = None, bins: int = 20
) -> Matching:
    """Normalised mutual information under the best one-to-one assignment (Kuhn 1955) to factors.

    Each pair's mutual information is divided by the factor's entropy, so that it is in [0, 1] and
    not in nats.

    >>> factors = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(50, 1)
    >>> matched_information(factors.flip(1), factors).latents
    tensor([1, 0])

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :param latents: the latents that may be assigned, such as the anchors; all by default.
    :raises ValueError, TypeError: as :func:`factor_information`; and for fewer latents than
        factors, and latents that are no columns of codes or are there twice.
    """
    from scipy.optimize import linear_sum_assignment  # here, as it changes the warning filters

    _check(codes, factors)
    chosen = torch.arange(codes.shape[-1]) if latents is None else torch.as_tensor(list(latents))
    if len(chosen) < factors.shape[-1]:
        raise ValueError(
            f"{len(chosen)} latents cannot be matched one to one with {factors.shape[-1]} factors"
        )
    m, listed = codes.shape[-1], chosen.tolist()
    if len(set(listed)) < len(listed) or not all(j in range(m) for j in listed):
        raise ValueError(
            f"latents must be different columns of codes, 0 to {m - 1}, but got {listed}"
        )
    table = _normalised(codes[:, chosen], factors, bins)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    order = np.argsort(columns)
    best = torch.as_tensor(rows[order])
    return Matching(table[best, torch.arange(len(best))], chosen[best])


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    """MIG (Chen et al. 2018): how far the best latent of a factor is ahead of the second best.

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :returns: the mean over factors of the gap in normalised information (in [0, 1], not nats).
    :raises ValueError, TypeError: as :func:`factor_information`, and for fewer than two latents.
    """
    _check(codes, factors)
    if codes.shape[1] < 2:
        raise ValueError("a gap needs at least two latents, but codes have one")
    first, second = _normalised(codes, factors, bins).topk(2, dim=0).values
    return float((first - second).mean())


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018), in [0, 1]."""

    disentanglement: float
    """Whether a latent matters for one factor only, weighted by how much it matters at all."""

    completeness: float
    """Whether one latent is enough for a factor."""

    informativeness: float
    """R² of the factors predicted from the codes, on held-out data."""


def dci(codes: Tensor, factors: Tensor, *, n_estimators: int = 30, seed: int = 0) -> DCI:
    """DCI (Eastwood & Williams 2018) with random forests, a quarter of the data held out.

    The quarter is for the informativeness.  Importances are the forests' impurity decreases.  Needs
    scikit-learn.

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :raises ValueError: for shapes that do not fit, values that are not finite, and fewer than 8
        data.
    :raises TypeError: for codes or factors that are no tensors.
    """
    from sklearn.ensemble import RandomForestRegressor

    _check(codes, factors)
    n = len(codes)
    if n < 8:
        raise ValueError(f"dci needs at least 8 data, but got {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    train, test = order[n // 4 :].numpy(), order[: n // 4].numpy()
    x, y = codes.detach().cpu().double().numpy(), factors.detach().cpu().double().numpy()
    importance, scores = [], []
    for target in y.T:
        forest = RandomForestRegressor(n_estimators, min_samples_leaf=5, random_state=seed)
        forest.fit(x[train], target[train])
        importance.append(torch.from_numpy(forest.feature_importances_))
        scores.append(max(0.0, forest.score(x[test], target[test])))
    table = torch.stack(importance, 1)  # latents, factors
    weight = table.sum(1) / table.sum().clamp(min=1e-300)
    return DCI(
        float((weight * _concentration(table, 1)).sum()),
        float(_concentration(table, 0).mean()),
        float(np.mean(scores)),
    )


# ------------------------------------------------------------------ information from bins


def _normalised(codes: Tensor, factors: Tensor, bins: int) -> Tensor:
    from scipy.stats import entropy

    z, f = _binned(codes, factors, bins)
    entropies = torch.tensor([entropy(column.bincount()) for column in f.T])
    return (_information(z, f) / entropies).float()


def _information(z: Tensor, f: Tensor) -> Tensor:
    """Of each column of bins with each: shape ``(m, k)``, in nats."""
    from sklearn.metrics import mutual_info_score  # here, as it changes the warning filters

    pairs = [[mutual_info_score(a, b) for b in f.T.numpy()] for a in z.T.numpy()]
    return torch.tensor(pairs, dtype=torch.float64).clamp(min=0)


def _binned(codes: Tensor, factors: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    _check(codes, factors)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, but got {bins}")
    z, f = (torch.stack([_bin(c, bins) for c in x.detach().cpu().T], 1) for x in (codes, factors))
    constant = (f == f[0]).all(0)
    if bool(constant.any()):
        raise ValueError(f"factor {int(constant.int().argmax())} is constant: drop it")
    return z, f


def _bin(x: Tensor, bins: int) -> Tensor:
    """Quantile bins, or the values themselves where there are no more than ``bins``."""
    values, index = torch.unique(x, return_inverse=True)
    if len(values) <= bins:
        return index
    rank = x.argsort(stable=True).argsort(stable=True)
    return rank * bins // len(x)


def _concentration(table: Tensor, dim: int) -> Tensor:
    """1 - normalised entropy of the importances along ``dim``."""
    p = table / table.sum(dim, keepdim=True).clamp(min=1e-300)
    return 1 - torch.special.entr(p).sum(dim) / max(np.log(table.shape[dim]), 1e-12)


def _check(codes: Tensor, factors: Tensor) -> None:
    for name, x in (("codes", codes), ("factors", factors)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor (N, columns), but got {type(x).__name__}")
        if x.dim() != 2 or not x.numel():
            raise ValueError(f"{name} must have the shape (N, columns), but got {tuple(x.shape)}")
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} hold NaN or infinity")
    if len(codes) != len(factors):
        raise ValueError(
            f"codes and factors must be of the same data, but have {len(codes)} and {len(factors)} "
            "rows"
        )

r"""How well single latents stand for single factors.

``codes`` are a representation, such as posterior means, of shape ``(N, m)``; ``factors`` the true
factors behind the data, of shape ``(N, k)``. Factors are for scoring only.

Information is estimated from quantile bins, ``bins`` of them for everything that has more distinct
values than that, and normalised by the entropy of the factor's bins, ln ``bins`` for a continuous
one. With N data the estimate of an independent pair is about :math:`(bins - 1)^2 / 2N` nats too
high, 0.018 at 10,000 data and 20 bins; :func:`matched_information` takes that off, the others are
as their papers define them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_corex.information.checks import check_finite, check_matrix

Array = NDArray[Any]
_SHUFFLES = 30  # from which it is found what chance gives


@dataclass(frozen=True, repr=False)
class Matching:
    """A one-to-one assignment of latents to factors; see :func:`matched_information`."""

    values: Tensor
    """Normalised mutual information of each factor with its latent, beyond what chance gives, shape
    ``(k,)``: at most 1, and not in nats.  Unbiasedness lets it fall below 0 where it is near 0."""

    latents: Tensor
    """The latent of each factor, shape ``(k,)``."""

    stderr: Tensor = field(default_factory=lambda: torch.tensor(torch.nan))
    """Standard errors of ``values``, shape ``(k,)``."""

    @property
    def mean(self) -> float:
        """The mean over the factors, at most 1."""
        return float(self.values.mean())

    @property
    def mean_stderr(self) -> float:
        """The standard error of ``mean``, at most: as if all errors had the same sign."""
        return float(self.stderr.mean())

    def __repr__(self) -> str:
        pairs = zip(self.values.tolist(), self.latents.tolist(), strict=True)
        shown = ", ".join(f"{value:.2f} (z{latent})" for value, latent in pairs)
        return f"Matching(mean {self.mean:.3f} ± {self.mean_stderr:.3f}; by factor: {shown})"


def factor_information(codes: Tensor, factors: Tensor, *, bins: int = 20) -> Tensor:
    """I(z_j : factor_k) in nats, of the binned values: what :func:`mutual_information_gap` is from.

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :returns: shape ``(m, k)``.
    :raises ValueError: for shapes that do not fit, values that are not finite, factors that are
        constant, and ``bins`` < 2.
    :raises TypeError: for codes or factors that are no tensors, arrays or lists of numbers.
    """
    z, f = _binned(codes, factors, bins)
    return _tensor(_information(z, f)[0])


def matched_information(
    codes: Tensor, factors: Tensor, *, latents: Sequence[int] | None = None, bins: int = 20
) -> Matching:
    """Normalised mutual information under the best one-to-one assignment (Kuhn 1955) to factors.

    Each pair's mutual information is divided by the factor's entropy, and what chance gives is
    taken off, as Vinh, Epps & Bailey (2010) do: (I / H - c) / (1 - c), where c is the mean of the
    same matching over data whose factors are shuffled.  It is 1 for latents that tell all of a
    factor, and 0 on average for those that tell nothing, however few the data and many the latents.
    For what tells a part it is too low while there are fewer data than pairs of bins: 0.12 where
    0.16 is right for 300 data in 20 bins, and 0.15 for 1,000.  Few data ask for few bins.
    The error is that of sampling (delta method), and for what is near chance that of the shuffles.

    >>> factors = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(50, 1)
    >>> matched_information(factors.flip(1), factors).latents
    tensor([1, 0])

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :param latents: the latents that may be assigned, such as the anchors; all by default.
    :raises ValueError, TypeError: as :func:`factor_information`; and for fewer latents than
        factors, latents that are no columns of codes or are there twice, and so few data to the
        bin that shuffled ones agree as well.
    """
    codes, factors = _check(codes, factors)
    m, k = codes.shape[1], factors.shape[1]
    listed = list(range(m)) if latents is None else [int(j) for j in latents]
    if len(listed) < k:
        raise ValueError(f"{len(listed)} latents cannot be matched one to one with {k} factors")
    if len(set(listed)) < len(listed) or not all(j in range(m) for j in listed):
        raise ValueError(
            f"latents must be different columns of codes, 0 to {m - 1}, but got {listed}"
        )
    z, f = _binned(codes[:, listed], factors, bins)
    share, variance, best = _match(z, f)
    rng = np.random.default_rng(0)
    shuffled = [_match(z, f[rng.permutation(len(f))]) for _ in range(_SHUFFLES)]
    null, noise = (np.stack([each[i] for each in shuffled]) for i in (0, 1))
    chance = null.mean(0)
    if chance.max() > 1 - 1e-9:
        raise ValueError(
            f"{len(f)} data in up to {bins} bins tell nothing: latents that know nothing of the "
            "factors would seem to know all. Give more data, or fewer bins"
        )
    values = (share - chance) / (1 - chance)
    variance = (variance - noise.mean(0)).clip(0) + null.var(0, ddof=1) * (1 - values) ** 2
    stderr = np.sqrt(variance) / (1 - chance)
    return Matching(_tensor(values), torch.tensor(listed)[best], _tensor(stderr))


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    """MIG (Chen et al. 2018): how far the best latent of a factor is ahead of the second best.

    :param codes: shape ``(N, m)``.
    :param factors: shape ``(N, k)``.
    :returns: the mean over factors of the gap in normalised information (in [0, 1], not nats).
    :raises ValueError, TypeError: as :func:`factor_information`, and for fewer than two latents.
    """
    z, f = _binned(codes, factors, bins)
    if z.shape[1] < 2:
        raise ValueError("a gap needs at least two latents, but codes have one")
    information, entropy, _ = _information(z, f)
    *_, second, first = np.sort(information / entropy, axis=0)
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
    :raises TypeError: for codes or factors that are no tensors, arrays or lists of numbers.
    """
    from sklearn.ensemble import RandomForestRegressor

    codes, factors = _check(codes, factors)
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


def _match(z: Array, f: Array) -> tuple[Array, Array, Array]:
    """Of each factor: I / H with its best latent, the variance of that, and which latent it is."""
    from scipy.optimize import linear_sum_assignment  # here, as it changes the warning filters

    information, entropy, variance = _information(z, f)
    _, best = linear_sum_assignment((information / entropy).T, maximize=True)
    of = best, np.arange(len(best))
    return (information / entropy)[of], variance[of], best


def _information(z: Array, f: Array) -> tuple[Array, Array, Array]:
    """Of each column of bins with each, in nats: I ``(m, k)``, the H of the second ``(k,)``, and
    the variance of I / H ``(m, k)``.
    """
    n, kinds = len(z), f.max() + 1
    cells = (z.max() + 1) * kinds
    counts = [[np.bincount(a * kinds + b, minlength=cells) for b in f.T] for a in z.T]
    p = np.array(counts).reshape(z.shape[1], f.shape[1], -1, kinds) / n
    of_z, of_f = p.sum(3, keepdims=True), p.sum(2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # of bins that a column has not
        surprisal = np.where(of_f > 0, -np.log(of_f), 0.0)
        pointwise = np.where(p > 0, np.log(p / (of_z * of_f)), 0.0)
    information = (p * pointwise).sum((2, 3)).clip(0)
    entropy = (of_f * surprisal).sum((2, 3))
    influence = (pointwise - (information / entropy)[..., None, None] * surprisal) / entropy[
        0, :, None, None
    ]
    return information, entropy[0], (p * influence**2).sum((2, 3)) / n


def _binned(codes: Any, factors: Any, bins: int) -> tuple[Array, Array]:
    codes, factors = _check(codes, factors)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, but got {bins}")
    z, f = (torch.stack([_bin(c, bins) for c in x.detach().cpu().T], 1) for x in (codes, factors))
    constant = (f == f[0]).all(0)
    if bool(constant.any()):
        raise ValueError(f"factor {int(constant.int().argmax())} is constant: drop it")
    return z.numpy(), f.numpy()


def _bin(x: Tensor, bins: int) -> Tensor:
    """Quantile bins, or the values themselves where there are no more than ``bins``."""
    values, index = torch.unique(x, return_inverse=True)
    if len(values) <= bins:
        return index
    rank = x.argsort(stable=True).argsort(stable=True)
    return rank * bins // len(x)


def _tensor(x: Array) -> Tensor:
    return torch.from_numpy(x).to(torch.get_default_dtype())


def _concentration(table: Tensor, dim: int) -> Tensor:
    """1 - normalised entropy of the importances along ``dim``."""
    p = table / table.sum(dim, keepdim=True).clamp(min=1e-300)
    return 1 - torch.special.entr(p).sum(dim) / max(np.log(table.shape[dim]), 1e-12)


def _check(codes: Any, factors: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of the same data."""
    z, f = (
        check_finite(name, check_matrix(name, x, "(N, columns)"))
        for name, x in (("codes", codes), ("factors", factors))
    )
    if len(z) != len(f):
        raise ValueError(
            f"codes and factors must be of the same data, but have {len(z)} and {len(f)} rows"
        )
    return z, f

"""A full-covariance Gaussian mixture, and the merging of its components."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_corex.arrays import as_tensor
from pyro_corex.batches import check_count
from pyro_corex.information.checks import as_floats, check_generator, held


class Mixture(NamedTuple):
    """A mixture of K Gaussians over d dimensions, as :func:`fit_mixture` finds it."""

    weights: Tensor
    """Shape ``(K,)``."""
    loc: Tensor
    """Shape ``(K, d)``."""
    scale_tril: Tensor
    """Cholesky factors of the covariances, shape ``(K, d, d)``."""
    log_likelihood: float
    """In nats per datum (of all its copies together)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density of each component, without its weight, nats: ``(N, d)`` to ``(N, K)``."""
        z = as_tensor(z, "z").to(self.loc)
        k, d = self.loc.shape
        one = torch.eye(d).to(self.loc).expand(k, d, d)
        inverse = torch.linalg.solve_triangular(self.scale_tril, one, upper=False)
        white = (z @ inverse.flatten(0, 1).mT).unflatten(-1, (k, d))
        white = white - (inverse @ self.loc.unsqueeze(-1)).squeeze(-1)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * white.square().sum(-1) - log_det - 0.5 * d * math.log(2 * math.pi)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws, ``(n, d)``.

        :raises ValueError: for negative n.
        :raises TypeError: for a generator of another kind.
        """
        check_count("n", n, 0)
        check_generator(generator)
        draws = self.loc.new_empty(n, self.loc.shape[1]).normal_(generator=generator)
        if n:
            of = self.weights.multinomial(n, replacement=True, generator=generator)
            for k in of.unique():
                draws[of == k] = self.loc[k] + draws[of == k] @ self.scale_tril[k].T
        return draws

    def log_density(self, z: Tensor) -> Tensor:
        """The log density of the mixture, in nats: ``(N, d)`` to ``(N,)``."""
        return self._joint(as_tensor(z, "z").unsqueeze(0)).logsumexp(-1)

    def responsibilities(self, copies: Tensor) -> Tensor:
        """p(k | all copies of a datum): ``(M, N, d)`` or ``(N, d)`` to ``(N, K)``."""
        copies = as_tensor(copies, "copies")
        return self._joint(copies if copies.dim() == 3 else copies.unsqueeze(0)).softmax(-1)

    def _joint(self, copies: Tensor) -> Tensor:
        log_prob = self.log_prob(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])
        return log_prob.sum(0) + self.weights.log()


@torch.no_grad()
def fit_mixture(
    z: Tensor,
    n_components: int,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    ridge: float = 1e-3,
) -> Mixture:
    """Fits a full-covariance Gaussian mixture by EM (Dempster et al. 1977), from a k-means start.

    Given several copies of each datum, all copies are from one component: so the components do not
    tell apart what the copies differ in.  (Without copies it is scikit-learn's
    ``GaussianMixture``, on the device of ``z``.)  Needs scikit-learn for the start.

    :param z: shape ``(N, d)``, or ``(M, N, d)`` for M copies.
    :param seed: of the start.
    :param tolerance: stop where the log likelihood gains less, in nats per datum.
    :param ridge: added to the diagonals of the covariances.
    :raises ValueError: for fewer data than components, another shape, and NaN.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    z = as_floats("z", held("z", z))
    if z.dim() not in (2, 3) or not bool(z.isfinite().all()):
        raise ValueError(
            f"z must be of shape (N, d), or (M, N, d) for M copies, without NaN and infinite "
            f"values, but got {'such values in ' if z.dim() in (2, 3) else ''}{tuple(z.shape)}"
        )
    z = z if z.dim() == 3 else z.unsqueeze(0)
    if not 1 <= n_components <= z.shape[1]:
        raise ValueError(
            f"n_components must be 1 to the number of data, {z.shape[1]}, but got {n_components}"
        )
    centre = z.mean(0)
    resp = torch.eye(n_components, dtype=z.dtype, device=z.device)[
        _k_means(centre, n_components, seed)
    ]
    last = -math.inf
    for _ in range(max_iterations):
        mixture = _m_step(z, resp, ridge)
        joint = mixture._joint(z)
        log_likelihood = joint.logsumexp(-1)
        resp = (joint - log_likelihood[:, None]).exp()
        now = float(log_likelihood.mean())
        mixture = mixture._replace(log_likelihood=now)
        if now - last < tolerance:
            break
        last = now
    return mixture


def _m_step(z: Tensor, resp: Tensor, ridge: float) -> Mixture:
    flat, many = z.flatten(0, 1), resp.repeat(len(z), 1)
    size = many.sum(0).clamp_min(1e-6)
    loc = (many.T @ flat) / size[:, None]
    trils = []
    for k in range(resp.shape[1]):
        centred = flat - loc[k]
        covariance = (centred * many[:, k : k + 1]).T @ centred / size[k]
        covariance.diagonal().add_(ridge)
        trils.append(torch.linalg.cholesky(covariance))
    return Mixture(size / size.sum(), loc, torch.stack(trils), -math.inf)


def _k_means(z: Tensor, k: int, seed: int) -> Tensor:
    """The cluster of each datum."""
    from sklearn.cluster import KMeans

    found = KMeans(k, n_init=1, max_iter=20, random_state=seed).fit_predict(z.cpu().numpy())
    return torch.as_tensor(found, dtype=torch.long, device=z.device)


def merge_states(joint: Tensor, n_states: int) -> tuple[Tensor, float]:
    """Merges the states of a pair of variables until ``n_states`` are left, losing little.

    Greedily, each time the two states whose merging, in both variables, leaves the largest mutual
    information between the variables: the agglomerative information bottleneck (Slonim & Tishby
    1999), on both sides at once.

    :param joint: their symmetric joint probabilities, shape ``(K, K)``.
    :returns: the new state of each old one, shape ``(K,)``, and the mutual information left, nats.
    :raises ValueError: where there are fewer states than ``n_states``, and for a table that is not
        square, or has negative entries.
    :raises TypeError: for what is no tensor, array or list of numbers.
    """
    joint = held("joint", joint).detach()
    if joint.dim() != 2 or joint.shape[0] != joint.shape[1] or not bool((joint >= 0).all()):
        raise ValueError(
            "joint must be a square table of probabilities or counts >= 0, but got "
            f"{'negative ones or NaN in ' if joint.dim() == 2 else ''}{tuple(joint.shape)}"
        )
    if not 1 <= n_states <= len(joint):
        raise ValueError(f"n_states must be 1 to {len(joint)}, but got {n_states}")
    joint = joint.double().cpu() / float(joint.sum())
    new = torch.arange(len(joint))
    while len(joint) > n_states:
        pairs = [(i, j) for i in range(len(joint)) for j in range(i)]
        i, j = max(pairs, key=lambda pair: _information(_merged(joint, *pair)))
        joint = _merged(joint, i, j)
        new[new == i] = j
        new[new > i] -= 1
    return new, _information(joint)


def _merged(joint: Tensor, i: int, j: int) -> Tensor:
    kept = [k for k in range(len(joint)) if k != i]
    rows = joint.clone()
    rows[j] += joint[i]
    both = rows.clone()
    both[:, j] += rows[:, i]
    return both[kept][:, kept]


def _information(joint: Tensor) -> float:
    outer = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return float(torch.where(joint > 0, joint * (joint / outer).log(), 0.0).sum())

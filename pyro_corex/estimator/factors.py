"""Factor analysis, from which Gaussian programs start.

It is the maximum of the bound (Eq. 10) of a linear-Gaussian program, in the basis in which the
posterior precision is diagonal.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize

from pyro_corex.estimator.columns import Array

FLOOR = 0.004
"""The least share of noise in the variance of a column."""
_LEAST = 1e-3
"""The least eigenvalue of a correlation matrix."""
_BLOCK = 1024  # columns that are treated at once


def factor_analysis(corr: Array, m: int, floor: Array | float = FLOOR) -> tuple[Array, Array, int]:
    r"""Maximum likelihood factor analysis of a correlation matrix (Joreskog 1967).

    :param corr: the matrix R, ``(d, d)``, or F of :math:`R = F F^T`, ``(d, r)`` with r < d, as
        where rows are fewer than columns: then nothing of d x d is made.
    :returns: loadings ``(d, m)`` with a diagonal :math:`W^T \Psi^{-1} W`, noise variances ``(d,)``
        and the number of evaluations.
    """
    d, rank = corr.shape
    m_used = min(m, rank)
    floor = np.broadcast_to(np.minimum(floor, 0.5), (d,))

    def parts(log_psi: Array) -> tuple[Array, Array, Array]:
        psi = np.exp(log_psi)
        root = np.sqrt(psi)
        if rank == d:
            scaled = corr / root / root[:, None]
            values, vectors = eigh(scaled, subset_by_index=[d - m_used, d - 1])
        else:
            gram = np.zeros((rank, rank))
            for rows in range(0, d, _BLOCK):
                own = corr[rows : rows + _BLOCK]
                gram += (own / psi[rows : rows + _BLOCK, None]).T @ own
            values, vectors = eigh(gram, subset_by_index=[rank - m_used, rank - 1])
            values = np.maximum(values, 1e-12)
            vectors = corr @ (vectors / np.sqrt(values)) / root[:, None]
        values, vectors = values[::-1], vectors[:, ::-1]
        loadings = root[:, None] * vectors * np.sqrt(np.maximum(values - 1, 0))
        return psi, values, loadings

    def loss(log_psi: Array) -> tuple[float, Array]:
        psi, values, loadings = parts(log_psi)
        top = np.maximum(values, 1.0)
        f = log_psi.sum() + np.log(top).sum() + (1 / psi).sum() - (values - values / top).sum()
        slope = ((loadings**2).sum(1) + psi - 1) / psi
        return 0.5 * float(f), 0.5 * slope

    start = np.full(d, 0.5)
    if rank == d:
        start = (1 - 0.5 * m_used / d) / np.diag(np.linalg.inv(corr + 1e-6 * np.eye(d)))
    start = np.log(np.clip(start, floor, 0.95))
    bounds = [(np.log(low), np.log(1.5)) for low in floor]
    options = {"maxiter": 300, "ftol": 1e-10, "gtol": 1e-5, "maxcor": 20}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    psi, _, loadings = parts(found.x)
    full = np.zeros((d, m))
    full[:, :m_used] = loadings
    return full, psi, int(found.nfev)


def bic(corr: Array, n: float, loadings: Array, psi: Array) -> float:
    """The Bayesian information criterion of a factor model of n rows, less a constant."""
    d, m = loadings.shape
    scaled = loadings / psi[:, None]
    inner = np.eye(m) + loadings.T @ scaled  # of W W^T + Psi, by Woodbury's identity
    product = corr @ scaled if len(corr) == corr.shape[1] else corr @ (corr.T @ scaled)
    trace = (1 / psi).sum() - np.trace(np.linalg.solve(inner, scaled.T @ product))
    fit = np.log(psi).sum() + np.linalg.slogdet(inner)[1] + trace
    return float(n * fit + np.log(n) * (d * m - m * (m - 1) / 2))


def nearest_correlation(corr: Array, floor: float = _LEAST) -> Array:
    """A positive definite correlation matrix close to one that is estimated pair by pair."""
    corr = np.clip((corr + corr.T) / 2, -0.99, 0.99)
    eye = np.eye(len(corr))
    np.fill_diagonal(corr, 1.0)
    for near in (corr, (1 - floor) * corr + floor * eye):  # the second where rows are few
        try:
            np.linalg.cholesky(near - 0.9 * floor * eye)
            return near
        except np.linalg.LinAlgError:
            continue
    values, vectors = np.linalg.eigh(corr)
    fixed = (vectors * np.maximum(values, floor)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    return fixed / scale / scale[:, None]


def without_ties(corr: Array) -> Array | None:
    """Correlations without those among columns that cannot have them all together, such as a 1 in
    one of several columns: those in eigenvectors of eigenvalues below 0.  ``None`` for others.

    :param corr: estimated pair by pair, ``(d, d)``.
    """
    corr = np.clip((corr + corr.T) / 2, -0.99, 0.99)
    np.fill_diagonal(corr, 1.0)
    try:
        np.linalg.cholesky(corr + _LEAST * np.eye(len(corr)))
        return None
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(corr)
    share = (vectors[:, values < 0] ** 2).sum(1)
    tied = np.flatnonzero(share > share.mean() / 2)
    corr[np.ix_(tied, tied)] = np.eye(len(tied))
    return nearest_correlation(corr)

"""Tables whose total correlation, groups or hidden states are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def factor_table(n: int, groups: int, size: int, noise: float, seed: int) -> tuple[Array, float]:
    """Columns that are a latent plus noise, in groups, and their TC in nats."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, groups)).repeat(size, 1)
    x = z + noise * rng.standard_normal(z.shape)
    total = 1 + noise**2
    block = np.full((size, size), 1 / total) + np.eye(size) * noise**2 / total
    return x, -0.5 * groups * float(np.linalg.slogdet(block)[1])


def erased_copies(
    n: int, groups: int, size: int, states: int, erasure: float, seed: int
) -> tuple[Array, Array]:
    """Columns that show their group's hidden state, or that it was erased; and the states."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(states, size=(n, groups))
    x = hidden.repeat(size, 1).astype(float)
    x[rng.random(x.shape) < erasure] = states
    return x, hidden


def erased_tc(size: int, states: int, erasure: float) -> float:
    """The TC of one group of :func:`erased_copies`, in nats.

    Given which entries are erased, k that are not hold k - 1 times ln(states) too much.
    """
    none = erasure**size
    return float(np.log(states) * (size * (1 - erasure) - (1 - none)))


def survey(
    n: int, traits: int, size: int, seed: int, acquiescence: float = 0.3
) -> tuple[Array, Array]:
    """Answers from 1 to 5 to questions that are keyed either way; and the trait of each."""
    rng = np.random.default_rng(seed)
    among = np.triu(rng.uniform(-0.3, 0.3, (traits, traits)), 1)
    z = rng.multivariate_normal(np.zeros(traits), among + among.T + np.eye(traits), n)
    of = np.repeat(np.arange(traits), size)
    loadings = rng.uniform(0.3, 0.8, len(of)) * np.where(rng.random(len(of)) < 0.4, -1, 1)
    style = acquiescence * rng.standard_normal((n, 1))
    noise = np.sqrt(1 - loadings**2) * rng.standard_normal((n, len(of)))
    y = z[:, of] * loadings + style + noise + rng.normal(0, 0.5, len(of))
    return (y[..., None] > [-1.3, -0.5, 0.3, 1.1]).sum(-1) + 1.0, of


def same_groups(found: Any, true: Any) -> bool:
    """Whether two labellings are one up to names."""
    pairs = set(zip(np.asarray(found).tolist(), np.asarray(true).tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def matched(labels: Array, hidden: Array) -> float:
    """The share of rows whose state is right, with states renamed one to one."""
    from scipy.optimize import linear_sum_assignment

    k = int(max(labels.max(), hidden.max())) + 1
    table = np.zeros((k, k))
    np.add.at(table, (labels.astype(int), hidden.astype(int)), 1)
    return table[linear_sum_assignment(-table)].sum() / len(labels)


def with_gaps(n, groups, size, states, erasure, missing, seed):
    """Erased copies with gaps; their states; and where an entry shows its state."""
    x, hidden = erased_copies(n, groups, size, states, erasure, seed)
    x[np.random.default_rng(seed + 1).random(x.shape) < missing] = np.nan
    return x, hidden, (x < states).reshape(n, groups, size).any(2)


def mixed_table(n: int, seed: int) -> tuple[Array, dict[int, str]]:
    """Columns of all kinds with two causes, a constant and gaps; and kinds that have to be told."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 2)).repeat(5, 1) + 0.6 * rng.standard_normal((n, 10))
    x = np.column_stack(
        [
            z[:, 0],
            z[:, 1].round(1),  # continuous, with values that repeat
            np.exp(2 * z[:, 2]),  # heavy tails
            z[:, 3] > 0,
            np.digitize(z[:, 4], [-1, 0, 1]),
            rng.poisson(np.exp(2 + 0.5 * z[:, 5])),
            np.digitize(z[:, 6], [-0.5, 0.5]),  # told to be categorical
            np.maximum(z[:, 7], 0),  # half of it 0
            z[:, 8],
            z[:, 9] > 0,
            np.ones(n),
        ]
    ).astype(float)
    x[:, :10][rng.random((n, 10)) < 0.1] = np.nan
    return x, {1: "continuous", 6: "categorical", 7: "continuous"}

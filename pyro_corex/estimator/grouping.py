"""Which columns hang together: from the dependence of all pairs to groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[Any]


def pairwise_statistics(onehot: Array, starts: Array) -> tuple[Array, Array, Array]:
    r"""The likelihood-ratio statistic G of independence for each pair of columns.

    :param onehot: ``(N, sum of levels)``; all zeros where a column is missing.
    :param starts: where the levels of each column start, and the end: ``(d + 1,)``.
    :returns: G, which is :math:`2 N I` in nats; its degrees of freedom; and the number of rows
        in which both are observed: each ``(d, d)``.
    """
    d = len(starts) - 1
    joint = onehot.T @ onehot  # of counts
    of = np.repeat(np.arange(d), np.diff(starts))
    pick = np.zeros((len(of), d))
    pick[np.arange(len(of)), of] = 1.0

    def summed(values: Array) -> Array:
        return pick.T @ values @ pick

    n = np.maximum(summed(joint), 1e-12)
    rows = joint @ pick  # counts of a level where the other column is observed
    expanded = rows[:, of]
    columns = expanded.T
    total = n[np.ix_(of, of)]
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(joint * total / (expanded * columns))
    g = 2 * summed(np.where(joint > 0, joint * np.nan_to_num(log, posinf=0, neginf=0), 0.0))
    levels = (rows > 0).astype(float)
    seen = np.maximum((pick.T @ levels), 1)  # levels of i that occur where j is observed
    df = np.maximum((seen - 1) * (seen.T - 1), 1)
    np.fill_diagonal(g, 0.0)
    return np.maximum(g, 0), df, n


def significance(g: Array, df: Array) -> Array:
    """Normal scores of chi-squared statistics (Wilson and Hilferty 1931)."""
    return (np.cbrt(g / df) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df))


def agglomerate(
    g: Array, df: Array, n: Array, n_groups: int, together: Sequence[Sequence[int]] = ()
) -> list[list[int]]:
    """Groups of columns by average linkage on mutual information, less its bias.

    Merging goes on while it is significant, or while there are too many groups.  Columns that are
    left single are not in the result unless there is room for them.

    :param together: columns that are to be in one group.
    """
    d = len(g)
    start = [list(group) for group in together]
    taken = {i for group in start for i in group}
    groups = start + [[i] for i in range(d) if i not in taken]
    member = np.zeros((len(groups), d))
    for a, group in enumerate(groups):
        member[a, group] = 1.0
    fixed = np.arange(len(groups)) < len(start)
    sums = {
        "mi": member @ ((g - df) / (2 * n)) @ member.T,
        "g": member @ g @ member.T,
        "df": member @ df @ member.T,
    }
    size = member.sum(1)
    alive = np.ones(len(groups), bool)
    threshold = norm.isf(0.05 / max(1, d * (d - 1) / 2))
    while True:
        index = np.flatnonzero(alive)
        several = size[index] > 1
        if len(index) < 2:
            break
        mean = sums["mi"][np.ix_(index, index)] / np.outer(size[index], size[index])
        np.fill_diagonal(mean, -np.inf)
        mean[np.ix_(fixed[index], fixed[index])] = -np.inf
        a, b = divmod(int(mean.argmax()), mean.shape[1])
        i, j = int(index[a]), int(index[b])
        # of the mean pair: pairs of two groups are no independent evidence, as copies show
        pairs = size[i] * size[j]
        score = significance(sums["g"][i, j] / pairs, sums["df"][i, j] / pairs)
        enough = len(index) <= n_groups
        if score < threshold:
            kept = several | fixed[index]
            if enough or kept.sum() == n_groups:
                break
            if kept.sum() > n_groups:  # only groups are merged from here on
                mean[~kept] = -np.inf
                mean[:, ~kept] = -np.inf
                a, b = divmod(int(mean.argmax()), mean.shape[1])
                i, j = int(index[a]), int(index[b])
        if not np.isfinite(mean[a, b]):
            break
        i, j = min(i, j), max(i, j)
        groups[i] = groups[i] + groups[j]
        fixed[i] = fixed[i] or fixed[j]
        for table in sums.values():
            table[i] += table[j]
            table[:, i] += table[:, j]
        size[i] += size[j]
        alive[j] = False
    found = [groups[i] for i in np.flatnonzero(alive)]
    anchored = groups[: len(start)]  # these are never merged away
    rest = [group for group in found if group not in anchored]
    return (anchored + sorted(rest, key=lambda group: -len(group)))[:n_groups]

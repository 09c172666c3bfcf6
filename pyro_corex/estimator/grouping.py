"""Which columns hang together: from the dependence of all pairs to groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.cluster.hierarchy import cut_tree, ward

from pyro_corex.estimator.columns import Array

_CHANCE = 1.0  # standard deviations by which a pair has to exceed none to count for something
_ALONE = -1e4  # the value of a group of less than two columns, worse than any
_KICKS = 20
_LEAST = 10  # columns to a group among which groups are sought
_BLOCK = 256  # columns that are treated at once


def pairwise_scores(
    onehot: Array, starts: Array, others: tuple[Array, Array] | None = None
) -> Array:
    r"""How much each pair of columns depends, in standard deviations: ``(d, d)``.

    Normal scores (Wilson and Hilferty 1931) of the likelihood-ratio statistic of independence,
    which is :math:`2 N I` in nats: N(0, 1) where there is no dependence.

    :param onehot: ``(N, sum of levels)``; all zeros where a column is missing.  Rows may be times
        the roots of their weights.
    :param starts: where the levels of each column start, and the end: ``(d + 1,)``.
    :param others: the same of k other columns, for the pairs of each with each of these:
        ``(d, k)``.
    """
    hot, ends = (onehot, starts) if others is None else others
    at, to, width, wide = starts[:-1], ends[:-1], np.diff(starts), np.diff(ends)
    joint = onehot.T @ hot  # of counts
    rows = np.add.reduceat(joint, to, 1)  # counts of a level where the other column is observed
    columns = np.add.reduceat(joint, at, 0)
    n = np.add.reduceat(rows, at, 0)
    independent = np.repeat(rows, wide, 1) * np.repeat(columns, width, 0)
    independent /= np.maximum(np.repeat(np.repeat(n, width, 0), wide, 1), 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * np.log(joint / independent), 0.0)
    ratio = np.add.reduceat(np.add.reduceat(terms, at, 0), to, 1)
    seen = np.add.reduceat((rows > 0).astype(float), at, 0)  # levels of i where j is observed
    too = np.add.reduceat((columns > 0).astype(float), to, 1)
    df = np.maximum((seen - 1) * (too - 1), 1)
    # the cube root of chi-square / df is nearly N(1 - spread, spread): scores of all tables
    # can be compared, where the statistic itself grows with the number of cells
    spread = 2 / (9 * df)
    scores = (np.cbrt(2 * np.maximum(ratio, 0.0) / df) - (1 - spread)) / np.sqrt(spread)
    if others is None:
        np.fill_diagonal(scores, 0.0)
    return scores


def find_groups_of_many(
    hot: Callable[[Array], tuple[Array, Array]],
    d: int,
    n_groups: int,
    rng: np.random.RandomState,
    together: Sequence[Sequence[int]] = (),
) -> Array:
    """:func:`find_groups` for more columns than rows, at a cost linear in them.

    Groups are sought among so many of the columns as there are rows, those that have most of the
    leading principal components of the rows; each of the others then joins the group that gains
    most by it, or none.

    :param hot: gives indicators and starts, as :func:`pairwise_scores` takes them, of some columns.
    """
    blocks = np.array_split(np.arange(d), 1 + d // _BLOCK)
    n = len(hot(blocks[0])[0])
    gram = np.zeros((n, n))
    for block in blocks:
        own = _standardised(*hot(block))
        gram += own @ own.T
    most = min(max(n, _LEAST * n_groups), d)
    values, vectors = np.linalg.eigh(gram)
    vectors = vectors[:, -n_groups:] / np.sqrt(np.maximum(values[-n_groups:], 1e-9))
    leverage = np.concatenate([_leverage(*hot(block), vectors) for block in blocks])
    held = [i for group in together for i in group]
    leverage[held] = np.inf
    chosen = np.sort(np.argsort(-leverage, kind="stable")[: max(most, len(held))])
    few = hot(chosen)
    scores = pairwise_scores(*few)
    place = {int(i): k for k, i in enumerate(chosen)}
    label = find_groups(scores, n_groups, rng, [[place[i] for i in own] for own in together])
    member = np.eye(n_groups + 1)[label][:, :n_groups]
    size = np.maximum(member.sum(0), 1)
    pairs = (member * ((scores - _CHANCE) @ member)).sum(0) + _CHANCE * member.sum(0)
    out = np.full(d, n_groups)
    for block in blocks:
        to = (pairwise_scores(*hot(block), few) - _CHANCE) @ member
        gain = (pairs + 2 * to) / (size + 1) - pairs / size
        best = gain.argmax(1)
        out[block] = np.where(gain.max(1) > 0, best, n_groups)
    out[chosen] = label
    return out


def _standardised(onehot: Array, starts: Array) -> Array:
    """Indicators less their frequencies, by their roots: products are parts of chi-square."""
    seen = np.repeat(np.add.reduceat(onehot, starts[:-1], 1), np.diff(starts), 1)
    p = (onehot**2).mean(0) / np.maximum((seen**2).mean(0), 1e-12)
    return (onehot - seen * p) / np.sqrt(np.maximum(p, 1e-12))


def _leverage(onehot: Array, starts: Array, vectors: Array) -> Array:
    of_levels = ((_standardised(onehot, starts).T @ vectors) ** 2).sum(1)
    return np.add.reduceat(of_levels, starts[:-1])


def find_groups(
    scores: Array,
    n_groups: int,
    rng: np.random.RandomState,
    together: Sequence[Sequence[int]] = (),
) -> Array:
    r"""The group of each column, or ``n_groups`` for those that are better left out: ``(d,)``.

    What is maximised is the sum over groups of :math:`|g| - 1` times the mean score of their pairs,
    less a standard deviation each.  For copies of one cause, what is multiplied is the same for
    all pairs, and what it is multiplied by is how often their total correlation has it.  A column
    that is independent of the others lowers their mean, and is left out; but no group is left with
    fewer than two columns for that.

    The sum is that of kernel k-means, for which Ward's clustering is the greedy search.  From there
    columns move, and change places, until that helps no more; then two groups are mixed, and it
    starts again, some times.

    :param together: columns that are to stay in the groups 0, 1, ...
    """
    scores = scores - _CHANCE * (1 - np.eye(len(scores)))
    held = {i: k for k, group in enumerate(together) for i in group}
    free = np.array([i not in held for i in range(len(scores))])
    best = _climb(scores, _start(scores, n_groups, held), n_groups, free)
    for _ in range(_KICKS if n_groups > 1 else 0):
        label = best[0].copy()
        two = rng.choice(n_groups, 2, replace=False)
        mixed = free & np.isin(label, two)
        label[mixed] = rng.choice(two, mixed.sum())
        found = _climb(scores, label, n_groups, free)
        if found[1] > best[1] + 1e-9:
            best = found
    return best[0]


def _start(scores: Array, n_groups: int, held: dict[int, int]) -> Array:
    """The best of Ward's clusters, of so many that these are the best; named as they are held."""
    d = len(scores)
    if d <= n_groups:
        label = np.arange(d)
    else:
        tree = ward(np.sqrt(2 * (scores.max() - scores[np.triu_indices(d, 1)])))
        many = [n_groups]
        while 4 * many[-1] < d:
            many.append(2 * many[-1])
        levels = [_keep_best(scores, own, n_groups) for own in cut_tree(tree, many).T]
        label = max(levels, key=lambda level: level[1])[0]
    for i, k in held.items():
        names = np.arange(n_groups + 1)
        names[[label[i], k]] = k, label[i]
        label = names[label] if label[i] < n_groups else label
    for i, k in held.items():
        label[i] = k
    return label


def _keep_best(scores: Array, label: Array, n_groups: int) -> tuple[Array, float]:
    """Leaves all but the groups of most value out; and the sum of these."""
    member = np.eye(label.max() + 1)[label]
    values = _value((member * (scores @ member)).sum(0), member.sum(0))
    order = np.argsort(-values, kind="stable")
    rank = np.minimum(np.argsort(order, kind="stable"), n_groups)
    return rank[label], float(values[order[:n_groups]].sum())


def _value(pairs: Array, size: Array) -> Array:
    """What groups add to the sum: ``pairs`` is the sum over i, j in the group."""
    return np.where(size > 1, pairs / np.maximum(size, 1), _ALONE)


def _climb(scores: Array, label: Array, n_groups: int, free: Array) -> tuple[Array, float]:
    """The best move, or else the best change of places, again and again; and the sum reached."""
    label, each = label.copy(), np.arange(len(label))
    member = np.zeros((len(label), n_groups + 1))
    member[each, label] = 1.0
    to, size = scores @ member, member.sum(0)  # a column's scores with the columns of each group

    while True:
        # What a column adds to a sum over pairs is twice its scores with the group's columns, which
        # ``to`` holds: the gain of every move, and of every change of places, in a few products.
        pairs = np.bincount(label, to[each, label], n_groups + 1)
        now = _value(pairs, size)
        now[n_groups] = 0.0
        own, out = to[each, label], label == n_groups
        leave = _value(pairs[label] - 2 * own, size[label] - 1) - now[label]
        leave[out] = 0.0
        join = _value(pairs + 2 * to, size + 1) - now
        join[:, n_groups] = 0.0
        gain = leave[:, None] + join
        gain[each, label] = -np.inf
        gain[~free] = -np.inf
        i, k = divmod(int(gain.argmax()), n_groups + 1)
        moves = [(i, k)]
        if gain[i, k] < 1e-9:
            # j in the place of i: the size of the group stays, so that its value changes by
            # 2 / size times what j has with the others there more than i had; the score of i with
            # j goes off, as i is no longer there
            place = to[:, label].T - own[:, None] - scores
            place *= np.where(out, 0.0, 2 / size[label])[:, None]
            gain = place + place.T
            gain[label[:, None] == label] = -np.inf
            gain[~free], gain[:, ~free] = -np.inf, -np.inf
            i, j = divmod(int(gain.argmax()), len(label))
            if gain[i, j] < 1e-9:
                return label, float(now.sum())
            moves = [(i, label[j]), (j, label[i])]
        for i, k in moves:
            to[:, label[i]] -= scores[:, i]
            to[:, k] += scores[:, i]
            size[label[i]] -= 1
            size[k] += 1
            label[i] = k

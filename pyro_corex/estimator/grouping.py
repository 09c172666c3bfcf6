"""Which columns hang together: from the dependence of all pairs to groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import cut_tree, ward

from pyro_corex.estimator.columns import Array
from pyro_corex.estimator.indicators import Indicators, leading

_CHANCE = 1.0  # standard deviations by which a pair has to exceed none to count for something
_ALONE = -1e4  # the value of a group of less than two columns, worse than any
_KICKS = 20
_LEAST = 10  # columns to a group among which groups are sought
_BLOCK = 256  # columns that are treated at once
_CELLS = 1 << 19  # pairs of levels that are counted at once
MOST = 2_000
"""Columns among all pairs of which groups are sought; of more, those that vary most together."""


def pairwise_scores(
    hot: Indicators, others: Indicators | None = None, often: Array | None = None
) -> Array:
    r"""How much each pair of columns depends, in standard deviations: ``(d, d)``.

    Normal scores (Wilson and Hilferty 1931) of the likelihood-ratio statistic of independence,
    which is :math:`2 N I` in nats: N(0, 1) where there is no dependence.

    :param others: k other columns of the same rows, for the pairs of each with each of these:
        ``(d, k)``.
    :param often: how often each row counts, ``(N,)``.
    """
    often = np.ones(hot.n) if often is None else often
    second = hot if others is None else others
    parts = [
        _scores(hot.take(block), second, often)
        for block in hot.blocks(_CELLS // max(1, second.starts[-1]))
    ]
    scores = np.concatenate(parts)
    if others is None:
        np.fill_diagonal(scores, 0.0)
    return scores


def _scores(hot: Indicators, others: Indicators, often: Array) -> Array:
    at, to, width, wide = hot.starts[:-1], others.starts[:-1], hot.width, others.width
    joint = hot.joint(others, often)  # of counts
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
    return np.asarray((np.cbrt(2 * np.maximum(ratio, 0.0) / df) - (1 - spread)) / np.sqrt(spread))


def find_groups_of_many(
    hot: Indicators,
    n_groups: int,
    rng: np.random.RandomState,
    together: Sequence[Sequence[int]] = (),
    often: Array | None = None,
) -> Array:
    """:func:`find_groups` for many columns, at a cost linear in them.

    Groups are sought among so many of the columns as there are rows, and at most 2,000: those that
    have most of the leading principal components of the rows.  Each of the others then joins the
    group that gains most by it, or none.

    :param often: how often each row counts, ``(N,)``.
    """
    d = len(hot)
    most = min(max(min(hot.n, MOST), _LEAST * n_groups), d)
    leverage = _leverage(hot, n_groups, np.ones(hot.n) if often is None else often)
    held = [i for group in together for i in group]
    leverage[held] = np.inf
    chosen = np.sort(np.argsort(-leverage, kind="stable")[: max(most, len(held))])
    few = hot.take(chosen)
    scores = pairwise_scores(few, often=often)
    place = {int(i): k for k, i in enumerate(chosen)}
    label = find_groups(scores, n_groups, rng, [[place[i] for i in own] for own in together])
    member = np.eye(n_groups + 1)[label][:, :n_groups]
    size = np.maximum(member.sum(0), 1)
    pairs = (member * ((scores - _CHANCE) @ member)).sum(0) + _CHANCE * member.sum(0)
    out = np.full(d, n_groups)
    for block in np.array_split(np.arange(d), 1 + d // _BLOCK):
        to = (pairwise_scores(hot.take(block), few, often) - _CHANCE) @ member
        gain = (pairs + 2 * to) / (size + 1) - pairs / size
        best = gain.argmax(1)
        out[block] = np.where(gain.max(1) > 0, best, n_groups)
    out[chosen] = label
    return out


def _leverage(hot: Indicators, k: int, often: Array) -> Array:
    """How much of the first k principal components of the rows is due to each column, ``(d,)``.

    Of indicators less their frequencies, by their roots: products are parts of chi-square.
    """
    first, root = hot.starts[:-1], np.sqrt(often)[:, None]
    count = hot.counts(often[:, None])
    p = count / np.maximum(np.repeat(np.add.reduceat(count, first), hot.width, 0), 1e-12)
    unit = np.sqrt(np.maximum(p, 1e-12))

    def forward(v: Array) -> Array:
        mean = np.add.reduceat(v * p / unit, first)
        return root * hot.dot(v / unit - np.repeat(mean, hot.width, 0))

    def back(u: Array) -> Array:
        total = hot.counts(root * u)
        seen = np.repeat(np.add.reduceat(total, first), hot.width, 0)
        return (total - p * seen) / unit

    rows = leading(forward, back, (hot.n, hot.starts[-1]), k)
    rows /= np.maximum((rows**2).sum(0), 1e-9)
    return np.asarray(np.add.reduceat((back(rows) ** 2).sum(1), first))


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

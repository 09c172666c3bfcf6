"""Differential entropies from the spacings of sorted data; see ``entropy_estimate``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Spacings(NamedTuple):
    """Differential entropies from the spacings of sorted rows (d, N)."""

    value: Tensor
    """(d,) in nats."""

    surprisal: Tensor
    """(d, N): -ln p at each datum, from the widest windows."""

    excess: Tensor
    """(d,): how much more the noise of the spacings adds to the variance of ``surprisal`` than to
    N times that of ``value``, because neighbours share their spacings."""

    noise: Tensor
    """(d,): the latter, N times the variance that the spacings add to ``value``."""

    drift: Tensor
    """(d,): the entropies of middle windows less those of narrow ones; 0, unless windows are too
    wide for the data."""

    drift_noise: Tensor
    """(d,): variance of ``drift`` where it is 0."""


def spacings(ordered: Tensor) -> Spacings:
    """What sorted rows (d, N) tell; those with the same longest run of ties go together."""
    longest = _longest_run(ordered)
    runs = longest.unique().tolist()
    if len(runs) == 1:
        return _of_run(ordered, runs[0])
    out: list[Tensor] = []
    for run in runs:
        rows = (longest == run).nonzero().flatten()
        found = _of_run(ordered[rows], run)
        out = out or [each.new_empty(len(ordered), *each.shape[1:]) for each in found]
        for whole, each in zip(out, found, strict=True):
            whole[rows] = each
    return Spacings(*out)


def _of_run(ordered: Tensor, run: int) -> Spacings:
    d, n = ordered.shape
    x, i = ordered.flatten(), torch.arange(d * n, device=ordered.device)
    last = _cluster_ends(ordered, run).flatten().nonzero().flatten()
    size = torch.diff(last, prepend=last.new_tensor([-1]))
    end = last.repeat_interleave(size)
    start = (last - size + 1).repeat_interleave(size)

    digamma = torch.arange(8 * run + 1, dtype=x.dtype, device=x.device).digamma()

    def log_spacing(low: Tensor, high: Tensor) -> Tensor:
        return ((x[high] - x[low]).log() - digamma[high - low]).view(d, n)

    def window(half: int) -> Tensor:
        return log_spacing(torch.maximum(i - half, start), torch.minimum(i + half, end))

    # ln N and its small corrections: what share of the data each cluster has, and where it ends
    size_ = size.double()
    zero = ordered.new_zeros(d)
    share = zero.index_add(0, last // n, size_ * ((size_ + 1).digamma() - size_.log())) / n
    clusters = zero.index_add(0, last // n, torch.ones_like(size_))
    constant = share + math.log(n) + (clusters - 1) / (2 * n)
    low = torch.minimum(i, end - min(run, n - 1)).clamp(min=0)
    narrow = log_spacing(low, torch.minimum(low + run, end)).mean(1)
    middle, wide = window(2 * run), window(4 * run)
    # by simulation, for uniform data; the ends of clusters have windows with fewer data
    noise = (0.174 + 0.028 / run**2) / run * (1 + 30 * run * clusters / n)
    single = torch.special.polygamma(1, zero + 8.0 * run)
    value = 2 * middle.mean(1) - wide.mean(1) + constant
    return Spacings(
        value=value,
        surprisal=wide + (value - wide.mean(1))[:, None],
        excess=single - noise,
        noise=noise,
        drift=middle.mean(1) - narrow,
        drift_noise=zero + (0.2 + 0.27 / run**2) / (run * n),
    )


def _cluster_ends(ordered: Tensor, run: int) -> Tensor:
    """Which data (d, N) are the last of their cluster.

    A gap ends one where it is more than c times as wide as the w spacings on its left, and as those
    on its right, together, with w from 1 to 8. In data of a locally constant density that happens
    with a probability below (1 + c / 2)^(-2w), which c makes 1 / (16 N). As c >= 1, no two such
    gaps are nearer than w + 1 data.
    """
    n = ordered.shape[1]
    last = torch.zeros_like(ordered, dtype=torch.bool)
    last[:, -1] = True
    gap = ordered.diff(dim=1)
    for w in (run, 2 * run, 4 * run, 8 * run):
        if n < 2 * w + 2:
            break
        c = max(1.0, 2 * ((16 * n) ** (0.5 / w) - 1))
        beside = ordered[:, w:] - ordered[:, :-w]
        most = torch.maximum(beside[:, : n - 1 - 2 * w], beside[:, w + 1 :])
        last[:, w : n - 1 - w] |= gap[:, w : n - 1 - w] > c * most
    return last


def _most_ties(n: int) -> int:
    return min(2 * max(1, round(n**0.25)), n - 1)


def _longest_run(ordered: Tensor) -> Tensor:
    """How many data of each row share their value, at most; no further than it is refused."""
    equal = ordered[:, 1:] == ordered[:, :-1]
    longest = torch.ones(len(ordered), dtype=torch.long, device=ordered.device)
    for _ in range(_most_ties(ordered.shape[1])):
        some = equal.any(1)
        if not bool(some.any()):
            break
        longest += some
        equal = equal[:, 1:] & equal[:, :-1]
    return longest


def count_tied(ordered: Tensor) -> int:
    """How many rows (d, N) of sorted data have atoms, or more ties than rounding explains."""
    n = ordered.shape[1]
    longest = _longest_run(ordered)
    if bool((longest == 1).all()):
        return 0
    tied = n - new_run(ordered).sum(1)
    # rounding gives a cell so many data with this chance, by Poisson and the ties of other data
    share = 6 * (tied - longest + 1) / n
    chance = math.log(n) + (longest - 1) * share.double().log() - (longest + 1.0).lgamma()
    lonely = (longest > 2) & (chance < -14)
    atoms = lonely | (longest > _most_ties(n))
    return int((atoms | (tied * 2 > n)).sum())


def new_run(ordered: Tensor) -> Tensor:
    """Where a value of a sorted row differs from the one before it."""
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return new

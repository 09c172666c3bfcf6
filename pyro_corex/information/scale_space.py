"""Differential entropy of one-dimensional Gaussian mixtures, in time linear in their size.

For latent j the aggregate posterior is p(z) = (1/N) sum_n N(z; loc_n, scale_n^2). Its entropy is
found without Monte Carlo, on grids whose spacing follows the scales that are present:

1. *Moments.* Every component falls into a cell: a band of scales (``BANDS`` to the octave) and a
   position on a lattice as wide as the narrowest scale of its octave. In the frame of the cell's
   own Gaussian the component has an offset d and an excess variance g, and is the Hermite series

       N(z; c + d s, s^2 (1 + g)) = N(z; c, s^2) sum_p h_p(d, g) He_p((z - c) / s) / p!,
       h_0 = 1,  h_1 = d,  h_{p+1} = d h_p + p g h_{p-1},

   so a cell needs the sums of h_0 ... h_6 and nothing else: mean and variance of every component
   are kept exactly, and the first neglected term is of order h_7 / 7! (below 4e-5).
2. *Masses.* With s_l half the narrowest scale of octave l, the octave's cells become masses on
   a lattice of spacing s_l that carry N(., s_l^2). This is a small fixed matrix per band.
3. *Refinement.* N(., (2 s)^2) = N(., s^2) * N(., 3 s^2): the masses of an octave pass to the next
   finer lattice by a fixed matrix, only where finer components live. Lattices are held as blocks of
   ``BLOCK`` cells with a halo, so that a block is refined from its parent alone.
4. *Quadrature.* Blocks that are not refined are integrated by Gauss-Legendre.

The same linear maps, transposed, give the integral of N_n ln p for every component n, and with it
the pointwise KL(N_n || p) that the standard error is made of.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_corex.information.cells import (
    ABOVE,
    BANDS,
    BELOW,
    BLOCK,
    CELLS,
    GROUP_KEYS,
    ORDER,
    Cells,
    Frame,
)

HALO = 12  # lattice cells kept on either side of a block, enough to refine it alone
NODES = 48  # Gauss-Legendre nodes in a block
_WIDTH = BLOCK + 2 * HALO
_DYNAMIC_RANGE = 2.0**36  # scales below range / this are widened to it
_GROUP_LATENTS = 32  # bound on the latents treated at once
_LN2 = math.log(2)


class MixtureSummary(NamedTuple):
    """Per latent: h(p), the mean entropy of the components, the variance over n of KL(N_n||p)."""

    entropy: Tensor
    component_entropy: Tensor
    kl_variance: Tensor


@dataclass(frozen=True)
class _Maps:
    """The fixed matrices, in lattice units: they depend neither on the data nor on the octave."""

    spread: Tensor  # (BANDS, ORDER * CELLS, 3 * BLOCK): moments -> masses of three blocks
    refine: Tensor  # (2, _WIDTH, _WIDTH): masses of a parent -> masses of its two children
    evaluate: Tensor  # (_WIDTH, NODES): masses -> density at the nodes
    weight: Tensor  # (NODES,)


def _normal(x: Tensor, variance: float) -> Tensor:
    return (x * x * (-0.5 / variance)).exp() / math.sqrt(2 * math.pi * variance)


def _build_maps(device: torch.device) -> _Maps:
    lattice = torch.arange(_WIDTH, dtype=torch.float64) - HALO
    # moments -> masses
    out = torch.arange(3 * BLOCK, dtype=torch.float64) - BLOCK
    cell = 2 * torch.arange(CELLS, dtype=torch.float64)
    spread = torch.zeros(BANDS, ORDER, CELLS, 3 * BLOCK, dtype=torch.float64)
    for k in range(BANDS):
        s = 2 * 2 ** ((k + 0.5) / BANDS)
        tau = math.sqrt(s * s - 1)
        x = (out[None, :] - cell[:, None]) / tau
        hermite = [torch.ones_like(x), x]
        for p in range(1, ORDER - 1):
            hermite.append(x * hermite[p] - p * hermite[p - 1])
        for p in range(ORDER):
            factor = (s / tau) ** p / math.factorial(p) / tau
            spread[k, p] = factor * hermite[p] * _normal(x, 1.0)
    # a parent's masses -> its children's
    refine = torch.stack(
        [_normal(half * BLOCK + lattice[None, :] - 2 * lattice[:, None], 3.0) for half in (0, 1)]
    )
    node, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(NODES))
    node = (node + 1) * (BLOCK / 2)
    evaluate = _normal(node[None, :] - lattice[:, None], 1.0)
    return _Maps(
        spread.reshape(BANDS, ORDER * CELLS, 3 * BLOCK).to(device),
        refine.to(device),
        evaluate.to(device),
        (weight * (BLOCK / 2)).to(device),
    )


class _Octave(NamedTuple):
    """The blocks of one octave that exist, and which of them are refined."""

    latent: Tensor  # (blocks,)
    neighbours: Tensor  # (3, blocks): rows of the octave's own masses, the last row being zero
    leaves: Tensor  # rows that are integrated
    parents: Tensor  # rows that are refined


def _tree(frame: Frame, own: Tensor) -> list[_Octave]:
    """Which blocks to visit, finest octave first; ``own``: sorted keys of blocks with masses."""
    base = frame.base
    bounds = torch.cat([base[0, :] - BELOW, base.new_tensor([frame.keys // BANDS])])
    cuts = torch.searchsorted(own, bounds).tolist()

    def split(key: Tensor, octave: int) -> tuple[Tensor, Tensor]:
        latent = torch.searchsorted(base[:, octave].contiguous() - BELOW, key, right=True) - 1
        return latent, key - base[latent, octave]

    need, refined = [], []
    parents = own[:0]
    for octave in range(frame.octaves):
        refined.append(parents)
        need.append(torch.unique(torch.cat([own[cuts[octave] : cuts[octave + 1]], parents])))
        if octave + 1 < frame.octaves:
            latent, block = split(need[octave], octave)
            parents = torch.unique(base[latent, octave + 1] + block.div(2, rounding_mode="floor"))
    tree = []
    for octave in range(frame.octaves):
        if octave + 1 < frame.octaves:
            latent, block = split(refined[octave + 1], octave + 1)
            first = base[latent, octave] + 2 * block
            exist = torch.stack([first, first + 1], 1).flatten()
        else:
            exist = need[octave]
        latent, _ = split(exist, octave)
        wanted = exist + torch.tensor([[-1], [0], [1]], device=exist.device)
        row = torch.searchsorted(own, wanted).clamp_(max=own.numel() - 1)
        neighbours = torch.where(own[row] == wanted, row, own.numel())
        rows = torch.searchsorted(exist, refined[octave])
        leaf = torch.ones_like(exist, dtype=torch.bool).index_fill_(0, rows, False)
        tree.append(_Octave(latent, neighbours, leaf.nonzero().flatten(), rows))
    return tree


def _own_masses(cells: Cells, moments: Tensor, maps: _Maps) -> tuple[Tensor, Tensor]:
    """Keys of the blocks that an octave's own components reach, and their masses."""
    block, band = cells.active // BANDS, cells.active % BANDS
    beside = torch.arange(-1, 2, device=block.device)
    own = torch.unique(block[:, None] + beside)
    masses = moments.new_zeros((own.numel() + 1, BLOCK))
    m = moments.view(ORDER, -1, CELLS)
    for k in range(BANDS):
        rows = (band == k).nonzero().flatten()
        if rows.numel() == 0:
            continue
        spread = m[:, rows].transpose(0, 1).reshape(rows.numel(), -1) @ maps.spread[k]
        reached = torch.searchsorted(own, block[rows][:, None] + beside)
        masses = masses.index_add(0, reached.flatten(), spread.view(-1, BLOCK))
    return own, masses


def _summarise(cells: Cells, maps: _Maps, pointwise: bool) -> MixtureSummary:
    frame = cells.frame
    moments = cells.moments.div_(cells.n).requires_grad_(pointwise)
    mass = torch.zeros(cells.latents, dtype=torch.float64, device=cells.loc.device)
    plogp = mass.clone()
    functional = mass.new_zeros(())
    with torch.set_grad_enabled(pointwise):
        own, masses = _own_masses(cells, moments, maps)
        tree = _tree(frame, own)
        inherited: Tensor | None = None
        for octave in reversed(range(frame.octaves)):
            node = tree[octave]
            left, centre, right = masses[node.neighbours]
            w = torch.cat([left[:, BLOCK - HALO :], centre, right[:, :HALO]], 1)
            if inherited is not None:
                w = w + inherited
            density = w[node.leaves] @ maps.evaluate
            p = density.detach().clamp(min=0)
            log_p = p.clamp(min=1e-290).log_() - octave * _LN2
            integral = (p * log_p) @ maps.weight
            mass.index_add_(0, node.latent[node.leaves], p @ maps.weight)
            plogp.index_add_(0, node.latent[node.leaves], integral)
            if pointwise:
                functional = functional + (density * (log_p * maps.weight)).sum()
            parent = w[node.parents]
            inherited = (parent @ maps.refine).transpose(0, 1).reshape(-1, _WIDTH)
    entropy = mass.log() - plogp / mass + (frame.step / 2).log()
    component = cells.log_scale + frame.step.log() + 0.5 * math.log(2 * math.pi * math.e)
    variance = torch.full_like(mass, math.nan)
    if pointwise:
        (gradient,) = torch.autograd.grad(functional, moments)
        variance = cells.kl_variance(gradient)
    return MixtureSummary(entropy, component, variance)


def summarise_mixtures(loc: Tensor, scale: Tensor, pointwise: bool = False) -> MixtureSummary:
    """Entropies of the mixtures (1/N) sum_n N(loc_nj, scale_nj^2), one for each latent j, in nats.

    :param loc: ``(N, m)``, finite.
    :param scale: ``(N, m)``, standard deviations, positive and finite.
    :param pointwise: whether the variance of KL(N_n || p) over n is wanted (NaN otherwise).
    :returns: three float64 tensors of shape ``(m,)``.
    """
    with torch.inference_mode(False), torch.no_grad():
        maps = _build_maps(loc.device)
        loc, scale = loc.detach(), scale.detach()
        low, high = loc.amin(0), loc.amax(0)  # unlike aminmax, quick along this dimension
        narrow, wide = scale.amin(0), scale.amax(0)
        span = high - low
        narrow = torch.maximum(narrow, span / _DYNAMIC_RANGE)
        narrow = narrow.clamp(min=torch.finfo(loc.dtype).tiny)
        wide = torch.maximum(wide, narrow)
        # neighbouring latents are treated together as long as they need few keys
        octaves = (wide.double() / narrow).log2().floor() + 1
        blocks = 2 * span.double() / (CELLS * narrow) + octaves * (BELOW + ABOVE)
        groups = _consecutive((blocks * BANDS).tolist(), GROUP_KEYS, _GROUP_LATENTS)

    def summarise(columns: slice) -> MixtureSummary:
        with torch.inference_mode(False), torch.no_grad():  # both are settings of the thread
            frame = Frame(*(x[columns] for x in (low, span, narrow, wide)))
            cells = Cells(frame, loc[:, columns], scale[:, columns])
            return _summarise(cells, maps, pointwise)

    workers = torch.get_num_threads() if loc.device.type == "cpu" else 1
    if workers == 1 or len(groups) == 1:
        parts = [summarise(columns) for columns in groups]
    else:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(summarise, groups))
    return MixtureSummary(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _consecutive(sizes: list[float], bound: float, longest: int) -> list[slice]:
    """Consecutive groups of at most ``longest`` members whose sizes sum to at most ``bound``."""
    groups, first, total = [], 0, 0.0
    for i, size in enumerate(sizes):
        if i > first and (i - first == longest or total + size > bound):
            groups.append(slice(first, i))
            first, total = i, 0.0
        total += size
    return [*groups, slice(first, len(sizes))]

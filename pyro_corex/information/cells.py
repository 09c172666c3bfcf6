"""Hermite moments of one-dimensional Gaussians in cells of position and scale.

The first step of the entropy of a mixture; see :mod:`.scale_space` for the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

BANDS = 8  # bands of scales in an octave
ORDER = 7  # Hermite moments per cell: h_0 ... h_6
BLOCK = 32  # lattice cells in a block
_CELL_BITS = 4
CELLS = 1 << _CELL_BITS  # histogram cells in a block: BLOCK / 2, as they are twice as wide
BELOW, ABOVE = 4, 7  # empty blocks beside the data: parents, children, neighbours have keys
GROUP_KEYS = 1 << 16  # bound on the keys of several latents treated at once
# Elements whose moments are computed at once. On a CPU few enough for the cache, and for PyTorch to
# use one thread an operation: groups of latents run side by side instead, without barriers.
_TILE_ELEMENTS = {"cpu": 32_000}
_TILE_ELEMENTS_ELSEWHERE = 1 << 22
_TILE_LATENTS = 2  # few, so that their moments stay in the cache
_LN2 = math.log(2)


class Frame:
    """Where the cells of a group of latents lie, and the keys of their blocks.

    A block of latent j at octave l has the key ``base[j, l] + b``; keys grow with the octave, then
    with the latent, then with the position.
    """

    def __init__(self, low: Tensor, span: Tensor, narrow: Tensor, wide: Tensor) -> None:
        self.low, self.narrow, self.inverse_narrow = (
            x[:, None] for x in (low, narrow, narrow.reciprocal())
        )
        self.step = narrow.double()  # spacing of the finest histogram = narrowest scale
        self.octaves = int((wide.double() / self.step).log2().max().clamp(min=0)) + 1
        row = torch.arange(self.octaves * BANDS, device=low.device)
        octave, band = row // BANDS, row % BANDS
        doubling = torch.exp2(torch.arange(self.octaves, device=low.device).double())
        count = (span.double() / self.step)[:, None] / (CELLS * doubling)
        count = count.floor().long() + (BELOW + ABOVE)  # (C, octaves)
        end = count.t().reshape(-1).cumsum(0)
        start = (end - count.t().reshape(-1)).view_as(count.t()).t()
        self.base = start + BELOW
        self.keys = int(end[-1]) * BANDS
        # per row of the histogram: its octave's spacing, the ratio of that to the cell's scale s,
        # 1 / s, and the key of its first block
        centre = self.step[:, None] * torch.exp2((row.double() + 0.5) / BANDS)
        step = self.step[:, None] * doubling[octave]
        self.inverse_step = step.reciprocal().to(low.dtype)
        self.ratio = (step / centre).to(low.dtype)
        self.inverse_scale = centre.reciprocal().to(low.dtype)
        self.row_key = self.base[:, octave] * BANDS + band

    def locate(self, latents: slice, loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """For (C, n) components: key of (block, band), cell in the block, d, g, and ln scale.

        ln scale is relative to the latent's narrowest.
        """
        scale = torch.maximum(scale, self.narrow[latents])
        log_scale = (scale * self.inverse_narrow[latents]).log2_().mul_(BANDS)
        row = log_scale.long().clamp_(0, self.ratio.shape[1] - 1)
        position = (loc - self.low[latents]).mul_(self.inverse_step[latents].gather(1, row))
        index = position.round()
        offset = position.sub_(index).mul_(self.ratio[latents].gather(1, row))
        excess = scale.mul_(self.inverse_scale[latents].gather(1, row)).square_().sub_(1)
        cell = index.long()
        key = (cell >> _CELL_BITS).mul_(BANDS).add_(self.row_key[latents].gather(1, row))
        return key, cell.bitwise_and_(CELLS - 1), offset, excess, log_scale.mul_(_LN2 / BANDS)


def _moments(offset: Tensor, excess: Tensor) -> Tensor:
    """h_0 ... h_6 of the Hermite series, (ORDER, n) in float64."""
    h = offset.new_empty((ORDER, offset.numel()), dtype=torch.float64)
    d, g = offset.flatten(), excess.flatten()
    h[0], h[1] = 1.0, d
    before, last = d, (d * d).add_(g)  # h_1, h_2
    h[2] = last
    for p in range(2, ORDER - 1):
        before, last = last, (d * last).addcmul_(g, before, value=p)
        h[p + 1] = last
    return h


class Cells:
    """The occupied cells of a group of latents and the moments in them.

    ``active`` holds the sorted keys of the occupied (block, band); ``moments`` has CELLS columns
    for each. Where few keys are possible every one has its columns at first; where more are, a
    first pass finds those in use; where there are more keys than data, it sorts them.
    """

    def __init__(self, frame: Frame, loc: Tensor, scale: Tensor) -> None:
        self.frame, self.loc, self.scale = frame, loc, scale
        (self.n, self.latents), device = loc.shape, loc.device
        self.table: Tensor | None = None
        compact = frame.keys > GROUP_KEYS
        if not compact:
            self.active = torch.arange(frame.keys, device=device)
        elif frame.keys <= max(loc.numel(), 1 << 20):
            seen = torch.zeros(frame.keys, dtype=torch.bool, device=device)
            for tile in self._tiles():
                seen.index_fill_(0, frame.locate(*tile)[0].flatten(), True)
            self._number(seen)
        else:
            keys = [torch.unique(frame.locate(*tile)[0]) for tile in self._tiles()]
            self.active = torch.unique(torch.cat(keys))
        shape = (ORDER, self.active.numel() * CELLS)
        self.moments = torch.zeros(shape, dtype=torch.float64, device=device)
        self.log_scale = torch.zeros(self.latents, dtype=torch.float64, device=device)
        for tile in self._tiles():
            index, h, log_scale = self._series(*tile)
            for p in range(ORDER):
                self.moments[p].scatter_add_(0, index, h[p])
            self.log_scale[tile[0]] += log_scale.sum(1, dtype=torch.float64) / self.n
        if not compact:
            columns = self.moments.view(ORDER, -1, CELLS)
            self._number(columns[0].any(1))
            self.moments = columns[:, self.active].flatten(1)

    def _number(self, seen: Tensor) -> None:
        self.active = seen.nonzero().flatten()
        self.table = seen.cumsum(0).sub_(1)

    def _tiles(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of the latents, each with a part of their loc and scale, transposed to (C, n)."""
        elements = _TILE_ELEMENTS.get(self.loc.device.type, _TILE_ELEMENTS_ELSEWHERE)
        length = min(self.n, max(1, elements // _TILE_LATENTS))
        step = max(1, elements // length)
        for start in range(0, self.n, length):
            rows = slice(start, start + length)
            loc, scale = (x[rows].contiguous().t().contiguous() for x in (self.loc, self.scale))
            for first in range(0, self.latents, step):
                latents = slice(first, min(first + step, self.latents))
                yield latents, loc[latents], scale[latents]

    def _series(self, latents: slice, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, cell, offset, excess, log_scale = self.frame.locate(latents, loc, scale)
        if self.table is not None:
            key = self.table.take(key)
        elif self.active.numel() < self.frame.keys:
            key = torch.searchsorted(self.active, key)
        return key.mul_(CELLS).add_(cell).flatten(), _moments(offset, excess), log_scale

    def kl_variance(self, gradient: Tensor) -> Tensor:
        """Variance over n of KL(N_n || p), from the integrals of He_p ln p over every cell."""
        total = torch.zeros(self.latents, dtype=torch.float64, device=self.loc.device)
        square, shift = total.clone(), total.clone()
        started: set[int] = set()
        for latents, loc, scale in self._tiles():
            index, h, log_scale = self._series(latents, loc, scale)
            cross = torch.zeros_like(h[0])
            for p in range(ORDER):
                cross.addcmul_(gradient[p].take(index), h[p])
            kl = cross.view_as(log_scale).add_(log_scale).neg_()  # up to a constant
            if latents.start not in started:  # a value near the mean, against cancellation
                started.add(latents.start)
                shift[latents] = kl.mean(1)
            kl -= shift[latents][:, None]
            total[latents] += kl.sum(1)
            square[latents] += kl.square_().sum(1)
        return ((square - total**2 / self.n) / max(self.n - 1, 1)).clamp(min=0)

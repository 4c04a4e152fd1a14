"""A search for the scales of many small problems, by passes over rows that stay in cache.

The error is not convex in the scale. Sorting a short row costs as much as looking at it 20 times,
so the search looks at the rows as they are: a pass over a tile of rows for each scale that it
tries, in place and in the dtype of x.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 2**16  # numbers of a pass on a CPU: they and three buffers stay in cache
BLOCK = 2**18  # numbers of which a search keeps the errors of all scales
LARGE = 64  # times as many on other devices, in both
LARGEST = 1e6  # a share of the unit is at least 1 / LARGEST and at most LARGEST
NOTHING = 1 / LARGEST  # the share that stands for the scale 0

Nearest = Callable[[Tensor, Tensor, Tensor], object]
"""Writes the nearest value of each entry of the first tensor to the second; the third is a
buffer."""


class Tried(NamedTuple):
    """Scales of rows as shares of the rows' units, the zero points of their grids (None where the
    values are not shifted), and their squared errors in squares of the units. All (R,), or (C, R)
    for C scales of each row."""

    share: Tensor
    zero: Tensor | None
    error: Tensor


class Tile(NamedTuple):
    """Some rows, or the k-th part of a long row, their weights, and buffers like them."""

    rows: slice
    columns: slice
    part: int
    x: Tensor
    weights: Tensor | None
    t: Tensor
    q: Tensor
    other: Tensor


class Rows:
    """Rows x (R, n), each to be approximated by a scale times the nearest values.

    Args:
        x: (R, n), contiguous.
        weights: d (R, n) in a metric, None without one.
        unit: (R,), positive: what scales are shares of.
        nearest: finds the nearest values.
        buffers: (3, m): room for tiles of m numbers.
    """

    def __init__(
        self, x: Tensor, weights: Tensor | None, unit: Tensor, nearest: Nearest, buffers: Tensor
    ):
        self.x, self.weights, self.unit = x, weights, unit
        self._nearest, self._per_unit = nearest, unit.reciprocal()
        self._tiles = list(tiles(x, weights, buffers))
        self._ones = x.new_ones(min(x.shape[-1], buffers.shape[-1]))

    def nothing(self, zero: Tensor | None = None) -> Tried:
        """The scale 0 of each row, worse than any other that is tried."""
        share = torch.full_like(self.unit, NOTHING)
        return Tried(share, zero, torch.full_like(share, torch.inf))

    def errors(self, share: Tensor, zero: Tensor | None = None) -> Tried:
        """C scales of each row with their errors s^2 sum d (t - q)^2, where t = x/s, and q is the
        nearest value of t.

        Args:
            share: (C, R) or (C, 1).
            zero: (C, R) or None.
        """
        (squares,) = self._sums(1, share, zero)
        return Tried(share.expand_as(squares), zero, squares.mul_(share * share))

    def fits(self, share: Tensor, zero: Tensor | None = None) -> Tried:
        """C scales of each row, replaced by the least-squares scales of their assignments.

        With e = t - q, E = sum d e^2, A = sum d e q and B = sum d q^2, the multiple (1 + f) q has
        the error E - 2 f A + f^2 B, least at f = A/B, or at f = -1 where a scale below 0 would be
        better. The nearest values at the new scale have at most this error. The form does not
        cancel, unlike sum d t^2 - (sum d t q)^2 / B.
        """
        e, a, b = self._sums(3, share, zero)
        f = (a / b.clamp(min=torch.finfo(b.dtype).tiny)).clamp_(min=-1)
        error = (e - f * (2 * a - f * b)).clamp_(min=0).mul_(share * share)
        return Tried((share * f.add_(1)).clamp_(NOTHING, LARGEST), zero, error)

    def _sums(self, count: int, share: Tensor, zero: Tensor | None) -> Tensor:
        """E alone, or E, A and B: (count, C, R)."""
        inverse, parts = share.reciprocal() * self._per_unit, self._tiles[-1].part + 1
        found = self.x.new_empty(parts, count, *inverse.shape)
        for tile in self._tiles:
            factors = inverse[:, tile.rows].unsqueeze(-1).unbind()
            shifts = [None] * len(factors) if zero is None else zero[:, tile.rows].unsqueeze(-1)
            self._pass(tile, factors, shifts, found[tile.part, :, :, tile.rows].unbind())
        if parts == 1:
            return found[0]
        return found.sum(0, dtype=torch.float64).to(self.x.dtype)

    def _pass(self, tile: Tile, factors: Any, shifts: Any, sums: tuple[Tensor, ...]) -> None:
        """Write the sums, (C, rows) each, of one tile for C scales."""
        x, t, q, d = tile.x, tile.t, tile.q, tile.weights
        ones = self._ones[: x.shape[-1]]
        for c, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
            # t, q and t - q
            torch.mul(x, factor, out=t)
            if shift is not None:
                t.add_(shift)
            self._nearest(t, q, tile.other)
            t.sub_(q)

            # what is summed
            if len(sums) > 1:
                if shift is not None:
                    q.sub_(shift)
                torch.mul(t, q, out=tile.other)
                q.mul_(q)
            t.mul_(t)
            for term, into in zip((t, tile.other, q), sums, strict=False):
                if d is not None:
                    term.mul_(d)
                torch.mv(term, ones, out=into[c])


def tiles(x: Tensor, weights: Tensor | None, buffers: Tensor) -> Iterator[Tile]:
    """The tiles of rows x (R, n), with views of the buffers (3, m)."""
    size, n = buffers.shape[-1], x.shape[-1]
    width = min(n, size)
    height = size // width
    for top in range(0, len(x), height):
        rows = slice(top, top + height)
        for part, left in enumerate(range(0, n, width)):
            at = rows, slice(left, left + width)
            own = x[at]
            views = (buffer[: own.numel()].view(own.shape) for buffer in buffers)
            yield Tile(*at, part, own, None if weights is None else weights[at], *views)


def better(best: Tried, other: Tried) -> Tried:
    """The best of one and of C other scales of each row; of equal ones the first."""
    error, at = other.error.min(0)
    share = other.share.gather(0, at.unsqueeze(0)).squeeze(0)
    wins = error < best.error
    zero = best.zero
    if zero is not None and other.zero is not None:
        zero = torch.where(wins, other.zero.gather(0, at.unsqueeze(0)).squeeze(0), zero)
    return Tried(torch.where(wins, share, best.share), zero, torch.minimum(error, best.error))


def refit(rows: Rows, best: Tried, times: int = 1) -> Tried:
    """The best after nearest values and least-squares scale in turn. Never worse."""
    for _ in range(times):
        zero = None if best.zero is None else best.zero.unsqueeze(0)
        best = better(best, rows.fits(best.share.unsqueeze(0), zero))
    return best


def per_row(weights: Tensor) -> Tensor:
    """Weights (R, n) divided by the largest of each row, so that their sums are in range."""
    return weights / weights.amax(-1, keepdim=True)


def tile_buffers(x: Tensor) -> Tensor:
    """Buffers for `Rows` of x (R, n) or of some of its rows."""
    size = TILE if x.device.type == "cpu" else LARGE * TILE
    return x.new_empty(3, max(1, min(size // x.shape[-1], len(x))) * min(x.shape[-1], size))


def blocks_of_rows(x: Tensor) -> Iterator[slice]:
    """Some rows of x (R, n) at a time, for the memory's sake."""
    size = BLOCK if x.device.type == "cpu" else LARGE * BLOCK
    rows = max(1, size // x.shape[-1])
    return (slice(first, first + rows) for first in range(0, len(x), rows))

"""Uniform grids, the format of integer arithmetic."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.grid_search import Grid, Grids, search_by_rows, search_by_sorting
from leco.compressions.metric import Mu
from leco.compressions.protocol import Compression
from leco.compressions.scale_search import tile_buffers, tiles
from leco.compressions.stored import (
    check_scale_options,
    either_sign,
    shown,
    stored_scales,
    with_stored_scale,
)
from leco.theta import Affine

SORTED = 256  # rows of at least so many numbers a level are sorted


@dataclass(frozen=True)
class Uniform(Compression[Affine]):
    """s (q - z) with integers 0 <= q < 2^bits: a uniform grid, the format of integer arithmetic.

    Without `zero_point`, z = 2^(bits - 1): the signed integers. With it, the search finds z too,
    for data that are not symmetric.

    A descent step, since the error is not convex in s. It tries 25 shares, from 0.3 to 1, of the
    range of x, and some above and below; then neighbours of the best, with least-squares scales. A
    warm start tries the last (s, z) and their neighbours, and is never worse than the last Theta.
    O(n): 25 to 45 looks at x, 4 to 6 from a warm start. Long rows, of 256 or more numbers a
    level, are sorted instead: nearest level and least-squares scale in turn, from the best of many
    ranges and the last (s, z). In a metric: the same searches with weighted errors and weighted
    least squares, never worse than the last Theta in the metric. With `scale_dtype`, the numbers of
    that type on both sides of the scales found are tried, and the last scale; the best of them
    stands. Part II, section 4.2, with a search.

    Args:
        bits: 2 to 8.
        zero_point: search for z.
        scale_dtype: "float16" or "bfloat16", the type in which a runtime stores the scales; None
            for that of the weights.
        either_sign: let a scale be below 0 too: the levels are then -2^(bits - 1) to
            2^(bits - 1) - 1, or the negatives of these.

    >>> import torch, leco
    >>> theta = leco.Uniform(8).compress(torch.tensor([-1.0, 0.5, 0.25]), mu=1.0)
    >>> theta.zero_point
    tensor(128, dtype=torch.uint8)
    """

    bits: int
    zero_point: bool = False
    scale_dtype: str | None = None
    either_sign: bool = False

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Uniform: bits", self.bits, 2, 8)
        check_scale_options("Uniform", True, self.scale_dtype)
        if self.either_sign and self.zero_point:
            raise ValueError("Uniform: either_sign = True changes nothing with zero_point = True")

    def __repr__(self) -> str:
        return shown(self)

    def scaling(self) -> int | None:
        return 0 if self.scale_dtype is None else None

    def feasible(self, theta: Affine) -> Affine:
        return with_stored_scale(theta, self.scale_dtype)

    def c_step(self, x: Tensor, mu: Mu, theta: Affine | None = None) -> Affine:
        step = self._one_sign
        return either_sign(step, x, mu, theta) if self.either_sign else step(x, mu, theta)

    def _one_sign(self, x: Tensor, mu: Mu, theta: Affine | None) -> Affine:
        """The C step with scales of at least 0."""
        rows, grid = x.reshape(-1, x.shape[-1]), Grid(self.bits, self.zero_point)
        last = None
        if theta is not None and theta.scale.shape == x.shape[:-1]:
            last = self._in_the_set(theta)

        # the grids
        d = mu.expand_as(x).reshape(rows.shape) if isinstance(mu, Tensor) else None
        long = x.shape[-1] >= SORTED * 2**self.bits
        found = (search_by_sorting if long else search_by_rows)(rows, d, grid, last)
        if self.scale_dtype is not None:
            found = self._stored(rows, d, found, last)

        # the nearest levels
        indices = torch.empty(rows.shape, dtype=torch.uint8, device=x.device)
        _assign(rows, found, grid.top, indices)
        zero = found.zero.to(torch.uint8).view(x.shape[:-1])
        return Affine(indices.view(x.shape), found.scale.view(x.shape[:-1]), zero)

    def _stored(self, rows: Tensor, d: Tensor | None, found: Grids, last: Grids | None) -> Grids:
        """The best grids near those found whose scales are numbers of the type, or the last."""
        assert self.scale_dtype is not None
        grid = Grid(self.bits, self.zero_point)
        searched, before = (
            None if own is None else (own.scale, own.zero if grid.free else None)
            for own in (found, last)
        )
        assert searched is not None
        scale, zero = stored_scales(
            rows, d, grid.nearest, searched, before, self.scale_dtype, tile_buffers(rows)
        )
        return Grids(scale, found.zero if zero is None else zero)

    def _in_the_set(self, theta: Affine) -> Grids:
        """The grids of a Theta as members of the set: a scale that retraining moved below 0 turns
        the grid round; without a zero point, z is the middle."""
        scale = theta.scale.reshape(-1)
        zero = theta.zero_point.reshape(-1).to(scale.dtype)
        if not self.zero_point:
            return Grids(scale.abs(), torch.full_like(zero, 2 ** (self.bits - 1)))
        return Grids(scale.abs(), torch.where(scale < 0, 2**self.bits - 1 - zero, zero))


def _assign(x: Tensor, grids: Grids, top: int, indices: Tensor) -> None:
    """Write the nearest level of each x (R, n) to `indices`, a tile at a time."""
    divisor = torch.where(grids.scale > 0, grids.scale, torch.inf).unsqueeze(-1)
    zero = grids.zero.unsqueeze(-1)
    for tile in tiles(x, None, tile_buffers(x)):
        t = tile.t
        torch.div(tile.x, divisor[tile.rows], out=t)
        t.add_(zero[tile.rows]).clamp_(0, top).round_()
        # by way of int32, since a CPU converts floats to bytes slowly
        if x.dtype == torch.float32:
            t = tile.q.view(torch.int32).copy_(t)
        indices[tile.rows, tile.columns] = t

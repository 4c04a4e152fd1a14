"""The search for the scale and the zero point of a uniform grid, for each of many rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from leco.compressions.scale_search import (
    LARGEST,
    NOTHING,
    Rows,
    Tried,
    better,
    blocks_of_rows,
    per_row,
    refit,
    tile_buffers,
)
from leco.compressions.scales import SCALES, search_scale
from leco.compressions.sorted_values import Sorted

SHARES = 25  # of the range: a cold search tries them all, evenly from LEAST to 1
LEAST = 0.3
STEP = (1 - LEAST) / (SHARES - 1)
SMALL = (0.1, 0.14, 0.19, 0.24)  # tried with up to 3 bits: few levels in long tails
SHORT = 16  # numbers in a row, up to which they are tried with least squares
LONG = 128  # numbers in a row, from which SMALL ones are tried
FINE = torch.linspace(0.983, 1.1, 13)  # tried with many bits
FEW = 4  # bits up to which a clipped range may be best by far
SHIFTED = {
    2: (0.65, 0.8, 1.0, 1.2, 1.5),
    3: (0.75, 0.85, 0.92, 1.0, 1.1),
    4: (0.85, 0.9, 0.95, 1.0, 1.06),
}
"""For each number of bits, multiples of the best scale that go with another zero point."""
ENDS = (0.7, 0.8, 0.9, 1.1)  # of one end of the range, the other end fixed


class Grid(NamedTuple):
    """The integers 0 to top with a zero point: the middle, or any where it is `free`."""

    bits: int
    free: bool

    @property
    def top(self) -> int:
        return 2**self.bits - 1

    @property
    def middle(self) -> int:
        return 2 ** (self.bits - 1)

    def nearest(self, t: Tensor, q: Tensor, other: Tensor) -> None:
        """The nearest level of each t, which is shifted by the zero point where that is free, and
        by the middle where not."""
        low = 0 if self.free else -self.middle
        torch.clamp(t, low, low + self.top, out=q).round_()


class Grids(NamedTuple):
    """A scale and a zero point for each row, (R,), both in the dtype of x."""

    scale: Tensor
    zero: Tensor


def search_by_rows(x: Tensor, weights: Tensor | None, grid: Grid, last: Grids | None) -> Grids:
    """The best grids of the rows x (R, n) that passes over the rows find; `weights` (R, n) in a
    metric. Never worse than the `last` ones."""
    scale = x.new_empty(len(x))
    zero = torch.full_like(scale, grid.middle)
    buffers = tile_buffers(x)
    for part in blocks_of_rows(x):
        own = x[part]
        # the unit: the whole range in all levels
        low, high = own.amin(-1).clamp_(max=0), own.amax(-1).clamp_(min=0)
        width = high - low if grid.free else torch.maximum(high, -low).mul_(2)
        unit = (width / grid.top).clamp_(min=torch.finfo(x.dtype).tiny * LARGEST**2)
        d = None if weights is None else per_row(weights[part])
        rows = Rows(own, d, unit, grid.nearest, buffers)

        # the search
        if last is None:
            best = _cold(rows, grid, -low / unit)
        else:
            best = _warm(rows, grid, Grids(last.scale[part], last.zero[part]))
        scale[part] = torch.where(best.share > NOTHING, best.share * unit, 0)
        scale[part] *= width > 0
        if best.zero is not None:
            zero[part] = best.zero
    return Grids(scale, zero)


def _cold(rows: Rows, grid: Grid, low: Tensor) -> Tried:
    """From shares of the whole range. `low` (R,): its lower end, in units below 0."""
    shares = _shares(rows, grid).to(rows.x).unsqueeze(-1)
    zero = low.round().clamp_(0, grid.top) if grid.free else None
    # one number may outweigh all others of a short row: then least squares find it
    short = rows.x.shape[-1] <= SHORT
    zeros = None if zero is None else zero.expand(len(shares), -1)
    tried = (rows.fits if short else rows.errors)(shares, zeros)
    best = better(rows.nothing(zero), tried)
    if zero is not None:
        move = _other_zeros if grid.bits <= FEW else _move_ends
        best = move(rows, best, grid)
    return refit(rows, _try_near(rows, grid, refit(rows, best), (-2, -1, 1, 2)))


def _warm(rows: Rows, grid: Grid, last: Grids) -> Tried:
    """From the last grids."""
    share = (last.scale / rows.unit).clamp_(NOTHING, LARGEST).unsqueeze(0)
    zero = last.zero if grid.free else None
    tried = rows.fits(share, None if zero is None else zero.unsqueeze(0))
    return refit(rows, _try_near(rows, grid, better(rows.nothing(zero), tried), (-1, 1)))


def _shares(rows: Rows, grid: Grid) -> Tensor:
    """The shares of the range that a cold search tries.

    Above 1, because the least-squares scale of a short row often is: of the symmetric range, a grid
    without its lowest level has a scale (2^bits - 1)/(2^bits - 2) as large. With many bits the
    error varies with every hundredth of the scale, and clipping costs much.

    Without a metric, no error is above 1/2 unit at the share 1. At the share r the largest |x| has
    an error of at least ((1 - r) top - r)/2; with a zero point, the errors of both ends add up
    to at least (1 - r) top. Shares that are worse for this reason alone are left out.
    """
    n, top = rows.x.shape[-1], grid.top
    widest = max(1.1, 1.06 * top / (top - 1))
    shares = torch.linspace(LEAST, 1, SHARES)
    if rows.weights is None:
        beyond = (1 - shares) * top
        shares = shares[beyond <= (n / 2) ** 0.5 if grid.free else beyond - shares <= n**0.5]
    more = torch.linspace(1, widest, 6)[1:] if grid.bits <= FEW else FINE
    small = SMALL if grid.bits < FEW and (n >= LONG or n <= SHORT) else ()
    return torch.cat([shares, torch.tensor(small), more])


def _try_near(rows: Rows, grid: Grid, best: Tried, steps: tuple[int, ...]) -> Tried:
    """The best, or the best of its neighbours: shares some steps below and above, which are closer
    than those that a cold search tries, and the grid shifted by a level."""
    step = (STEP if grid.bits <= FEW else float(FINE[1] - FINE[0])) / 3
    ways = step * torch.tensor(steps, dtype=rows.x.dtype, device=rows.x.device)
    share = (best.share + ways.unsqueeze(-1)).clamp_(NOTHING, LARGEST)
    zero = best.zero
    if zero is not None:
        share = torch.cat([share, best.share.expand(2, -1)])
        near = torch.stack([zero - 1, zero + 1]).clamp_(0, grid.top)
        zero = torch.cat([zero.expand(len(steps), -1), near])
    return better(best, rows.errors(share, zero))


def _other_zeros(rows: Rows, best: Tried, grid: Grid) -> Tried:
    """The best, or grids with a level more or less below 0 (two of a short row): with few levels,
    other scales go with them."""
    assert best.zero is not None
    like = {"dtype": rows.x.dtype, "device": rows.x.device}
    factors = torch.tensor(SHIFTED[grid.bits], **like).unsqueeze(-1)
    offsets = (-2, -1, 1, 2) if rows.x.shape[-1] <= SHORT else (-1, 1)
    zero = (best.zero + torch.tensor(offsets, **like).unsqueeze(-1)).clamp_(0, grid.top)
    share = (best.share * factors).clamp_(NOTHING, LARGEST).repeat(len(offsets), 1)
    return better(best, rows.errors(share, zero.repeat_interleave(len(factors), 0)))


def _move_ends(rows: Rows, best: Tried, grid: Grid) -> Tried:
    """The best, or grids with one end elsewhere: long tails may lie on one side only."""
    assert best.zero is not None
    factors = torch.tensor(ENDS, dtype=rows.x.dtype, device=rows.x.device).unsqueeze(-1)
    low, high = best.share * best.zero, best.share * (grid.top - best.zero)
    lows = torch.cat([low * factors, low.expand(len(factors), -1)])
    highs = torch.cat([high.expand(len(factors), -1), high * factors])
    share = ((lows + highs) / grid.top).clamp_(NOTHING, LARGEST)
    return better(best, rows.errors(share, (lows / share).round_().clamp_(0, grid.top)))


def search_by_sorting(x: Tensor, weights: Tensor | None, grid: Grid, last: Grids | None) -> Grids:
    """The best grids of long rows x (R, n), `weights` (R, n) in a metric: nearest level and
    least-squares scale in turn, on sorted data, from the best of many ranges and the last grids."""
    data = Sorted(x.clone(), None if weights is None else per_row(weights))
    top, middle = grid.top, grid.middle
    low = data.values[..., :1].double().clamp(max=0)
    high = data.values[..., -1:].double().clamp(min=0)

    # shares of the symmetric range, and of the whole one
    shares = torch.linspace(0.1, 1, SCALES // 2, dtype=torch.float64, device=x.device)
    scale = shares * torch.maximum(-low / middle, high / (middle - 1))
    zero = torch.full_like(scale, middle)
    if grid.free:
        wide = shares * (high - low) / top
        width = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
        ratio = (-low / width * top).round().clamp(0, top)
        near = [(ratio + step).clamp(0, top).expand_as(wide) for step in (-1, 0, 1)]
        scale = torch.cat([scale, wide, wide, wide], dim=-1)
        zero = torch.cat([zero, *near], dim=-1)

    # the last ones
    if last is not None:
        scale = torch.cat([scale, last.scale.double().unsqueeze(-1)], dim=-1)
        zero = torch.cat([zero, last.zero.double().unsqueeze(-1)], dim=-1)

    # the search
    levels = torch.arange(top + 1, dtype=torch.float64, device=x.device)
    found, best = search_scale(data, levels - zero.unsqueeze(-1), scale)
    return Grids(found.squeeze(-1).to(x.dtype), zero.gather(-1, best).squeeze(-1).to(x.dtype))

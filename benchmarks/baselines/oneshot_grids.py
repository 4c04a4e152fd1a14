"""Uniform grids in groups without training: round to nearest, and GPTQ."""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.baselines.oneshot import damped, inverse_factor, sweep


class Grid(NamedTuple):
    """s (q - z) with integers 0 <= q < 2^bits, one s and z for each group of a row.

    Args:
        bits: of q.
        group: columns that share s and z.
        zero_point: z is free; else z = 2^(bits - 1).
        shrunk: try 80 shares of the range, from 1 down to 0.21, and keep the least sum of
            |error|^2.4; else the range is that of the smallest and the largest weight.
    """

    bits: int
    group: int = 64
    zero_point: bool = True
    shrunk: bool = True


class Scales(NamedTuple):
    scale: Tensor
    zero: Tensor

    def nearest(self, x: Tensor, bits: int) -> Tensor:
        """The nearest point of the grid for each number of x."""
        q = (x / self.scale).round_().add_(self.zero).clamp_(0, 2**bits - 1)
        return q.sub_(self.zero).mul_(self.scale)


def fit(x: Tensor, grid: Grid) -> Scales:
    """Scales and zero points (..., 1) of groups x (..., group), as GPTQ's own code finds them."""
    top = 2**grid.bits - 1

    # the range of each group, which has 0 in it
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    if not grid.zero_point:
        high = torch.maximum(-low, high)
        low = -high
    empty = low == high
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    whole = (high - low) / top
    zero = torch.round(-low / whole) if grid.zero_point else torch.full_like(low, (top + 1) / 2)
    if not grid.shrunk:
        return Scales(whole, zero)

    # the best share of it
    scale, least = whole, torch.full_like(whole, torch.inf)
    for i in range(80):
        tried = (1 - i / 100) * whole
        change = Scales(tried, zero).nearest(x, grid.bits) - x
        error = change.abs_().log2_().mul_(2.4).exp2_().sum(-1, keepdim=True)  # |.|^2.4
        better = error < least
        scale, least = torch.where(better, tried, scale), torch.where(better, error, least)
    return Scales(scale, zero)


def rtn(w0: Tensor, grid: Grid) -> Tensor:
    """Round each weight to the nearest point of its group's grid."""
    groups = w0.unflatten(1, (-1, grid.group))
    return fit(groups, grid).nearest(groups, grid.bits).flatten(1)


def gptq(
    w0: Tensor, h: Tensor, grid: Grid, *, static: bool = True, damping: float = 0.01
) -> Tensor:
    """GPTQ: columns in the order of falling H_ii, each rounded, its error spread over the rest.

    Frantar et al., arXiv 2210.17323, algorithm 1, with the options `act-order` and `groupsize` of
    the authors' code.

    Args:
        w0: (out, in).
        h: second moments (in, in), not damped.
        grid: of which in is a multiple of the group.
        static: groups are neighbours in W0, their grids found in W0; else groups are neighbours in
            the order of the sweep, their grids found when the sweep comes to them.
        damping: share of the mean diagonal.
    """
    order = h.diagonal().argsort(descending=True)
    w, h = w0[:, order], damped(h, damping)[order][:, order]
    fixed = fit(w0.unflatten(1, (-1, grid.group)), grid) if static else None
    current: dict[int, Scales] = {}

    def choose(i: int, columns: Tensor) -> Tensor:
        if fixed is not None:
            group = int(order[i]) // grid.group
            own = Scales(fixed.scale[:, group, 0], fixed.zero[:, group, 0])
        else:
            if i % grid.group == 0:
                found = fit(columns[:, : grid.group], grid)
                current[i // grid.group] = Scales(found.scale[:, 0], found.zero[:, 0])
            own = current[i // grid.group]
        return own.nearest(columns[:, 0], grid.bits)

    block = max(grid.group, 128 // grid.group * grid.group)
    found = sweep(w, inverse_factor(h).to(w.dtype), choose, block)
    return found[:, order.argsort()]

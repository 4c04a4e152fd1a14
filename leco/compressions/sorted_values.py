"""Sorted values with sums over any run of them: what the scalar quantizers share.

The cells of a scalar quantizer are runs of the sorted values, so a C step needs sums over runs, not
passes over the weights. In a metric d these are the sums of d_i and of d_i x_i.
"""

import copy
import sys
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from leco.compressions.cells import cells_of as cells_of
from leco.compressions.cells import midpoints as midpoints
from leco.compressions.cells import nearest as nearest

BLOCK = 64  # values between two coarse prefix sums, at most; a query adds the rest itself
DENSE = 2**17  # values, of all rows, up to which there is a prefix sum for each
# at most: candidate cell borders of the dynamic program that starts Lloyd's algorithm
COARSE_CUTS = 1024
QUERIES = 2**21  # values that queries of prefix sums look at in one go


def sort_(x: Tensor) -> Tensor:
    """Sort along the last dimension, in place on the CPU: numpy's sort is vectorised and needs no
    index array, unlike torch's."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    x.numpy().sort(axis=-1)
    return x


def sort_with(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The values of x in increasing order along the last dimension, and those of d in the same
    order. Neither is changed."""
    if x.device.type == "cpu" and x.dtype == d.dtype == torch.float32:
        return _sort_packed(x, d)
    order = order_of(x)
    return x.gather(-1, order), d.gather(-1, order)


def _sort_packed(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """`sort_with` of float32 numbers, by one sort of integers of 64 bits: the bits of x above those
    of d. As integers the bits of floats are in order, but for those below 0, whose other bits are
    turned over. numpy sorts such integers many times as fast as it sorts indices."""
    packed = torch.empty(*x.shape, 2, dtype=torch.int32)
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    packed[..., low], packed[..., high] = d.view(torch.int32), _turned(x.view(torch.int32))
    packed.view(torch.int64).squeeze(-1).numpy().sort(axis=-1)
    values = _turned(packed[..., high]).view(torch.float32)
    return values, packed[..., low].contiguous().view(torch.float32)


def _turned(bits: Tensor) -> Tensor:
    """The bits with all but the sign turned over where that is set; its own inverse."""
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)


def order_of(x: Tensor) -> Tensor:
    """The indices that sort x along the last dimension."""
    if x.device.type != "cpu":
        return x.argsort(dim=-1)
    return torch.from_numpy(x.numpy().argsort(axis=-1))


class CellEnds(NamedTuple):
    """Positions (..., m+1) in sorted data where cells may end, and before each the total weight
    (float64; without a metric the position itself) and the sum of the weighted values (float64)."""

    positions: Tensor
    masses: Tensor
    sums: Tensor

    def at(self, chosen: Tensor) -> "CellEnds":
        """The ends at indices `chosen` (..., q)."""
        return CellEnds(*(field.gather(-1, chosen) for field in self))


class Cells(NamedTuple):
    """For each cell: how many values it has, their total weight, the sum of the weighted values."""

    numbers: Tensor
    masses: Tensor
    sums: Tensor


class Sorted:
    """The values of x (..., n) in increasing order, with prefix sums at any position.

    All sums are in float64. `x` is overwritten where there are no `weights`.

    Args:
        x: the values, contiguous.
        weights: d, of x's shape and dtype and positive: sums are then of d_i x_i, and a run of
            values has the mass sum d_i. None for weights of 1.
    """

    def __init__(self, x: Tensor, weights: Tensor | None = None):
        self.n = x.shape[-1]
        self.values, self.weights = (
            (sort_(x), None) if weights is None else sort_with(x, weights.expand_as(x))
        )
        self.block = 1 if x.numel() <= DENSE else min(BLOCK, max(8, self.n // (4 * COARSE_CUTS)))
        self._masses = None if self.weights is None else self._prefix(self.weights)
        self._sums = self._prefix(
            self.values if self.weights is None else self.values * self.weights
        )

    def rows(self, part: slice) -> "Sorted":
        """The same of some of the leading indices, as one dimension (rows, n); shares memory."""
        own = copy.copy(self)
        for name in ("values", "weights", "_sums", "_masses"):
            field = getattr(self, name)
            setattr(own, name, None if field is None else field.view(-1, field.shape[-1])[part])
        return own

    def _prefix(self, terms: Tensor) -> Tensor:
        """Sums of the terms (..., n) up to each whole block, float64."""
        whole = self.n // self.block * self.block
        blocks = (
            terms[..., :whole].unflatten(-1, (-1, self.block)) if whole else terms[..., None, :0]
        )
        return pad(blocks.sum(-1, dtype=torch.float64).cumsum(-1), (1, 0))

    def masses(self, cuts: Tensor) -> Tensor:
        """The total weight of the first `cuts` (..., q) values, float64."""
        return cuts.double() if self._masses is None else self._until(cuts, self._masses, False)

    def prefix_sums(self, cuts: Tensor) -> Tensor:
        """Sums of the first `cuts` (..., q) values, float64; in a metric, of d_i x_i."""
        return self._until(cuts, self._sums, True)

    def _until(self, cuts: Tensor, sums: Tensor, of_values: bool) -> Tensor:
        """Sums of the first `cuts` terms, the (weighted) values or the weights, from such sums up
        to each block."""
        if not cuts.numel():
            return cuts.double()
        if self.block == 1:
            return sums.gather(-1, cuts)
        block = (cuts // self.block).clamp(max=sums.shape[-1] - 1)
        out = sums.gather(-1, block)

        # the rest of the last block, some rows at a time for the memory's sake
        factors = [
            field.view(-1, self.n)
            for field in (self.values if of_values else None, self.weights)
            if field is not None
        ]
        rests = out.view(-1, cuts.shape[-1])
        start, stop = (block * self.block).view_as(rests), cuts.reshape(rests.shape)
        offsets = torch.arange(self.block, device=cuts.device)
        rows = max(1, QUERIES // (self.block * cuts.shape[-1]))
        for part in range(0, len(rests), rows):
            own = slice(part, part + rows)
            places = start[own].unsqueeze(-1) + offsets
            rest = (places < stop[own].unsqueeze(-1)).double()
            where = places.clamp(max=self.n - 1).flatten(-2)
            for factor in factors:
                rest.mul_(factor[own].gather(-1, where).view(places.shape))
            rests[own] += rest.sum(-1)
        return out

    def cells(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Masses and sums of the values in the cells that increasing edges cut: v <= edges_0 < v
        <= edges_1 ... Without a metric the masses are the numbers of values, integers.

        `edges` (..., C, K-1) for C candidates at once, the results (..., C, K).
        """
        numbers, masses, sums = self.counted_cells(edges)
        return numbers if self.weights is None else masses, sums

    def counted_cells(self, edges: Tensor) -> Cells:
        """The cells of `cells` with their numbers of values."""
        shape = edges.shape
        flat = edges.flatten(-2).to(self.values.dtype).contiguous()
        cuts = torch.searchsorted(self.values, flat, right=True)
        end = cuts.new_full((*cuts.shape[:-1], 1), self.n)

        def between(ends: Tensor, last: Tensor) -> Tensor:
            last = last.unsqueeze(-2).expand(*shape[:-1], 1)
            return torch.cat([pad(ends.view(shape), (1, 0)), last], dim=-1).diff(dim=-1)

        numbers = between(cuts, end)
        masses = numbers if self.weights is None else between(self.masses(cuts), self.masses(end))
        return Cells(numbers, masses, between(self.prefix_sums(cuts), self.prefix_sums(end)))

    def candidates(self, count: int) -> CellEnds:
        """At most `count` + 1 positions where cells may end, with their prefix sums: all of them
        where n <= count, else half at equal numbers of values and half at equal distances, which
        the tails need."""
        values = self.values
        if self.n <= count:
            positions = torch.arange(self.n + 1, device=values.device).expand(
                *values.shape[:-1], -1
            )
            return self.ends(positions)
        numbers = (
            torch.linspace(0, self.n, count // 2 + 1, dtype=torch.float64, device=values.device)
            .long()
            .expand(*values.shape[:-1], -1)
        )
        shares = torch.linspace(0, 1, count // 2, dtype=values.dtype, device=values.device)
        distances = torch.searchsorted(
            values, torch.lerp(values[..., :1], values[..., -1:], shares)
        )
        return self.ends(torch.cat([numbers, distances], dim=-1).sort(dim=-1).values)

    def ends(self, positions: Tensor) -> CellEnds:
        """The cell ends at increasing `positions` (..., m+1)."""
        return CellEnds(positions, self.masses(positions), self.prefix_sums(positions))

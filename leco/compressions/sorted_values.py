"""Sorted values with sums over any run of them: what the scalar quantizers share.

The cells of a scalar quantizer are runs of the sorted values, so a C step needs sums over runs, not
passes over the weights.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # values between two coarse prefix sums, at most; a query adds the rest itself
DENSE = 2**17  # values, of all rows, up to which there is a prefix sum for each
# at most: candidate cell borders of the dynamic program that starts Lloyd's algorithm
COARSE_CUTS = 1024
QUERIES = 2**21  # values that queries of prefix sums look at in one go
COUNTED = 31  # borders, up to which counting those below a value is faster than a search
CHUNK = 2**20  # weights compared with the borders in one go: they stay in cache


def sort_(x: Tensor) -> Tensor:
    """Sort along the last dimension, in place on the CPU: numpy's sort is vectorised and needs no
    index array, unlike torch's."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    x.numpy().sort(axis=-1)
    return x


class Sorted:
    """The values of x (..., n) in increasing order, with prefix sums at any position.

    All sums are in float64. `x` is overwritten.
    """

    def __init__(self, x: Tensor):
        self.values = sort_(x)
        self.n = x.shape[-1]
        self.block = 1 if x.numel() <= DENSE else min(BLOCK, max(8, self.n // (4 * COARSE_CUTS)))
        whole = self.n // self.block * self.block
        self._blocks = (
            self.values[..., :whole].unflatten(-1, (-1, self.block))
            if whole
            else self.values[..., None, :0]
        )
        self._sums = self._prefix(self._blocks.sum(-1, dtype=torch.float64))

    def rows(self, part: slice) -> "Sorted":
        """The same of some of the leading indices, as one dimension (rows, n); shares memory."""
        own = copy.copy(self)
        own.values, own._sums = (t.view(-1, t.shape[-1])[part] for t in (self.values, self._sums))
        return own

    @staticmethod
    def _prefix(blocks: Tensor) -> Tensor:
        return torch.nn.functional.pad(blocks.cumsum(-1), (1, 0))

    def prefix_sums(self, cuts: Tensor) -> Tensor:
        """Sums of the first `cuts` (..., q) values, float64."""
        return self._until(cuts, self._sums, 1)

    def _until(self, cuts: Tensor, sums: Tensor, power: int) -> Tensor:
        """Sums of the first `cuts` values to a power, from such sums up to each block."""
        if not cuts.numel():
            return cuts.double()
        block = (cuts // self.block).clamp(max=sums.shape[-1] - 1)
        out = sums.gather(-1, block)
        if self.block == 1:
            return out
        values, rests = self.values.view(-1, self.n), out.view(-1, cuts.shape[-1])
        start, stop = (block * self.block).view_as(rests), cuts.reshape(rests.shape)
        offsets = torch.arange(self.block, device=cuts.device)
        rows = max(1, QUERIES // (self.block * cuts.shape[-1]))  # at a time, for the memory's sake
        for part in range(0, len(rests), rows):
            places = start[part : part + rows].unsqueeze(-1) + offsets
            rest = (
                values[part : part + rows]
                .gather(-1, places.clamp(max=self.n - 1).flatten(-2))
                .view(places.shape)
                .double()
            )
            rests[part : part + rows] += (
                rest.pow_(power).mul_(places < stop[part : part + rows].unsqueeze(-1)).sum(-1)
            )
        return out

    def cells(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and sums of the values in the cells that increasing edges cut: v <= edges_0 < v
        <= edges_1 ...

        `edges` (..., C, K-1) for C candidates at once, the results (..., C, K).
        """
        shape = edges.shape
        flat = edges.flatten(-2).to(self.values.dtype).contiguous()
        cuts = torch.searchsorted(self.values, flat, right=True)
        end = cuts.new_full((*cuts.shape[:-1], 1), self.n)
        sums = torch.nn.functional.pad(self.prefix_sums(cuts).view(shape), (1, 0))
        total = self.prefix_sums(end).unsqueeze(-2).expand(*shape[:-1], 1)
        numbers = torch.nn.functional.pad(cuts.view(shape), (1, 0))
        numbers = torch.cat([numbers, end.unsqueeze(-2).expand(*shape[:-1], 1)], dim=-1)
        return numbers.diff(dim=-1), torch.cat([sums, total], dim=-1).diff(dim=-1)

    def candidates(self, count: int) -> "CellEnds":
        """At most `count` + 1 positions where cells may end, with their prefix sums: all of them
        where n <= count, else half at equal numbers of values and half at equal distances, which
        the tails need."""
        values = self.values
        if self.n <= count:
            positions = torch.arange(self.n + 1, device=values.device).expand(
                *values.shape[:-1], -1
            )
            return CellEnds(
                positions, self._prefix(values.double()), self._prefix(values.double().square())
            )
        numbers = (
            torch.linspace(0, self.n, count // 2 + 1, dtype=torch.float64, device=values.device)
            .long()
            .expand(*values.shape[:-1], -1)
        )
        shares = torch.linspace(0, 1, count // 2, dtype=values.dtype, device=values.device)
        distances = torch.searchsorted(
            values, torch.lerp(values[..., :1], values[..., -1:], shares)
        )
        positions = torch.cat([numbers, distances], dim=-1).sort(dim=-1).values
        squares = self._prefix(torch.linalg.vector_norm(self._blocks, dim=-1).double().square())
        return CellEnds(positions, self.prefix_sums(positions), self._until(positions, squares, 2))


class CellEnds(NamedTuple):
    """Positions (..., m+1) in sorted data, and the sums of the values and of their squares before
    each."""

    positions: Tensor
    sums: Tensor
    squares: Tensor


def midpoints(codebook: Tensor) -> Tensor:
    """The borders of the nearest-value cells of an increasing codebook (..., K), (..., K-1)."""
    return (codebook[..., 1:] + codebook[..., :-1]) / 2


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest entry of the increasing `codebook` (..., K) or (K,), the lower of two at
    equal distance; uint8, or int32 for K > 256."""
    return cells_of(x, midpoints(codebook).to(x.dtype).expand(*x.shape[:-1], -1).contiguous())


def cells_of(x: Tensor, edges: Tensor) -> Tensor:
    """The number of increasing `edges` (..., K-1) below each x (..., n); uint8, or int32 for K >
    256."""
    if edges.shape[-1] > COUNTED:
        indices = torch.searchsorted(edges, x.contiguous(), out_int32=True)
        return indices.to(torch.uint8) if edges.shape[-1] <= 255 else indices
    indices = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    if not x.numel():
        return indices
    values, found = x.reshape(-1, x.shape[-1]), indices.view(-1, x.shape[-1])
    edges = edges.view(len(values), -1) if edges.numel() else edges.new_zeros(len(values), 0)
    if len(values) == 1:  # one codebook: any cut of the values will do
        pieces = [
            (part, own, edges)
            for part, own in zip(values.split(CHUNK, -1), found.split(CHUNK, -1), strict=True)
        ]
    else:
        rows = max(1, CHUNK // x.shape[-1])
        pieces = list(zip(values.split(rows), found.split(rows), edges.split(rows), strict=True))
    for part, own, borders in pieces:
        for j in range(borders.shape[-1]):
            own += (part > borders[:, j : j + 1]).view(torch.uint8)
    return indices

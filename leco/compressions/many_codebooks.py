"""One-dimensional k-means of many small problems at once: rows or groups of weights that each have
a codebook.

Cold, a dynamic program over few candidates for the cells' ends, then over all moves of these ends
by few places. Warm, sweeps of Lloyd's algorithm on the weights as they lie, with no sort. All work
is on a part of the rows at a time, which stays in cache.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from leco.compressions.best_cuts import best_cuts
from leco.compressions.cells import nearest
from leco.compressions.kmeans1d import centroids
from leco.compressions.sorted_values import CellEnds, Sorted, order_of, sort_

CHUNK = 2**17  # weights of the rows of a part
CHUNK_OF_DEVICE = 2**24  # the same on a GPU
WORK = 40  # evaluations of the dynamic program for a weight
SINGLE = 32  # entries of a codebook, up to which the first search is in single precision
SWEEPS = 2  # of Lloyd's algorithm from a warm start
FEW = 2**18  # gains that a refinement holds at once: they stay in cache


class Codebooks(NamedTuple):
    """Codes (R, n) of each weight and increasing codebooks (R, k), float64."""

    indices: Tensor
    codebook: Tensor


def rows_of_a_part(x: Tensor) -> int:
    """How many rows of x (R, n) a part has."""
    return max(1, (CHUNK if x.device.type == "cpu" else CHUNK_OF_DEVICE) // x.shape[-1])


def warm_codebooks(
    x: Tensor, weights: Tensor | None, indices: Tensor, codebook: Tensor
) -> Codebooks:
    """`SWEEPS` sweeps of Lloyd's algorithm for each row of x (R, n), from codes (R, n) and a
    codebook (R, k) in any order.

    A sweep takes the (weighted) means of the cells and then the nearest mean of each weight. As
    neither raises the error of a row, none ends above the Theta that it starts from. O(k n) a
    sweep.
    """
    part, found = rows_of_a_part(x), []
    for first in range(0, len(x), part):
        own = slice(first, first + part)
        terms = _Terms(x[own], None if weights is None else weights[own], codebook.shape[-1])
        codes, book = indices[own], codebook[own].double()
        for _ in range(SWEEPS):
            book = terms.means(codes, book).sort(dim=-1).values
            codes = nearest(x[own], book)
        found.append(Codebooks(codes, book))
    return Codebooks(*(torch.cat(fields) for fields in zip(*found, strict=True)))


class _Terms:
    """What the cells of some rows of x (r, n) are summed over."""

    def __init__(self, x: Tensor, weights: Tensor | None, k: int):
        self.weights = x.new_ones(1, dtype=torch.float64).expand(x.numel())
        self.values = x.double().view(-1)
        if weights is not None:
            self.weights = weights.double().view(-1)
            self.values = self.values * self.weights
        self.first = k * torch.arange(len(x), device=x.device).unsqueeze(1)

    def means(self, codes: Tensor, codebook: Tensor) -> Tensor:
        """The weighted means of the cells; an empty one keeps its value."""
        places = (codes.long() + self.first).view(-1)
        sums, masses = (
            codebook.new_zeros(codebook.numel()).scatter_add_(0, places, terms)
            for terms in (self.values, self.weights)
        )
        return torch.where(masses > 0, sums.div_(masses), codebook.view(-1)).view_as(codebook)


def cold_codebooks(x: Tensor, weights: Tensor | None, k: int) -> Tensor:
    """Codebooks (R, k), increasing, float64, for the rows of x (R, n), k at least 2."""
    part, found = rows_of_a_part(x), []
    for first in range(0, len(x), part):
        own = slice(first, first + part)
        d = None if weights is None else weights[own] / weights[own].amax(-1, keepdim=True)
        data = Sorted(x[own].clone(), d)

        # the best among candidates
        positions = _candidates(data, k)
        single = k <= SINGLE and 2 * k <= data.n
        ends = _centred(data, positions, torch.float32 if single else torch.float64)
        count = positions.shape[-1]
        cuts = positions.gather(-1, best_cuts(ends.masses, ends.sums, k))

        # ever smaller moves from them
        stride = 1 if 2 * count > data.n else data.n // count
        while stride > 1:
            cuts = refined(data, cuts, stride)
            stride //= 2
        for _ in range(1 if 2 * count > data.n else 2):
            cuts = refined(data, cuts, 1)
        found.append(centroids(data, data.ends(pad(pad(cuts, (1, 0)), (0, 1), value=data.n))))
    return torch.cat(found)


def _centred(data: Sorted, positions: Tensor, dtype: torch.dtype) -> CellEnds:
    """The ends at `positions`, with sums of the values less their mean, in a precision for the
    search."""
    last = positions.new_full((len(positions), 1), data.n)
    whole, ends = data.ends(last), data.ends(positions)
    sums = ends.sums - ends.masses * (whole.sums / whole.masses)
    return CellEnds(positions, ends.masses.to(dtype), sums.to(dtype))


def _candidates(data: Sorted, k: int) -> Tensor:
    """Positions (R, m+1) where cells may end, 0 and n among them.

    So many that the program over them costs about `WORK` evaluations a weight, and at least 5/2
    for each cell. Where these are most positions: those where two neighbours are most expensive to
    join in a cell. Else: at equal steps of the integral of density^(1/3), the density of the best
    cells' ends where there are many of them (Panter and Dite 1951). The density between two
    neighbours is the inverse of their distance; in a metric, the weight over the distance.
    """
    n, values = data.n, data.values
    count = max(5 * k // 2, k - 1 + math.isqrt(WORK * n // max(1, k - 2)))
    count = max(k, min(count, 5 * n // 8 + 4))
    if n <= count:
        return torch.arange(n + 1, device=values.device).expand(len(values), -1)
    gaps = values.diff(dim=-1)
    if 2 * count >= n:
        if data.weights is not None:
            left, right = data.weights[:, :-1], data.weights[:, 1:]
            gaps = gaps.square_().mul_(left * right / (left + right))
        inner = sort_(order_of(gaps)[:, -(count - 1) :].contiguous()) + 1
    else:
        steps = gaps.pow_(2 / 3)
        if data.weights is not None:
            steps = steps.mul_(data.weights[:, 1:].pow(1 / 3))
        passed = steps.cumsum(-1, dtype=torch.float64)
        levels = torch.arange(0.5, count - 1, dtype=torch.float64, device=values.device)
        inner = torch.searchsorted(passed, passed[:, -1:] * (levels / (count - 1))) + 1
    return pad(pad(inner.clamp_(max=n), (1, 0)), (0, 1), value=n)


def refined(data: Sorted, cuts: Tensor, stride: int) -> Tensor:
    """The best of all ways to move each of the cuts (R, k-1) by a stride.

    The same dynamic program, with three places for each cut. As no move is one of the ways,
    no row gets worse, up to rounding.
    """
    rows, k = len(cuts), cuts.shape[-1] + 1
    moves = stride * torch.arange(-1, 2, device=cuts.device)
    places = (cuts.unsqueeze(-1) + moves).clamp_(0, data.n).view(rows, -1)
    ends = _centred(data, pad(places, (0, 1), value=data.n), torch.float64)
    size = FEW if cuts.device.type == "cpu" else CHUNK_OF_DEVICE
    part = max(1, size // (k * len(moves) ** 2))
    move = [
        _best_moves(mass.T.contiguous(), total.T.contiguous(), k - 1)  # rows last: whole vectors
        for mass, total in zip(ends.masses.split(part), ends.sums.split(part), strict=True)
    ]
    return (cuts + moves[torch.cat(move, dim=-1)].T).clamp_(0, data.n)


def _best_moves(masses: Tensor, sums: Tensor, cuts: int) -> Tensor:
    """Which of its places each cut moves to, (cuts, R), from the ends at all places of all cuts and
    at n, (cuts places + 1, R)."""
    shape = (cuts, -1, masses.shape[1])
    mass, total = masses[:-1].view(shape), sums[:-1].view(shape)
    least, places = masses[-1] * 1e-30, mass.shape[1]

    # D_t at the places of cut t
    gains = _gain(
        mass[1:].unsqueeze(1) - mass[:-1].unsqueeze(2),
        total[1:].unsqueeze(1) - total[:-1].unsqueeze(2),
        least,
    ).unbind()
    layers = [_gain(mass[0], total[0].clone(), least)]
    for gain in gains:
        layers.append(_largest(layers[-1].unsqueeze(1) + gain))

    # back from the last cell: the first of the largest gains
    falling = torch.arange(places, 0, -1, dtype=mass.dtype, device=mass.device).unsqueeze(1)
    gain = layers[-1] + _gain(masses[-1] - mass[-1], sums[-1] - total[-1], least)
    chosen = []
    for t in range(cuts - 1, -1, -1):
        best = torch.ge(gain, _largest(gain), out=torch.empty_like(gain)).mul_(falling)
        chosen.append(places - _largest(best).unsqueeze(0).long())
        if t:
            to = chosen[-1].expand(places, 1, -1)
            gain = layers[t - 1] + gains[t - 1].gather(1, to).squeeze(1)
    return torch.cat(chosen[::-1])


def _largest(t: Tensor) -> Tensor:
    """t.amax(0), which takes longer for a few entries."""
    return functools.reduce(torch.maximum, t.unbind())


def _gain(mass: Tensor, total: Tensor, least: Tensor) -> Tensor:
    """How much a cell at its mean lowers the weighted sum of squares; -infinity for one that ends
    before it begins. Overwrites `total`."""
    back = mass < 0
    return total.square_().div_(torch.maximum(mass, least)).masked_fill_(back, -torch.inf)

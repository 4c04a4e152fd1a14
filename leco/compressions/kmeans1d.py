"""One-dimensional k-means on sorted data: exact for two cells, by dynamic programming, by Lloyd's
algorithm.

After one sort an iteration of Lloyd's algorithm costs O(K (log n + block)) instead of O(K n).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from leco.compressions.sorted_values import CellEnds, Sorted, midpoints

EXACT_WORK = 2**23  # evaluations that an exact program may cost by default: about a second
MAX_SWEEPS = 300
PART = 2**15  # values that `best_split` looks at in one go, on a CPU: they stay in cache


def best_split(data: Sorted) -> Tensor:
    """Centroids (..., 2), increasing, of the two cells of least total squared error. O(n).

    With d_i the sum of the i least values, each less the mean of all n, a cut after i values lowers
    the error of a single cell by n d_i^2 / (i (n - i)).
    """
    n, values = data.n, data.values.view(-1, data.n)
    mean = values.sum(-1, keepdim=True, dtype=torch.float64) / n
    size = PART if values.device.type == "cpu" else 64 * PART
    rows, found = max(1, size // n), []
    for own, center in zip(values.split(rows), mean.split(rows), strict=True):
        best, cut = torch.full_like(center, -1.0), torch.ones_like(center)
        moved, before = torch.zeros_like(center), torch.zeros_like(center)
        for first in range(0, n, size):
            sums = own[:, first : first + size].sub(center).cumsum_(-1).add_(before)
            numbers = torch.arange(
                first + 1, first + 1 + sums.shape[-1], dtype=torch.float64, device=values.device
            )
            gain, place = (
                sums.square().div_((numbers * (n - numbers)).clamp_(min=1)).max(-1, keepdim=True)
            )
            better, before = gain > best, sums[:, -1:]
            best, cut = torch.where(better, gain, best), torch.where(better, numbers[place], cut)
            moved = torch.where(better, sums.gather(-1, place), moved)
        found.append(
            torch.cat([center + moved / cut, center - moved / (n - cut).clamp(min=1)], dim=-1)
        )
    return torch.cat(found).view(*data.values.shape[:-1], 2)


def optimal_codebook(data: Sorted, k: int, candidates: CellEnds) -> Tensor:
    """Centroids (..., k), increasing, of the k cells of least total squared error among those that
    end at candidate positions.

    Dynamic programming over D_t[j] = min over i <= j of D_{t-1}[i] + error(i, j), the least error
    of the first j values in t cells. The minimising i grows with j, so a level of j's at a time
    (middles first) costs O(m): O(k m log m) in all, exact when every position is a candidate (Wu
    1991; Groenlund et al., arXiv 1701.07204).
    """
    positions, sums, squares = (t.reshape(-1, t.shape[-1]) for t in candidates)
    batch, ends = positions.shape
    offset = (torch.arange(batch, device=positions.device) * ends).unsqueeze(1)
    numbers = positions.double()
    flat = CellEnds(positions.reshape(-1), sums.reshape(-1), squares.reshape(-1))

    def spread(number: Tensor, total: Tensor, square: Tensor) -> Tensor:
        return square.sub(total.square() / number.clamp(min=1)).clamp_(min=0)

    def error(i: Tensor, j: Tensor) -> Tensor:
        return spread(
            *(
                part.index_select(0, j) - part.index_select(0, i)
                for part in (numbers.view(-1), flat.sums, flat.squares)
            )
        )

    best = spread(numbers, sums, squares)  # D_1: candidates begin at 0
    arguments = []
    for _ in range(2, k):
        best, argument = _layer(best.view(-1), error, batch, ends)
        best = best.view(batch, ends)
        arguments.append(argument)
    cut = offset.squeeze(1) + ends - 1
    cuts = [cut]
    if k > 1:  # the final layer is needed at j = m alone
        rest = spread(*(part[:, -1:] - part for part in (numbers, sums, squares)))
        cuts.append(offset.squeeze(1) + rest.add_(best).argmin(dim=-1))
    for argument in reversed(arguments):
        cuts.append(argument[cuts[-1]])
    chosen = torch.stack([offset.squeeze(1), *cuts[::-1]], dim=-1)
    number, total = flat.positions[chosen].diff(dim=-1), flat.sums[chosen].diff(dim=-1)
    rows = data.values.reshape(batch, -1)
    # an empty cell repeats its neighbour's value
    beside = rows.gather(-1, flat.positions[chosen][:, :-1].clamp(max=data.n - 1)).double()
    codebook = torch.where(number > 0, total / number.clamp(min=1), beside)
    return codebook.view(*candidates.positions.shape[:-1], k).sort(dim=-1).values


def _layer(
    best: Tensor, error: Callable[[Tensor, Tensor], Tensor], batch: int, ends: int
) -> tuple[Tensor, Tensor]:
    """One layer of the dynamic program over all j, middles of ever smaller intervals first; flat
    over the batch."""
    device = best.device
    out, argument = torch.zeros_like(best), torch.zeros_like(best, dtype=torch.long)
    start = torch.arange(batch, device=device) * ends
    stop = start + ends - 1
    low_j, high_j, low_i, high_i = start, stop, start, stop
    while low_j.numel():
        middle = (low_j + high_j) // 2
        lengths = torch.minimum(middle, high_i) - low_i + 1
        segment = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        i = torch.arange(len(segment), device=device) + (
            low_i - lengths.cumsum(0) + lengths
        ).index_select(0, segment)
        # several times faster than best[i]
        value = error(i, middle.index_select(0, segment)) + best.index_select(0, i)
        least = torch.full_like(middle, torch.inf, dtype=value.dtype).scatter_reduce_(
            0, segment, value, "amin"
        )
        least_here = torch.where(value == least.index_select(0, segment), i, len(best))
        first = torch.full_like(middle, len(best)).scatter_reduce_(0, segment, least_here, "amin")
        out[middle], argument[middle] = least, first
        low_j, high_j, low_i, high_i = (
            torch.cat([low_j, middle + 1]),
            torch.cat([middle - 1, high_j]),
            torch.cat([low_i, first]),
            torch.cat([first, high_i]),
        )
        keep = low_j <= high_j
        low_j, high_j, low_i, high_i = low_j[keep], high_j[keep], low_i[keep], high_i[keep]
    return out, argument


def lloyd(data: Sorted, codebook: Tensor) -> Tensor:
    """Lloyd's algorithm from `codebook` (..., K), float64 and increasing, until no cell changes. No
    sweep raises the error."""
    previous = None
    for _ in range(MAX_SWEEPS):
        number, total = (
            cells.squeeze(-2) for cells in data.cells(midpoints(codebook).unsqueeze(-2))
        )
        if previous is not None and torch.equal(number, previous):
            break
        codebook = torch.where(number > 0, total / number.clamp(min=1), codebook)
        previous = number
    return codebook

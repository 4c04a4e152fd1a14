"""One-dimensional k-means on sorted data: exact for two cells, by dynamic programming, by Lloyd's
algorithm. In a metric the squared errors are weighed, and all of it holds as it stands.

After one sort an iteration of Lloyd's algorithm costs O(K (log n + block)) instead of O(K n).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from leco.compressions.best_cuts import best_cuts
from leco.compressions.sorted_values import CellEnds, Sorted, midpoints

EXACT_WORK = 2**23  # evaluations that an exact program may cost by default: about a second
MAX_SWEEPS = 300
PART = 2**15  # values that `best_split` looks at in one go, on a CPU: they stay in cache
DENSE_ENDS = 2**8  # candidates up to which the dynamic program works on dense tables


def best_split(data: Sorted) -> Tensor:
    """Centroids (..., 2), increasing, of the two cells of least total squared error. O(n).

    With m_i the weight of the i least values (i itself without a metric), s_i the weighted sum of
    these values less the mean, and m the weight of all n, a cut after i values lowers the error of
    a single cell by s_i^2/m_i + s_i^2/(m - m_i) = m s_i^2 / (m_i (m - m_i)).
    """
    n = data.n
    values = data.values.view(-1, n)
    weights = None if data.weights is None else data.weights.view(-1, n)
    size = PART if values.device.type == "cpu" else 64 * PART
    rows = max(1, size // n)
    found = [
        _best_split(
            values[first : first + rows],
            None if weights is None else weights[first : first + rows],
            size,
        )
        for first in range(0, len(values), rows)
    ]
    return torch.cat(found).view(*data.values.shape[:-1], 2)


def _best_split(values: Tensor, weights: Tensor | None, size: int) -> Tensor:
    """The centroids of `best_split` for rows of sorted values (rows, n), `size` values at a
    time."""
    n = values.shape[-1]

    # the weight and the mean of all
    if weights is None:
        mass = torch.tensor([[n]], dtype=torch.float64, device=values.device)
        center = values.sum(-1, keepdim=True, dtype=torch.float64) / n
    else:
        mass = weights.sum(-1, keepdim=True, dtype=torch.float64)
        center = (values * weights).sum(-1, keepdim=True, dtype=torch.float64) / mass

    # the best cut: its gain, the weight and the centred sum below it
    best, below = torch.full_like(center, -1.0), torch.ones_like(center)
    moved, before, passed = (torch.zeros_like(center) for _ in range(3))
    for first in range(0, n, size):
        terms = values[:, first : first + size].sub(center)
        if weights is None:
            stop = first + 1 + terms.shape[-1]
            masses = torch.arange(first + 1, stop, dtype=torch.float64, device=values.device)[None]
        else:
            d = weights[:, first : first + size].double()
            terms, masses = terms.mul_(d), d.cumsum(-1).add_(passed)
            passed = masses[:, -1:]
        sums = terms.cumsum_(-1).add_(before)
        rest = masses * (mass - masses)
        rest.masked_fill_(rest <= 0, torch.inf)
        gain, place = (sums.square() / rest).max(-1, keepdim=True)
        better, before = gain > best, sums[:, -1:]
        best = torch.where(better, gain, best)
        below = torch.where(better, masses.expand_as(sums).gather(-1, place), below)
        moved = torch.where(better, sums.gather(-1, place), moved)

    # all centred sums add up to `before`, which is 0 but for rounding
    above = torch.where(below < mass, mass - below, mass)
    return torch.cat([center + moved / below, center + (before - moved) / above], dim=-1)


def optimal_codebook(data: Sorted, k: int, candidates: CellEnds) -> Tensor:
    """Centroids (..., k), increasing, of the k cells of least total squared error among those that
    end at candidate positions.

    Dynamic programming over D_t[j] = min over i <= j of D_{t-1}[i] + error(i, j), the least error
    of the first j values in t cells: on dense tables (`best_cuts`) where there are few candidates.
    Otherwise a level of j's at a time, middles first: the minimising i grows with j, which makes it
    O(m) a level and O(k m log m) in all. Exact when every position is a candidate (Wu 1991;
    Groenlund et al., arXiv 1701.07204). In a metric too: the error of a cell at its weighted mean
    is a sum of squares less s^2/m, with s and m of `Sorted`, and it is of Monge type as before.
    """
    ends = CellEnds(*(t.reshape(-1, t.shape[-1]) for t in candidates))
    total = ends.masses[:, -1:]
    sums = ends.sums - ends.masses * (ends.sums[:, -1:] / total)  # of values less their mean
    last = ends.positions.shape[-1] - 1
    if k == 1:
        cuts = ends.positions[:, :0]
    elif k <= last <= DENSE_ENDS:
        cuts = best_cuts(ends.masses, sums, k)
    else:
        cuts = _optimal_cuts(ends.masses, sums, k)
    chosen = torch.nn.functional.pad(torch.nn.functional.pad(cuts, (1, 0)), (0, 1), value=last)
    return centroids(data, ends.at(chosen)).view(*candidates.positions.shape[:-1], k)


def centroids(data: Sorted, ends: CellEnds) -> Tensor:
    """The means (R, k), increasing, of the cells between k+1 ends (R, k+1) in sorted data."""
    mass, total = ends.masses.diff(dim=-1), ends.sums.diff(dim=-1)
    rows = data.values.reshape(len(mass), -1)
    # an empty cell repeats its neighbour's value
    beside = rows.gather(-1, ends.positions[:, :-1].clamp(max=data.n - 1)).double()
    return torch.where(mass > 0, total / torch.where(mass > 0, mass, 1), beside).sort(-1).values


def _optimal_cuts(masses: Tensor, sums: Tensor, k: int) -> Tensor:
    """The candidates (R, k-1) between the best k cells, a level at a time."""
    batch, ends = sums.shape
    start = (torch.arange(batch, device=sums.device) * ends).unsqueeze(1)

    def error(i: Tensor, j: Tensor) -> Tensor:
        mass, total = (
            part.reshape(-1).index_select(0, j) - part.reshape(-1).index_select(0, i)
            for part in (masses, sums)
        )
        return _error(mass, total)

    # D_t, the error less the sum of squares
    best, arguments = _error(masses, sums), []  # candidates begin at 0
    for _ in range(2, k):
        best, argument = _layer(best.view(-1), error, batch, ends)
        best = best.view(batch, ends)
        arguments.append(argument)

    # the final layer is needed at the end alone
    rest = _error(masses[:, -1:] - masses, sums[:, -1:] - sums)
    cuts = [start.squeeze(1) + rest.add_(best).argmin(dim=-1)]
    for argument in reversed(arguments):
        cuts.append(argument[cuts[-1]])
    return torch.stack(cuts[::-1], dim=-1) - start


def _error(mass: Tensor, total: Tensor) -> Tensor:
    """The squared error of a cell at its mean, less the sum of squares."""
    return total.square().div_(torch.where(mass > 0, mass, torch.inf)).neg_()


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
        numbers, masses, total = (
            cells.squeeze(-2) for cells in data.counted_cells(midpoints(codebook).unsqueeze(-2))
        )
        if previous is not None and torch.equal(numbers, previous):
            break
        codebook = torch.where(masses > 0, total / torch.where(masses > 0, masses, 1), codebook)
        previous = numbers
    return codebook

"""One-dimensional clustering on sorted data: what the quantization C steps share.

Cells of a scalar quantizer are runs of the sorted values, so a C step needs sums over runs, not
passes over the weights. After one sort an iteration of Lloyd's algorithm costs O(K (log n + block))
instead of O(K n). All sums across blocks are in float64.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # values a coarse prefix sum steps over, at most; a query adds the rest itself
DENSE = 2**17  # values, of all rows, up to which there is a prefix sum for each
# at most: candidate cell borders of the dynamic program that starts Lloyd's algorithm
COARSE_CUTS = 1024
EXACT_WORK = 2**23  # evaluations that an exact dynamic program may cost by default: about a second
MAX_SWEEPS = 300
PART = 2**15  # values that `best_split` looks at in one go, on a CPU: they stay in cache
QUERIES = 2**21  # values that queries of prefix sums look at in one go
TRIAL_SWEEPS = 3  # of each starting scale, before only the best goes on


def sort_(x: Tensor) -> Tensor:
    """Sort along the last dimension, in place on the CPU: numpy's sort is vectorised and needs no
    index array, unlike torch's."""
    if x.device.type != "cpu":
        return x.sort(dim=-1).values
    x.numpy().sort(axis=-1)
    return x


class Sorted:
    """The values of x (..., n) in increasing order, with prefix sums at any position. `x` is
    overwritten."""

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

    def candidates(self, count: int) -> "Candidates":
        """At most `count` + 1 positions where cells may end, with their prefix sums: all of them
        where n <= count, else half at equal numbers of values and half at equal distances, which
        the tails need."""
        values = self.values
        if self.n <= count:
            positions = torch.arange(self.n + 1, device=values.device).expand(
                *values.shape[:-1], -1
            )
            return Candidates(
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
        return Candidates(
            positions, self.prefix_sums(positions), self._until(positions, squares, 2)
        )


class Candidates(NamedTuple):
    """Positions (..., m+1) in sorted data, and the sums of the values and of their squares before
    each."""

    positions: Tensor
    sums: Tensor
    squares: Tensor


def midpoints(codebook: Tensor) -> Tensor:
    """The borders of the nearest-value cells of an increasing codebook (..., K), (..., K-1)."""
    return (codebook[..., 1:] + codebook[..., :-1]) / 2


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


def optimal_codebook(data: Sorted, k: int, candidates: Candidates) -> Tensor:
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
    flat = Candidates(positions.reshape(-1), sums.reshape(-1), squares.reshape(-1))

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


class Fit(NamedTuple):
    """Scales (..., C) of C candidates, and how much each lowers ||x||^2."""

    scale: Tensor
    gain: Tensor


def search_scale(data: Sorted, values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The best scale (..., 1) that `fit_scale` reaches from the candidates (..., C), and the index
    (..., 1) of the one it came from."""
    *batch, count, k = values.shape
    values, scale = values.reshape(-1, count, k), scale.reshape(-1, count)
    found = []
    rows = max(1, QUERIES // (count * k))  # at a time, for the memory's sake
    for first in range(0, len(scale), rows):
        part = slice(first, first + rows)
        own = data.rows(part)
        trial = fit_scale(own, values[part], scale[part], TRIAL_SWEEPS)
        best = trial.gain.argmax(-1, keepdim=True)
        chosen = values[part].gather(-2, best.unsqueeze(-1).expand(*best.shape, k))
        found.append((fit_scale(own, chosen, trial.scale.gather(-1, best), MAX_SWEEPS).scale, best))
    return tuple(torch.cat(parts).view(*batch, 1) for parts in zip(*found, strict=True))  # pyright: ignore[reportReturnType]


def fit_scale(data: Sorted, values: Tensor, scale: Tensor, sweeps: int) -> Fit:
    """Alternate nearest value and least-squares scale from each of the candidate scales (..., C);
    `values` (..., C, K), increasing.

    With A = sum over cells of value_k sum_k and B = sum of value_k^2 number_k, the best scale of an
    assignment is A/B and lowers ||x||^2 by A^2/B. Each sweep raises it.
    """
    gain = torch.full_like(scale, -torch.inf)
    for _ in range(sweeps):
        numbers, sums = data.cells(scale.unsqueeze(-1) * midpoints(values))
        a = (sums * values).sum(-1)
        b = (numbers * values.square()).sum(-1)
        new = torch.where((a > 0) & (b > 0), a / b.clamp(min=torch.finfo(b.dtype).tiny), 0.0)
        reached = new * a
        if not bool((reached > gain * (1 + 1e-12)).any()):
            break
        scale, gain = new, torch.maximum(gain, reached)
    return Fit(scale, gain)


def best_scale(x: Tensor, values: Tensor) -> Tensor:
    """The scale s >= 0 of least ||x - s values[nearest]||^2, exactly: (...) for x (..., n) and
    increasing `values` (K,).

    As s falls from infinity each x_i starts at the innermost value on its side, and steps outwards
    where x_i = s m_j for a midpoint m_j of its sign. All n (K - 1) such scales are sorted; between
    two of them the assignment is fixed, and A^2/B (see `fit_scale`) is its gain. Every step adds to
    A and to B, so that nothing cancels. O(n K log(n K)).
    """
    x, values = x.double(), values.double()
    edges, steps = midpoints(values), values.diff()
    zero = edges.new_zeros(())
    inner = torch.where(
        x > 0,
        values[torch.searchsorted(edges, zero, right=True)],
        values[torch.searchsorted(edges, zero)],
    )
    ratio = x.unsqueeze(-1) / torch.where(edges == 0, torch.inf, edges)
    meets = ratio > 0
    step_a = torch.where(meets, steps * x.unsqueeze(-1).abs(), 0).flatten(-2)
    step_b = torch.where(meets, 2 * steps * edges.abs(), 0).flatten(-2)
    order = ratio.flatten(-2).argsort(dim=-1, descending=True)
    a = (inner * x).sum(-1, keepdim=True)
    b = inner.square().sum(-1, keepdim=True)
    a = torch.cat([a, a + step_a.gather(-1, order).cumsum(-1)], dim=-1)
    b = torch.cat([b, b + step_b.gather(-1, order).cumsum(-1)], dim=-1)
    valid = (a > 0) & (b > 0)
    gain = torch.where(valid, a.square() / torch.where(valid, b, 1.0), 0.0)
    best = gain.argmax(dim=-1, keepdim=True)
    return torch.where(valid, a / torch.where(valid, b, 1.0), 0.0).gather(-1, best).squeeze(-1)

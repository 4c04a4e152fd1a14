"""Where the descent of `leco.EntropyCodebook` starts in a metric: weighted k-means codebooks and
uniform grids, as candidates (R problems, C candidates, K values)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from leco.compressions.entropy_descent import Candidates
from leco.compressions.entropy_starts import CUTS, uniform_grids
from leco.compressions.entropy_weighed import Weighed, apart, sweep
from leco.compressions.kmeans1d import optimal_codebook
from leco.compressions.sorted_values import Sorted

SIZES = (1, 2, 3, 4, 6, 8, 16, 64, 256)  # of the k-means codebooks


def starts_in_metric(data: Weighed, k: int, with_zero: bool) -> Candidates:
    """Weighted k-means codebooks and uniform grids, with the lengths of their nearest cells, as
    candidates (R, C, k)."""
    found = [*_weighted_means(data, k, with_zero), *_uniform_grids(data, k, with_zero)]

    # their nearest cells
    which, start = apart(Candidates.joined(found))
    after = sweep(data, which, start, 0.0, torch.zeros_like(which, dtype=torch.bool)).after
    return Candidates(*(field.unflatten(0, (len(data.x), -1)) for field in after))


def _weighted_means(data: Weighed, k: int, with_zero: bool) -> Iterator[Candidates]:
    """k-means codebooks of weighted values of several sizes. With a zero, the value nearest to 0
    becomes 0, or 0 joins fewer than k values."""
    weights = (data.mu * data.numbers).to(data.x.dtype)
    rows = Sorted(data.x.clone(), weights / weights.max())
    for size in sorted({min(size, k, rows.n) for size in SIZES}):
        values = optimal_codebook(rows, size, rows.candidates(max(4 * size, CUTS)))
        zero = torch.zeros_like(values, dtype=torch.bool)
        if with_zero and size < k:
            yield _candidate(pad(values, (1, 0)), pad(zero, (1, 0), value=True), k)
        if with_zero:
            zero.scatter_(-1, values.abs().argmin(-1, keepdim=True), True)
        yield _candidate(values.masked_fill(zero, 0.0), zero, k)


def _uniform_grids(data: Weighed, k: int, with_zero: bool) -> Iterator[Candidates]:
    """Those of `uniform_grids`."""
    place = data.x.abs().argmax(-1, keepdim=True)
    at = torch.arange(k, device=data.x.device) == (k - 1) // 2
    for values in uniform_grids(data.x.gather(-1, place).double(), k):
        yield _candidate(values, (at & with_zero).expand_as(values), k)


def _candidate(values: Tensor, zero: Tensor, k: int) -> Candidates:
    """Values (R, size) with lengths of 0, as a candidate (R, 1, k)."""
    more = (0, k - values.shape[-1])
    lengths = pad(torch.zeros_like(values), more, value=torch.inf)
    return Candidates(*(f.unsqueeze(1) for f in (pad(values, more), pad(zero, more), lengths)))

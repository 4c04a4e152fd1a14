"""The descent of `leco.EntropyCodebook` in a metric, where each weight has a price of its own.

The cost of value j for weight i is mu_i/2 (x_i - c_j)^2 + alpha l_j. Its cells are no intervals, so
a sweep looks at every weight and every value: O(n k), with no sort.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from leco.coding.contexts import code_bits
from leco.compressions.entropy_descent import ENTRY_BITS, Candidates, best_of, strict_rows
from leco.compressions.entropy_starts import last_candidate, starting_candidates
from leco.compressions.kmeans1d import MAX_SWEEPS, lloyd, optimal_codebook
from leco.compressions.sorted_values import COARSE_CUTS, Sorted
from leco.theta import Codes, ZeroCodes

CHUNK = 2**16  # weights that a sweep looks at in one go: they stay in cache
SIZES = (1, 2, 3, 4, 6, 8, 16, 64, 256)  # of the k-means codebooks that the descent starts from
TRIAL_SWEEPS = 4  # of each start, before only the best goes on
FEW = 2**20  # evaluations of a sweep, up to which it is tried whether each value pays
CUTS_OF_ALL = 2**22  # candidates of all rows, for the weighted k-means codebooks


class Found(NamedTuple):
    """Codes (R, n), the values (R, K) that they stand for, which of them is the 0, the numbers of
    weights and the objective (R,): sum mu_i (theta_i^2 - 2 x_i theta_i) + 2 alpha bits."""

    codes: Tensor
    values: Tensor
    zero: Tensor
    counts: Tensor
    objective: Tensor

    def where(self, chosen: Tensor, other: "Found") -> "Found":
        """Itself in the rows (R,) that are chosen, else another."""
        return Found(
            *(
                torch.where(chosen.view(-1, *[1] * (own.dim() - 1)), own, its)
                for own, its in zip(self, other, strict=True)
            )
        )


def family_in_metric(
    x: Tensor, mu: Tensor, k: int, with_zero: bool, theta: ZeroCodes | Codes | None
) -> Callable[[float], ZeroCodes | Codes]:
    """`EntropyCodebook.family` for weights mu of x's shape.

    The descent starts from the Theta that one mu for each row, its mean, gives; from weighted
    k-means codebooks; and from the last Theta. No sweep raises the objective: the codes are the
    best for the values and lengths, the weighted means the best values for the codes, and the
    lengths -log2 of their frequencies the best for the codes. The best of all is kept for each
    row.
    """
    rows, weights = x.view(-1, x.shape[-1]), mu.expand_as(x).reshape(-1, x.shape[-1])

    # one mu a row: the rows are scaled by its root, then it is 1
    root = weights.mean(-1, keepdim=True, dtype=torch.float64).sqrt()
    scaled = Sorted((rows * root).to(x.dtype))
    plain = starting_candidates(scaled, k, with_zero, None)

    # weighted k-means, with lengths of 0, and the last Theta
    starts = _weighted_means(rows, weights, k, with_zero)
    last = last_candidate(theta, len(rows), k, with_zero)
    starts += [] if last is None else [last]
    strict = strict_rows(scaled, plain if last is None else last).squeeze(1) & with_zero

    def descend(alpha: float) -> ZeroCodes | Codes:
        first = best_of(scaled, plain, 2 * alpha)
        own = first._replace(values=first.values / root.unsqueeze(1))
        best = _best_of(
            [
                descend_in_metric(rows, weights, start, 2 * alpha, strict, TRIAL_SWEEPS)
                for start in (own, *starts)
            ]
        )
        last = _as_start(best, rows.shape[-1])
        best = descend_in_metric(rows, weights, last, 2 * alpha, strict, MAX_SWEEPS)
        if rows.numel() * k <= FEW:
            best = _without_idle(rows, weights, best, 2 * alpha, strict)
        return _theta_of(best, x, with_zero)

    return descend


def _best_of(found: list[Found]) -> Found:
    """The one of least objective in each row, the first of equals."""
    best = found[0]
    for other in found[1:]:
        best = other.where(other.objective < best.objective, best)
    return best


def _as_start(found: Found, n: int) -> Candidates:
    """Values with the lengths of their codes, as a start (R, 1, K)."""
    lengths = -torch.log2(found.counts.double() / n)
    return Candidates(*(f.unsqueeze(1) for f in (found.values, found.zero, lengths)))


def _without_idle(x: Tensor, weights: Tensor, best: Found, price: float, strict: Tensor) -> Found:
    """The descent goes on without each value other than 0 that does not pay."""
    for _ in range(best.values.shape[-1]):
        start = _as_start(best, x.shape[-1])
        several = start.lengths.isfinite().sum(-1) > 1
        found = [best]
        for j in range(best.values.shape[-1]):
            gone = several & ~start.zero[..., j] & start.lengths[..., j].isfinite()
            lengths = start.lengths.clone()
            lengths[..., j].masked_fill_(gone, torch.inf)
            fewer = start._replace(lengths=lengths)
            found.append(descend_in_metric(x, weights, fewer, price, strict, MAX_SWEEPS))
        after = _best_of(found)
        if not bool((after.objective < best.objective).any()):
            break
        best = after
    return best


def _weighted_means(x: Tensor, weights: Tensor, k: int, with_zero: bool) -> list[Candidates]:
    """k-means codebooks of weighted values of several sizes as candidates (R, 1, k). With a zero,
    the value nearest to 0 becomes 0, or 0 joins fewer than k values."""
    data, found = Sorted(x.clone(), weights / weights.max()), []
    for size in sorted({min(size, k, x.shape[-1]) for size in SIZES}):
        cuts = max(4 * size, min(COARSE_CUTS, CUTS_OF_ALL // len(x)))
        values = lloyd(data, optimal_codebook(data, size, data.candidates(cuts)))
        zero = torch.zeros_like(values, dtype=torch.bool)
        if with_zero and size < k:
            found.append(_candidate(pad(values, (1, 0)), pad(zero, (1, 0), value=True), k))
        if with_zero:
            zero.scatter_(-1, values.abs().argmin(-1, keepdim=True), True)
        found.append(_candidate(values.masked_fill(zero, 0.0), zero, k))
    return found


def _candidate(values: Tensor, zero: Tensor, k: int) -> Candidates:
    """Values (R, size) with lengths of 0, as a candidate (R, 1, k)."""
    more = (0, k - values.shape[-1])
    lengths = pad(torch.zeros_like(values), more, value=torch.inf)
    return Candidates(*(f.unsqueeze(1) for f in (pad(values, more), pad(zero, more), lengths)))


def descend_in_metric(
    x: Tensor, weights: Tensor, start: Candidates, price: float, strict: Tensor, sweeps: int
) -> Found:
    """At most so many sweeps from a start (R, 1, K), until no row's objective falls, for a price
    2 alpha of a bit.

    The objective is infinite where the 0 is idle in a `strict` row (R,).
    """
    values, zero, lengths = (field.squeeze(1) for field in start)
    best = None
    for _ in range(sweeps):
        found = _sweep(x, weights, values, zero, lengths, price)
        idle = strict & ((found.counts == 0) & zero).any(-1)
        found = found._replace(objective=found.objective.masked_fill(idle, torch.inf))
        if best is None:
            best = found
        else:
            least = best.objective
            better = found.objective < least - 1e-9 * least.abs().nan_to_num(posinf=0.0)
            if not bool(better.any()):
                break
            best = found.where(better, best)
        values, lengths = found.values, -torch.log2(found.counts.double() / x.shape[-1])
    assert best is not None
    return best


def _sweep(
    x: Tensor, weights: Tensor, values: Tensor, zero: Tensor, lengths: Tensor, price: float
) -> Found:
    """The best codes for values and lengths, and the best values for these codes."""
    k, (rows, _) = values.shape[-1], x.shape
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    counts, masses, sums = (values.new_zeros(rows, k) for _ in range(3))
    for row, column in _parts(x):
        own, d = x[row, column], weights[row, column]
        codes[row, column] = place = coded(own, price / d, values[row], lengths[row])
        place = place.long()
        counts[row].scatter_add_(1, place, counts.new_ones(1, 1).expand(place.shape))
        masses[row].scatter_add_(1, place, d.double())
        sums[row].scatter_add_(1, place, d.double() * own)
    kept = zero | (masses == 0)
    means = torch.where(kept, values, sums / torch.where(kept, 1, masses))
    bits = code_bits(counts).sum(-1) + ENTRY_BITS * ((counts > 0) & ~zero).sum(-1)
    objective = (means * (means * masses - 2 * sums)).sum(-1) + price * bits
    return Found(codes, means, zero, counts.long(), objective)


def _parts(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Several rows whole, or part of one."""
    rows = max(1, CHUNK // x.shape[-1])
    columns = x.shape[-1] if rows > 1 else CHUNK
    for row in range(0, len(x), rows):
        for column in range(0, x.shape[-1], columns):
            yield slice(row, row + rows), slice(column, column + columns)


def coded(x: Tensor, price: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """argmin over j of (x_i - c_j)^2 + price_i l_j, the first of equals: uint8, (r, n) for values
    and lengths (r, K)."""
    codes = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    least = torch.full_like(x, torch.inf)
    own, bits = values.to(x.dtype), lengths.to(x.dtype)
    for j in range(values.shape[-1]):
        cost = (x - own[:, j : j + 1]).square_().addcmul_(price, bits[:, j : j + 1])
        cost.masked_fill_(bits[:, j : j + 1].isinf(), torch.inf)
        codes.masked_fill_(cost < least, j)
        torch.fmin(least, cost, out=least)
    return codes


def _theta_of(found: Found, x: Tensor, with_zero: bool) -> ZeroCodes | Codes:
    """The codes and values in increasing order, without those that no row uses."""
    codes, values, zero, counts, _ = found
    idle = (counts == 0) & ~zero

    # the 0 first, then the values in use, then the rest with the largest value
    largest = values.masked_fill(idle | zero, -torch.inf).amax(-1, keepdim=True)
    values = torch.where(idle, largest.nan_to_num(neginf=0.0), values)
    key = values.masked_fill(zero & with_zero, -torch.inf).masked_fill(idle, torch.inf)
    order = key.argsort(dim=-1, stable=True)
    rank = order.argsort(dim=-1).to(torch.uint8)
    needed = int((~idle).sum(-1).max())
    book = values.gather(-1, order)[:, :needed].to(x.dtype)
    indices = torch.empty_like(codes)
    for row, column in _parts(codes):
        indices[row, column] = rank[row].gather(-1, codes[row, column].long())
    indices, lead = indices.view(x.shape), x.shape[:-1]
    if not with_zero:
        return Codes(indices, book.view(*lead, -1))
    return ZeroCodes(indices, book[:, 1:].reshape(*lead, needed - 1))

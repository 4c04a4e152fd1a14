"""A search for the scales of many small problems, by passes over rows that stay in cache.

The error is not convex in the scale. Sorting a short row costs as much as looking at it 20 times,
so the search looks at the rows as they are: a pass over a chunk of rows for each scale that it
tries, in place and in the dtype of x.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**17  # numbers in one go on a CPU: they and three buffers stay in cache
CHUNKS = 32  # times as many in one go on other devices
LARGEST = 1e6  # a share of the unit is at least 1 / LARGEST and at most LARGEST
NOTHING = 1 / LARGEST  # the share that stands for the scale 0

Nearest = Callable[[Tensor, Tensor, Tensor], object]
"""Writes the nearest value of each entry of the first tensor to the second; the third is a
buffer."""


class Tried(NamedTuple):
    """Scales of rows as shares of the rows' units, the zero points of their grids (None where the
    values are not shifted), and their squared errors in squares of the units. All (R,), or (C, R)
    for C scales of each row."""

    share: Tensor
    zero: Tensor | None
    error: Tensor


class Rows:
    """Rows x (R, n), each to be approximated by a scale times the nearest values.

    Args:
        x: (R, n), contiguous.
        weights: d (R, n) in a metric, None without one.
        unit: (R,), positive: what scales are shares of.
        nearest: finds the nearest values.
        buffers: (3, R, m), for m <= n columns at a time.
    """

    def __init__(
        self, x: Tensor, weights: Tensor | None, unit: Tensor, nearest: Nearest, buffers: Tensor
    ):
        self.x, self.weights, self.unit = x, weights, unit
        self._nearest, self._buffers = nearest, buffers
        self._per_unit, self._ones = unit.reciprocal(), x.new_ones(buffers.shape[-1])

    def nothing(self, zero: Tensor | None = None) -> Tried:
        """The scale 0 of each row, worse than any other that is tried."""
        share = torch.full_like(self.unit, NOTHING)
        return Tried(share, zero, torch.full_like(share, torch.inf))

    def errors(self, share: Tensor, zero: Tensor | None = None) -> Tried:
        """C scales of each row with their errors s^2 sum d (t - q)^2, where t = x/s, and q is the
        nearest value of t.

        Args:
            share: (C, R) or (C, 1).
            zero: (C, R) or None.
        """
        (squares,) = self._sums(share, zero, 1, lambda t, q, other: iter((torch.mul(t, t, out=t),)))
        return Tried(share.expand_as(squares), zero, squares.mul_(share.square()))

    def fits(self, share: Tensor, zero: Tensor | None = None) -> Tried:
        """C scales of each row, replaced by the least-squares scales of their assignments.

        With e = t - q, E = sum d e^2, A = sum d e q and B = sum d q^2, the multiple (1 + f) q has
        the error E - 2 f A + f^2 B, least at f = A/B, or at f = -1 where a scale below 0 would be
        better. The nearest values at the new scale have at most this error. The form does not
        cancel, unlike sum d t^2 - (sum d t q)^2 / B.
        """

        def terms(t: Tensor, q: Tensor, other: Tensor) -> Iterator[Tensor]:
            yield torch.mul(t, q, out=other)
            yield torch.mul(t, t, out=t)
            yield torch.mul(q, q, out=q)

        a, e, b = self._sums(share, zero, 3, terms)
        f = (a / b.clamp(min=torch.finfo(b.dtype).tiny)).clamp_(min=-1)
        error = (e - f * (2 * a - f * b)).clamp_(min=0).mul_(share.square())
        return Tried((share * f.add_(1)).clamp_(NOTHING, LARGEST), zero, error)

    def _sums(
        self,
        share: Tensor,
        zero: Tensor | None,
        count: int,
        terms: Callable[[Tensor, Tensor, Tensor], Iterator[Tensor]],
    ) -> Tensor:
        """(count, C, R): weighted sums over each row of the `count` terms of t - q and q."""
        inverse = (share.reciprocal() * self._per_unit).unsqueeze(-1)
        shifts = [None] * len(share) if zero is None else zero.unsqueeze(-1).unbind()
        found = self.x.new_empty(len(share), count, len(self.x))
        scales = list(zip(inverse.unbind(), shifts, found.unbind(), strict=True))
        total, size, n = None, len(self._ones), self.x.shape[-1]
        for first in range(0, n, size):
            # a part of the columns
            x = self.x[:, first : first + size]
            d = None if self.weights is None else self.weights[:, first : first + size]
            t, q, other = (buffer[:, : x.shape[-1]] for buffer in self._buffers)
            ones = self._ones[: x.shape[-1]]

            # each scale of it
            for factor, shift, into in scales:
                torch.mul(x, factor, out=t)
                if shift is not None:
                    t.add_(shift)
                self._nearest(t, q, other)
                t.sub_(q)
                if shift is not None and count > 1:
                    q.sub_(shift)
                for term, target in zip(terms(t, q, other), into, strict=True):
                    torch.mv(term if d is None else term.mul_(d), ones, out=target)

            # the sum of the parts
            if size < n:
                total = found.double() if total is None else total.add_(found)
        return (found if total is None else total.to(self.x.dtype)).transpose(0, 1)


def better(best: Tried, other: Tried) -> Tried:
    """The best of one and of C other scales of each row; of equal ones the first."""
    error, at = other.error.min(0)
    share = other.share.gather(0, at.unsqueeze(0)).squeeze(0)
    wins = error < best.error
    zero = best.zero
    if zero is not None and other.zero is not None:
        own = other.zero.expand_as(other.error).gather(0, at.unsqueeze(0)).squeeze(0)
        zero = torch.where(wins, own, zero)
    return Tried(torch.where(wins, share, best.share), zero, torch.minimum(error, best.error))


def refit(rows: Rows, best: Tried, times: int = 1) -> Tried:
    """The best after nearest values and least-squares scale in turn. Never worse."""
    for _ in range(times):
        zero = None if best.zero is None else best.zero.unsqueeze(0)
        best = better(best, rows.fits(best.share.unsqueeze(0), zero))
    return best


def try_steps(rows: Rows, best: Tried, steps: Tensor) -> Tried:
    """The best, or the best of its neighbours: shares that differ by `steps` (C,), and the same
    zero points."""
    share = (best.share + steps.unsqueeze(-1)).clamp_(NOTHING, LARGEST)
    zero = None if best.zero is None else best.zero.expand_as(share)
    return better(best, rows.errors(share, zero))


def in_chunks(
    x: Tensor, weights: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor | None, Tensor]]:
    """Parts of the rows of x (R, n): where they are, they, their weights, and buffers for
    `Rows`."""
    size = CHUNK if x.device.type == "cpu" else CHUNKS * CHUNK
    rows, width = max(1, size // x.shape[-1]), min(x.shape[-1], size)
    space = x.new_empty(3 * min(rows, len(x)) * width)
    for first in range(0, len(x), rows):
        part = slice(first, first + rows)
        own = x[part]
        buffers = space[: 3 * len(own) * width].view(3, len(own), width)
        yield part, own, None if weights is None else weights[part], buffers

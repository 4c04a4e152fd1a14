"""The multipliers of balls in a metric, and of group norms: a root for each row of an array (rows,
n), all rows at once, in float64.

Both functions are Newton's method from the left on a function for which it never passes the root.
They work on pieces of the array that fit in the cache, and hold no copy of it.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

CHUNK = 2**17  # entries that are worked on at a time
STEPS = 200  # of Newton's method, at most; 5 to 20 are usual
FLAT = 1e-15  # a step that raises the root by a smaller share is the last

Place = tuple[slice, slice]
Pieces = Iterable[tuple[Tensor, Tensor]]
Terms = Callable[[Place], tuple[Tensor, Tensor]]
"""A piece of (rows, n) to two float64 tensors of its shape, which are not written to."""


def row_parts(rows: int, n: int) -> Iterator[slice]:
    """Slices of the rows, each of about CHUNK entries, at least one row."""
    step = max(1, CHUNK // max(1, n))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def pieces(rows: slice, n: int) -> Iterator[Place]:
    """The rows cut along the columns, into pieces of at most about CHUNK entries."""
    step = max(1, CHUNK // (rows.stop - rows.start))
    return ((rows, slice(start, start + step)) for start in range(0, n, step))


def l1_root(terms: Terms, rows: int, n: int, kappa: float, device: torch.device) -> Tensor:
    """The least tau >= 0 at which sum_i max(a_i - tau h_i, 0) is at most kappa, (rows, 1).

    The sum is convex and decreasing in tau, so Newton's method rises from 0 and never passes the
    root: tau becomes (sum of a_i - kappa) / (sum of h_i) over the i that the present tau leaves
    above 0. Their number falls at each step, and tau is exact once it stays.

    Args:
        terms: gives a >= 0 and h > 0 of a piece.
    """

    def step(part: Pieces, tau: Tensor, rows: slice) -> Tensor:
        above = torch.zeros_like(tau)
        weight = torch.zeros_like(tau)
        for a, h in part:
            active = (a > tau * h).double()
            above += torch.linalg.vecdot(a, active).unsqueeze(-1)
            weight += torch.linalg.vecdot(h, active).unsqueeze(-1)
        return (above - kappa) / weight

    return _rise(step, terms, rows, n, device)


def l2_root(terms: Terms, n: int, radius: Tensor) -> Tensor:
    """The least s >= 0 at which ||b / (e + s)|| is at most the row's radius, (rows, 1).

    1 / ||b / (e + s)|| is concave and increases with s (More and Sorensen, SIAM J. Sci. Stat.
    Comput. 4, 1983), so Newton's method on it rises from 0 and never passes the root. s is infinite
    where the radius is 0 and b is not.

    Args:
        terms: gives b and e > 0 of a piece.
        radius: (rows, 1), float64.
    """

    def step(part: Pieces, s: Tensor, rows: slice) -> Tensor:
        square = torch.zeros_like(s)
        slope = torch.zeros_like(s)
        for b, own in part:
            e = own + s
            ratio = (b / e).square_()
            square += ratio.sum(-1, keepdim=True)
            slope += ratio.div_(e).sum(-1, keepdim=True)
        norm, most = square.sqrt(), radius[rows]
        return torch.where(norm > most, s + (norm / most - 1) * (square / slope), s)

    return _rise(step, terms, len(radius), n, radius.device)


def _rise(
    step: Callable[[Pieces, Tensor, slice], Tensor],
    terms: Terms,
    rows: int,
    n: int,
    device: torch.device,
) -> Tensor:
    """Steps from 0 until no row rises any more. The terms of one piece are formed once, those of
    several at each step."""
    found = torch.zeros(rows, 1, dtype=torch.float64, device=device)
    for part in row_parts(rows, n):
        root = found[part]
        held = [terms((part, slice(0, n)))] if n * len(root) <= CHUNK else None
        for _ in range(STEPS):
            own = (terms(place) for place in pieces(part, n)) if held is None else held
            higher = step(own, root, part)
            rises = higher > root * (1 + FLAT)  # False where a row without entries gives NaN
            if not bool(rises.any()):
                break
            root.copy_(torch.where(rises, higher, root))
    return found

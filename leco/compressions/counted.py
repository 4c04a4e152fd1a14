"""The search for a limit of the estimated cost at which the counted cost meets its own limit: a
pure function over `limit -> point`.

The count is nearly an affine function of the estimate: what a Theta takes in any case, and about
the estimate. The search is a secant method in a bracket of two limits of the estimate.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from leco.compressions.prices import Priced

COUNTS = 16  # at most so many limits of the estimate
NEAR = 0.01  # share of what can be spent that may be left over
AIM = NEAR / 2  # share of what can be spent that the search aims to leave over
WIDTH = 1e-3  # of the bracket, as a share of what is spent, below which the search stops

P = TypeVar("P", bound=Priced)


class Counted(NamedTuple, Generic[P]):
    """A point, and its counted cost."""

    point: P
    cost: float


def counted(
    within: Callable[[float], P],
    count: Callable[[P], float],
    limit: float,
    least: Counted[P],
    free: Counted[P],
) -> P:
    """Return the point of least loss whose count is at most `limit`, among those found.

    Args:
        within: a limit of the estimated cost to the best point whose estimated cost, its total, is
            at most that.
        count: of a point.
        limit: of the count.
        least: the point of least cost; its count must be at most `limit`.
        free: the point at the price 0; its count must exceed `limit`.
    """
    best, before, last = least.point, None, least
    floor, room = least.point.total, limit - least.cost
    low, high = floor, free.point.total
    for _ in range(COUNTS):
        # a limit of the estimate, and its point
        inner = proposed(limit - AIM * room, before, last, low, high)
        before, last = last, Counted(within(inner), 0.0)
        last = last._replace(cost=count(last.point))

        # the bracket; every limit from a point's total up to `inner` has this point
        if last.cost <= limit:
            best = min(best, last.point, key=lambda point: point.loss)
            low = max(low, inner)
        else:
            high = min(high, last.point.total)

        near = limit - NEAR * room <= last.cost <= limit
        if near or high - low <= WIDTH * (high - floor):
            break
    return best


def proposed(
    aim: float, before: Counted[P] | None, last: Counted[P], low: float, high: float
) -> float:
    """The zero of count - aim on the line through the last two points (total, count), of slope 1
    where there is one only; the middle of the bracket where that is not inside it."""
    slope = 1.0 if before is None else _slope(before, last)
    inner = last.point.total + (aim - last.cost) / slope if slope > 0 else low
    return inner if low < inner < high else (low + high) / 2


def _slope(before: Counted[P], last: Counted[P]) -> float:
    """Of the count by the total; 0 where both points have one total."""
    step = last.point.total - before.point.total
    return (last.cost - before.cost) / step if step else 0.0

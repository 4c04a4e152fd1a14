"""The search for the price at which the cost of a C step meets a limit: pure functions over
`price -> point`.

The problem is min over points of loss + price * total. Its solutions at all prices are the points
on the lower convex hull of (total, loss): as the price rises, the total falls and the loss rises
(Everett, Operations Research 11, 1963; Shoham and Gersho, IEEE Trans. ASSP 36, 1988). The search
keeps a bracket of two prices: the total exceeds the limit at the low one and keeps it at the high
one. Prices stand by their logarithms, as they range over many powers of ten.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

SLACK = 1e-3  # share of the limit that may be left over
WIDTH = 1e-4  # of the bracket, in log price, below which the search stops
SAME = 1e-9  # relative difference of two objectives that is rounding
TRIALS = 60  # at most so many prices
FLOOR = 60  # log of the ratio between the first price and the low end of the first bracket
STEP = math.log(16)  # the first growing step
UNKNOWN = math.nan


class Priced(Protocol):
    """What the search sees of a point."""

    @property
    def total(self) -> float: ...

    @property
    def loss(self) -> float: ...


P = TypeVar("P", bound=Priced)


@dataclass(frozen=True)
class Found(Generic[P]):
    """The result of a search.

    Attributes:
        price: the least price tried whose point keeps the limit.
        point: the point of least loss among those found that keep the limit.
        below: the greatest price tried whose point exceeds the limit; 0 where no price's does.
        over: the point at `below`, or `point` where none exceeds the limit.
    """

    price: float
    point: P
    below: float
    over: P


class End(NamedTuple):
    """One end of a bracket: a price with its point (None: no price tried is an end on this
    side)."""

    log_price: float
    point: Any


class Trial(NamedTuple):
    """A price that was tried, and log(total / aim) of its point."""

    log_price: float
    excess: float


class Proposal(NamedTuple):
    """The next price to try. `level`: the objective of both ends at that price, where it was chosen
    for that; else NaN."""

    log_price: float
    level: float = UNKNOWN


@dataclass(frozen=True)
class State(Generic[P]):
    """Where a search stands.

    Attributes:
        low: the greatest price whose point exceeds the limit. Before there is one, its price is
            that of the first bracket.
        high: the least price whose point keeps the limit, with the best point that keeps it.
        first: the log prices of the first bracket.
        step: the next growing step.
        last, before: the last price tried, and the one before it.
        proposal: the next price to try.
    """

    low: End
    high: End
    first: tuple[float, float]
    step: float
    last: Trial
    before: Trial
    proposal: Proposal


def spent(point: Priced, limit: float) -> bool:
    """Whether a point leaves at most `SLACK` of the limit over."""
    return limit - point.total <= SLACK * limit


def objective(point: Priced, price: float) -> float:
    """loss + price * total."""
    return point.loss + price * point.total


def search(
    at: Callable[[float], P], limit: float, guess: float, ceiling: float, top: P
) -> Found[P]:
    """Return the point of least loss whose total is at most `limit`, among the solutions of min
    loss + price * total at the prices tried.

    Where `at` is exact, the result is a point on the lower convex hull, and no point of the hull
    between it and the limit is left out (but for `SLACK`, `WIDTH` and `SAME`). The result keeps
    the limit, and is never worse than `top`, for any `at`.

    Args:
        at: a price to the solution at it, exact or a descent step's.
        limit: of the total.
        guess: the first price to try.
        ceiling: the highest price.
        top: the point at `ceiling`; it must keep the limit.
    """
    state = _started(guess, ceiling, top)
    for _ in range(TRIALS):
        price = math.exp(state.proposal.log_price)
        point = at(price)
        state = _narrowed(state, point, limit)

        # a limit that binds at no price
        if point.total <= limit and state.low.point is None:
            free = at(0.0)
            if free.total <= limit:
                return Found(0.0, free, 0.0, free)
            state = replace(state, low=state.low._replace(point=free))

        if _finished(state, limit, objective(point, price)):
            break
        state = _with_next(state, point, limit * (1 - SLACK / 2))
    high, low = state.high, state.low
    over = high.point if low.point is None else low.point
    return Found(math.exp(high.log_price), high.point, math.exp(low.log_price), over)


def _started(guess: float, ceiling: float, top: P) -> State[P]:
    """The first bracket, from far below the guess to the ceiling, with the guess as proposal."""
    first = math.log(guess) - FLOOR, math.log(ceiling)
    near = ceiling < 2 * guess
    return State(
        low=End(first[0], None),
        high=End(first[1], top),
        first=first,
        step=math.log(ceiling / guess) / 2 if near else STEP,
        last=Trial(UNKNOWN, UNKNOWN),
        before=Trial(UNKNOWN, UNKNOWN),
        proposal=Proposal(math.log(guess)),
    )


def _narrowed(state: State[P], point: P, limit: float) -> State[P]:
    """The tried price becomes the end of the bracket on its side. A descent step's point may be
    worse than the best one that keeps the limit, which then stays."""
    log_price = state.proposal.log_price
    if point.total > limit:
        return replace(state, low=End(log_price, point))
    best = state.high.point
    return replace(state, high=End(log_price, point if point.loss <= best.loss else best))


def _finished(state: State[P], limit: float, reached: float) -> bool:
    """Whether another price is not worth a C step. `reached`: the objective at the tried price."""
    level = state.proposal.level
    nothing_left = spent(state.high.point, limit)
    same_price = state.high.log_price - state.low.log_price < WIDTH
    # the solution is no lower than the line through both ends: no point of the hull lies between
    same_edge = level - reached <= SAME * level
    return nothing_left or same_price or same_edge


def _with_next(state: State[P], point: P, aim: float) -> State[P]:
    """The state with the next price: by growing steps until both ends were tried, then by equal
    objectives after a trial that brought the total no nearer, else by the secant; in the middle
    where the rule's price is not inside the bracket."""
    excess = math.log(point.total / aim) if aim and point.total else -math.inf
    last, before = Trial(state.proposal.log_price, excess), state.last
    was_level = not math.isnan(state.proposal.level)
    state = replace(state, last=last, before=before)

    # the first rule whose condition holds
    grown = growing(state)
    if grown is not None:
        return replace(state, proposal=grown, step=2 * state.step)
    nearer = abs(last.excess) < abs(before.excess) / 2
    proposal = None if nearer or was_level else equal_objectives(state)
    if proposal is None:
        proposal = secant(state)

    # a price inside the bracket that was not just tried
    low, high = state.low.log_price, state.high.log_price
    if (
        proposal is None
        or not low < proposal.log_price < high
        or proposal.log_price == last.log_price
    ):
        proposal = middle(state)
    return replace(state, proposal=proposal)


def growing(state: State[Any]) -> Proposal | None:
    """A step beyond the end that was tried, towards the end that was not; each step is twice the
    last. None where both ends were tried."""
    low, high, step = state.low.log_price, state.high.log_price, state.step
    if low == state.first[0]:
        return Proposal(high - step)
    if high == state.first[1] and low + step < high:
        return Proposal(low + step)
    return None


def secant(state: State[Any]) -> Proposal | None:
    """The zero of the line through the last two trials (log price, log(total / aim)):

        log price - excess (log price - log price') / (excess - excess').

    None where that line does not fall.
    """
    last, before = state.last, state.before
    slope = (last.excess - before.excess) / (last.log_price - before.log_price)
    return Proposal(last.log_price - last.excess / slope) if slope < 0 else None


def equal_objectives(state: State[Any]) -> Proposal | None:
    """The price at which both ends have the same objective, the slope of the line through them:

        price = (loss_high - loss_low) / (total_low - total_high).

    If the solution there is no lower, no point of the hull lies between the ends (Shoham and
    Gersho, 1988, section IV). None where the slope is not positive.
    """
    low, high = state.low.point, state.high.point
    price = (high.loss - low.loss) / (low.total - high.total)
    return Proposal(math.log(price), objective(high, price)) if price > 0 else None


def middle(state: State[Any]) -> Proposal:
    """The middle of the bracket, in log price."""
    return Proposal((state.low.log_price + state.high.log_price) / 2)

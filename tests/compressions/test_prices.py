"""The search for a price, against brute force on toy curves of cost and loss."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from leco.compressions.prices import (
    SLACK,
    End,
    Proposal,
    State,
    Trial,
    equal_objectives,
    growing,
    search,
    secant,
)

CEILING = 1e9


class Toy(NamedTuple):
    total: float
    loss: float


def solver(points: list[Toy], tried: list[float]) -> Callable[[float], Toy]:
    def at(price: float) -> Toy:
        tried.append(price)
        return min(points, key=lambda p: (p.loss + price * p.total, p.total))

    return at


def convex(draw: random.Random) -> list[Toy]:
    """Points that all stand on their hull."""
    slopes = sorted((10 ** draw.uniform(-3, 3) for _ in range(draw.randint(2, 40))), reverse=True)
    points = [Toy(1.0, 3 * sum(slopes) + 1)]
    for slope in slopes:
        cost = draw.uniform(0.5, 1.5)
        points.append(Toy(points[-1].total + cost, points[-1].loss - slope * cost))
    return points


def scattered(draw: random.Random) -> list[Toy]:
    count = draw.randint(2, 40)
    return [Toy(1.0, 1e4)] + [
        Toy(1 + 99 * draw.random(), 10 ** draw.uniform(-3, 3)) for _ in range(count)
    ]


def best_on_hull(points: list[Toy], limit: float) -> float:
    """The least loss of a point on the lower hull that keeps the limit, by all pairs."""

    def above(p: Toy) -> bool:
        return any(
            a.total < p.total < b.total
            and p.loss
            > a.loss + (b.loss - a.loss) * (p.total - a.total) / (b.total - a.total) + 1e-12
            for a in points
            for b in points
        ) or any(q.total <= p.total and q.loss < p.loss for q in points)

    return min(p.loss for p in points if p.total <= limit and not above(p))


@pytest.mark.parametrize("curve", [convex, scattered])
def test_the_hull_point_next_to_the_limit_is_found(curve):
    trials = 0
    for seed in range(200):
        draw = random.Random(seed)
        points, tried = curve(draw), []
        limit = draw.uniform(1, max(p.total for p in points) * 1.1)
        found = search(solver(points, tried), limit, 10 ** draw.uniform(-4, 4), CEILING, points[0])
        assert found.point.total <= limit
        within = best_on_hull(points, limit * (1 - SLACK)), best_on_hull(points, limit)
        assert within[1] <= found.point.loss <= within[0]
        trials += len(tried)
    assert trials < 200 * 12


@pytest.mark.parametrize("wrong", [0.1, 0.5, 1.0])
def test_any_solver_keeps_the_limit_and_is_no_worse_than_the_top(wrong):
    """A descent step's points need not be solutions."""
    for seed in range(200):
        draw = random.Random(seed)
        points, tried = scattered(draw), []
        exact = solver(points, tried)

        def at(price: float, draw=draw, points=points, exact=exact) -> Toy:
            return draw.choice(points) if draw.random() < wrong else exact(price)

        limit = draw.uniform(1, 100)
        found = search(at, limit, 1.0, CEILING, points[0])
        assert found.point.total <= limit
        assert found.point.loss <= points[0].loss


def test_a_limit_that_binds_nowhere_has_price_0():
    points = [Toy(1, 10), Toy(5, 1)]
    found = search(solver(points, []), 5, 1.0, CEILING, points[0])
    assert (found.price, found.point) == (0.0, points[1])


def state(low: End, high: End, last: Trial, before: Trial) -> State[Toy]:
    return State(low, high, (-60.0, 20.0), 2.0, last, before, Proposal(0.0))


def test_each_rule_gives_the_price_of_its_formula():
    both = state(End(1.0, Toy(8, 2)), End(3.0, Toy(4, 10)), Trial(3.0, -0.5), Trial(1.0, 1.5))
    assert growing(both) is None
    assert secant(both) == Proposal(2.5)  # 3 - 0.5 * 2 / 2
    level = equal_objectives(both)
    assert level is not None
    assert level.level == pytest.approx(10 + 2 * 4)  # at the price (10 - 2) / (8 - 4)
    untried = state(End(-60.0, None), End(3.0, Toy(4, 10)), Trial(3.0, -0.5), Trial(1.0, 1.5))
    assert growing(untried) == Proposal(1.0)
    untried = state(End(3.0, Toy(8, 2)), End(20.0, Toy(4, 10)), Trial(3.0, 0.5), Trial(1.0, 1.5))
    assert growing(untried) == Proposal(5.0)

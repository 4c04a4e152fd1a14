"""A budget whose limit holds for the counted cost of Theta, not for its estimate."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import leco
from leco import (
    Budget,
    EntropyCodebook,
    L0Penalty,
    Matrix,
    Part,
    RankSelection,
    Vector,
    coded_bytes,
)
from leco.compressions.counted import Counted, counted

MU = 1.0
SHAPES = (40, 50), (30, 20), (500,)


def blocks_of(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float32) for shape in SHAPES)


def members() -> tuple[Part, ...]:
    return (
        Part(Vector(), EntropyCodebook(0, k=8), (0,), 1 / 8),
        Part(Matrix(), RankSelection(0), (1,), 4),
        Part(Vector(), L0Penalty(0), (2,), 4.5),
    )


class Spent(NamedTuple):
    """A point of a search without Thetas."""

    total: float
    loss: float


@pytest.mark.parametrize("beside", [0.0, 30.0, 1e6])
@pytest.mark.parametrize("per", [0.2, 1.0, 5.0])
def test_the_count_is_met_in_few_trials_whatever_is_beside_it(beside, per):
    """The count is an affine function of the estimate, or nearly one."""
    for bend in (0.0, 0.3, -0.3):
        asked = list[float]()

        def within(limit: float, asked: list[float] = asked) -> Spent:
            asked.append(limit)
            return Spent(limit, -limit)

        def count(point: Spent, bend: float = bend) -> float:
            share = point.total / 1000
            return beside + per * 1000 * share * (1 + bend * (1 - share))

        for share in (0.01, 0.3, 0.9):
            asked.clear()
            least, free = (Counted(p, count(p)) for p in (Spent(0, 0), Spent(1000, -1000)))
            limit = beside + per * 1000 * share
            found = count(counted(within, count, limit, least, free))
            assert beside + 0.99 * per * 1000 * share <= found <= limit
            assert len(asked) <= 7


def test_a_step_of_the_count_ends_at_its_foot():
    """Items of 100 each: the point below the limit, in a bracket that closes in few trials."""
    asked = list[float]()

    def within(limit: float) -> Spent:
        asked.append(limit)
        return Spent(limit // 100 * 100, -(limit // 100))

    ends = [Counted(p, p.total) for p in (Spent(0, 0), Spent(1000, -10))]
    assert counted(within, lambda p: p.total, 350.0, *ends).total == 300
    assert len(asked) <= 11


def test_coded_bytes_never_exceed_the_limit():
    """One rank takes 200 bytes, so that up to so much may be left over."""
    over, shares = 0, []
    for seed in range(2):
        x = blocks_of(seed)
        for limit in (250, 600, 1000, 2500):
            estimated = Budget(members(), limit).compress(x, MU)
            over += leco.bits(estimated) / 8 > limit
            theta = Budget(members(), limit, coded_bytes).compress(x, MU)
            assert limit - 200 <= leco.bits(theta) / 8 <= limit
            shares.append(leco.bits(theta) / 8 / limit)
    assert sum(shares) / len(shares) > 0.97
    assert over > 0  # the estimate alone does not keep it


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_unit_that_is_wrong_by_a_factor_does_not_matter(factor):
    x, limit = blocks_of(0), 1000
    wrong = tuple(
        Part(part.view, part.compression, part.at, part.unit * factor) for part in members()
    )
    theta = Budget(wrong, limit, coded_bytes).compress(x, MU)
    assert 0.95 * limit <= coded_bytes(theta) <= limit


def test_usage_is_the_count():
    budget = Budget(members(), 1000, coded_bytes)
    theta = budget.compress(blocks_of(1), MU)
    assert budget.usage(theta) == leco.bits(theta) / 8


def test_a_last_theta_above_the_limit_is_not_kept():
    x = blocks_of(2)
    start = Budget(members(), 1200, coded_bytes).compress(x, MU)
    budget = Budget(members(), 800, coded_bytes)
    assert coded_bytes(budget.compress(x, MU, start)) <= 800
    again = budget.compress(x, MU, budget.compress(x, MU))
    assert coded_bytes(again) <= 800


def test_everything_fits():
    x = blocks_of(3)
    kept = (Part(Vector(), L0Penalty(0), None, 5),)
    counts = []

    def counted(theta) -> float:
        counts.append(coded_bytes(theta))
        return counts[-1]

    theta = Budget(kept, 1e6, counted).compress(x, MU)
    assert len(counts) <= 3  # the least, twice, and everything
    assert all(torch.equal(a, b) for a, b in zip(theta.decompress(), x, strict=True))


def test_a_limit_below_the_least_count_is_named():
    budget = Budget(members(), 10, lambda theta: 50 + coded_bytes(theta))
    with pytest.raises(ValueError, match="limit = 10 must be at least 50"):
        budget.compress(blocks_of(0), MU)


def test_a_count_that_is_no_function_is_named():
    with pytest.raises(TypeError, match="count = 'bytes' must be a function of Theta"):
        Budget(members(), 1000, "bytes")  # pyright: ignore[reportArgumentType]

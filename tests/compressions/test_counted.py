"""A budget whose limit holds for the counted cost of Theta, not for its estimate."""

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


def test_coded_bytes_never_exceed_the_limit():
    """One rank takes 200 bytes, so that up to so much may be left over."""
    over, shares = 0, []
    for seed in range(4):
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

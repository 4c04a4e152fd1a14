"""`Budget` in a metric against all combinations of tiny members."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import leco
from leco.compressions import Budget, Choice, Part, RankSelection
from leco.compressions.protocol import Penalty
from leco.theta import Dense
from leco.views import Blocks, Matrix, Vector

MU = 0.7
SHAPES = (6,), (3, 2), (4,)


@dataclass(frozen=True)
class Kept(Penalty[Dense]):
    """The entries with mu_i/2 x_i^2 above alpha; the others are 0."""

    takes_metric: ClassVar[bool] = True

    alpha: float

    def usage(self, theta: Dense) -> float:
        return float(theta.decompress().count_nonzero())

    def family(self, x: Tensor, mu: Any, theta: Dense | None = None) -> Callable[[float], Dense]:
        gain = mu / 2 * x.square()
        return lambda alpha: Dense(torch.where(gain > alpha, x, 0.0))


MEMBERS = (
    Part(Vector(), Kept(0), (0,), 3),
    Part(Vector(), Kept(0), (1,), 2, 1.5),
    Part(Vector(), Choice(0, [Part(Vector(), Kept(0), unit=2.5)]), (2,)),
)


def drawn(seed: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Blocks and their metric, over two powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    x = tuple(torch.randn(shape, **draw) for shape in SHAPES)
    return x, tuple(10 ** (2 * torch.rand(shape, **draw) - 1) for shape in SHAPES)


def loss(x: tuple[Tensor, ...], d: tuple[Tensor, ...], theta: Any) -> float:
    """The weighed distortion, each block with the square of its part's weight."""
    triples = zip(x, d, theta.decompress(), MEMBERS, strict=True)
    return sum(
        part.weight**2 * float((MU * m / 2 * (a - b).square()).sum()) for a, m, b, part in triples
    )


def points(x: tuple[Tensor, ...], d: tuple[Tensor, ...]) -> list[tuple[float, float]]:
    """(cost, loss) of every number of kept entries of each block, the best ones first."""
    menus = []
    for block, m, part, unit in zip(x, d, MEMBERS, (3, 2, 2.5), strict=True):
        gains = (part.weight**2 * MU * m / 2 * block.square()).flatten().sort().values
        tails = [0.0, *gains.cumsum(0).tolist()]
        menus.append([(unit * k, tails[len(gains) - k]) for k in range(len(gains) + 1)])
    sums = itertools.product(*menus)
    return [(sum(c for c, _ in chosen), sum(e for _, e in chosen)) for chosen in sums]


def hull(every: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points with the least loss + price cost at some price of a fine grid."""
    prices = torch.logspace(-6, 3, 4000, dtype=torch.float64)
    table = torch.tensor(every, dtype=torch.float64)
    best = (table[:, 1] + prices[:, None] * table[:, 0]).argmin(1).unique()
    return [every[k] for k in best.tolist()]


@pytest.mark.parametrize("seed", range(5))
def test_against_all_combinations(seed):
    x, d = drawn(seed)
    mu, every = tuple(MU * m for m in d), points(x, d)
    for limit in (0, 2, 7.5, 13, 20, 29.5, 39, 100):
        budget = Budget(MEMBERS, limit)
        theta = budget.compress(x, mu)
        cost, reached = budget.usage(theta), loss(x, d, theta)
        assert cost <= limit
        assert any(
            c == cost and reached == pytest.approx(e, rel=1e-9, abs=1e-12) for c, e in every
        ), "not a combination of its own cost"
        assert not any(c <= cost and e < reached * (1 - 1e-9) - 1e-12 for c, e in hull(every))


def test_every_point_of_the_hull_is_found():
    x, d = drawn(7)
    for cost, least in hull(points(x, d)):
        budget = Budget(MEMBERS, cost)
        theta = budget.compress(x, tuple(MU * m for m in d))
        assert budget.usage(theta) == cost
        assert loss(x, d, theta) == pytest.approx(least, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("counting", [None, lambda theta: 5 + Budget(MEMBERS, 0).usage(theta)])
def test_the_choice_that_is_not_weighed_is_worse(counting):
    better = 0
    for seed in range(10):
        x, d = drawn(seed)
        budget = Budget(MEMBERS, 20, counting)
        mu = tuple(MU * m for m in d)
        plain, weighed = budget.compress(x, MU), budget.compress(x, mu)
        assert budget.usage(weighed) <= 20
        assert loss(x, d, weighed) <= loss(x, d, plain) * (1 + 1e-9)
        better += loss(x, d, weighed) < 0.8 * loss(x, d, plain)
    assert better >= 5


@pytest.mark.parametrize("limit", [0, 13, 30])
def test_a_constant_metric_is_none(limit):
    x, _ = drawn(3)
    budget = Budget(MEMBERS, limit)
    ones = tuple(torch.full_like(block, MU) for block in x)
    plain = budget.compress(x, MU)
    for theta in (budget.compress(x, ones), budget.c_step(x, ones)):
        for a, b in zip(plain.decompress(), theta.decompress(), strict=True):
            assert torch.equal(a, b)


def test_a_warm_start_is_never_worse():
    for seed in range(5):
        x, d = drawn(seed)
        mu, budget = tuple(MU * m for m in d), Budget(MEMBERS, 17)
        start = budget.compress(x, MU)
        assert loss(x, d, budget.compress(x, mu, start)) <= loss(x, d, start) * (1 + 1e-12)


def test_a_start_that_is_better_in_the_metric_only_is_kept():
    """One of two entries fits, and no price buys the second alone."""
    x, d = torch.tensor([1.0, 1.1], dtype=torch.float64), torch.tensor([9.0, 1.0]).double()
    budget = Budget((Part(Vector(), Kept(0)),), 1)
    start: Any = budget.compress(x, MU)
    thetas: Any = budget.compress(x, MU * d), budget.compress(x, MU * d, start)
    assert start.decompress().tolist() == [0.0, 1.1]
    assert [theta.decompress().tolist() for theta in thetas] == [[1.0, 0.0], [1.0, 0.0]]


def test_members_that_take_no_metric_are_named():
    class Plain(Kept):
        takes_metric: ClassVar[bool] = False

    budget = Budget((Part(Vector(), Kept(0), (0,)), Part(Vector(), Plain(0), (1,))), 5)
    x = torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    mu = tuple(torch.rand_like(block) + 1 for block in x)
    budget.compress(x, MU)
    with pytest.raises(ValueError, match="Plain: the C step takes one mu for all weights"):
        budget.compress(x, mu)


def test_through_the_algorithm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    parts = tuple(Part(Vector(), Kept(0), (b,)) for b in range(2))
    names = ("0.weight", "1.weight")
    metric = {name: torch.rand_like(net.get_parameter(name)) + 0.1 for name in names}
    tasks = {"all": leco.Task(names, Blocks(), Budget(parts, 12))}
    lc = leco.LC(net, tasks, metric=metric)
    lc.mu = 1.0
    gains = torch.cat([(metric[n] * net.get_parameter(n).square()).flatten() for n in names])
    kept = torch.cat([lc.delta[n].flatten() for n in names]) != 0
    assert int(kept.sum()) == 12
    assert float(gains[kept].detach().min()) >= float(gains[~kept].detach().max())


@pytest.mark.parametrize("seed", range(3))
def test_ranks_in_a_metric_descend_from_the_first_search(seed):
    """The C step of a rank is a descent step in a metric: one search is far from where it ends."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    x = torch.randn(7, 5, **draw)
    mu = torch.exp2(3 * torch.randn(7, 5, **draw)).clamp(1e-3, 1e3)
    budget = Budget((Part(Matrix(), RankSelection(0, lambda shape, r: r * sum(shape))),), 24)

    def reached(theta: Any) -> float:
        return float((mu / 2 * (x - theta.decompress()).square()).sum())

    found = budget.compress(x, mu)
    assert budget.usage(found) == 24
    assert reached(found) < 0.7 * reached(budget.compress(x, 1.0))
    assert reached(budget.compress(x, mu, found)) <= reached(found)


def test_a_last_theta_makes_one_search_enough(monkeypatch: pytest.MonkeyPatch):
    searches, search = [], Budget._search
    monkeypatch.setattr(Budget, "_search", lambda *args: searches.append(1) or search(*args))
    x, d = drawn(0)
    mu, budget = tuple(MU * m for m in d), Budget(MEMBERS, 17)
    start = budget.compress(x, mu)
    assert len(searches) == 2
    budget.compress(x, mu, start)
    assert len(searches) == 3

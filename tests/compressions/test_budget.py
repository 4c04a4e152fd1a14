"""`Budget` and `Choice` against all combinations of tiny members, and through `LC`."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leco
from leco.compressions import (
    Binary,
    Budget,
    Choice,
    Codebook,
    ConvRankSelection,
    EntropyCodebook,
    L0Penalty,
    LowRank,
    Part,
    RankSelection,
    TopK,
    Uncompressed,
    each_part,
)
from leco.compressions.points import Point
from leco.compressions.prices import search
from leco.theta import Sum, Term
from leco.views import Blocks, Groups, Kernel, Matrix, Vector

MU = 0.7
RANK_UNIT, KEPT_UNIT = 4, 5
SHAPES = (5, 4), (7,), (3, 6)
MEMBERS = (
    Part(Matrix(), RankSelection(3.0), (0,), RANK_UNIT),
    Part(Vector(), L0Penalty(3.0), (1,), KEPT_UNIT),
    Part(Matrix(), RankSelection(3.0), (2,), RANK_UNIT),
)


def drawn(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def distortion(x: Any, theta: Any) -> float:
    delta = theta.decompress()
    pairs = [(x, delta)] if isinstance(x, Tensor) else zip(x, delta, strict=True)
    return sum(float((a - b).square().sum()) for a, b in pairs)


def rank_points(x: Tensor) -> list[tuple[float, float]]:
    """(cost, distortion) of every rank."""
    m, n = x.shape
    tails = [*torch.linalg.svdvals(x).square().flip(0).cumsum(0).flip(0).tolist(), 0.0]
    return [(RANK_UNIT * min(r * (m + n), m * n), tail) for r, tail in enumerate(tails)]


def kept_points(x: Tensor) -> list[tuple[float, float]]:
    """(cost, distortion) of every number of kept weights."""
    tails = [0.0, *x.square().sort().values.cumsum(0).tolist()]
    return [(KEPT_UNIT * kept, tails[len(x) - kept]) for kept in range(len(x) + 1)]


def combinations(x: tuple[Tensor, ...]) -> list[tuple[float, float]]:
    members = rank_points(x[0]), kept_points(x[1]), rank_points(x[2])
    return [
        (sum(c for c, _ in points), sum(d for _, d in points))
        for points in itertools.product(*members)
    ]


# --- the budget


@pytest.mark.parametrize("limit", [0, 3, 5, 36, 50, 77, 100, 120.5, 150, 186, 187, 1000])
def test_against_all_combinations(limit):
    for _ in range(5):
        x = drawn()
        points = combinations(x)
        theta = Budget(MEMBERS, limit).compress(x, MU)
        cost, reached = Budget(MEMBERS, limit).usage(theta), distortion(x, theta)
        assert cost <= limit
        assert any(
            math.isclose(cost, c) and math.isclose(reached, d, abs_tol=1e-9) for c, d in points
        ), "not a combination of its own cost"
        assert not any(c <= cost and d < reached - 1e-9 for c, d in hull(points)), (
            "a price finds less distortion at no more cost"
        )


def hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of (cost, distortion), by increasing cost, decreasing distortion."""

    def above(p: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> bool:
        return (p[1] - a[1]) * (b[0] - a[0]) >= (b[1] - a[1]) * (p[0] - a[0])

    corners: list[tuple[float, float]] = []
    for c, d in sorted(points):
        if corners and (c == corners[-1][0] or d >= corners[-1][1]):
            continue
        while len(corners) > 1 and above(corners[-1], corners[-2], (c, d)):
            corners.pop()
        corners.append((c, d))
    return corners


def test_every_point_of_the_hull_is_found_exactly():
    for _ in range(5):
        x = drawn()
        for cost, least in hull(combinations(x)):
            theta = Budget(MEMBERS, cost).compress(x, MU)
            assert math.isclose(Budget(MEMBERS, cost).usage(theta), cost)
            assert math.isclose(distortion(x, theta), least, rel_tol=1e-9, abs_tol=1e-9)


def test_the_gap_to_the_best_combination_is_less_than_one_item():
    """Between two neighbours of the hull, the best combination lies above their line, and what is
    found not above the dearer one."""
    for limit in torch.arange(0.0, 190.0, 3.7).tolist():
        x = drawn()
        points = combinations(x)
        corners = hull(points)
        below = [(c, d) for c, d in corners if c <= limit]
        reached = distortion(x, Budget(MEMBERS, limit).compress(x, MU))
        assert reached <= below[-1][1] + 1e-9
        if len(below) < len(corners):
            (c0, d0), (c1, d1) = below[-1], corners[len(below)]
            item = d0 - d1
            assert (
                reached
                <= min(d for c, d in points if c <= limit) + item * (limit - c0) / (c1 - c0) + 1e-9
            )


def test_what_is_left_over_is_spent():
    """The next rank does not fit: two of the weights in the other block do, though each lowers the
    distortion by less for its cost."""
    x = (
        torch.diag(torch.tensor([9.0, 8.0, 7.0, 6.0], dtype=torch.float64)),
        torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64),
    )
    budget = Budget(
        (
            Part(Matrix(), RankSelection(0, lambda shape, r: 8 * r), (0,)),
            Part(Vector(), L0Penalty(0), (1,)),
        ),
        18,
    )
    theta = budget.compress(x, MU)
    assert theta.terms[0].theta.u.shape[1] == 2
    assert theta.terms[1].theta.decompress().tolist() == [0.5, 0.4, 0.0]
    assert budget.usage(theta) == 18


def test_equal_to_a_joint_top_k():
    """One price for all weights is what a joint pruning has: the two are one set."""
    x = drawn(((40,), (6, 5), (30,)))
    theta = Budget(each_part(Vector(), L0Penalty(0), range(3)), 25).compress(x, MU)
    joint = TopK(25).compress(torch.cat([block.flatten() for block in x]), MU).decompress()
    assert torch.equal(torch.cat([block.flatten() for block in theta.decompress()]), joint)


def test_a_larger_limit_is_never_worse():
    x, last = drawn(), math.inf
    for limit in range(0, 200, 6):
        reached = distortion(x, Budget(MEMBERS, limit).compress(x, MU))
        assert reached <= last + 1e-9
        last = reached
    assert last < 1e-20


def test_mu_does_not_matter():
    x = drawn()
    one, other = (Budget(MEMBERS, 100).compress(x, mu).decompress() for mu in (1e-4, 1e5))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e12])
def test_any_scale_is_feasible(scale):
    x = tuple(scale * block for block in drawn())
    assert Budget(MEMBERS, 80).usage(Budget(MEMBERS, 80).compress(x, MU)) <= 80
    small = tuple(block.float() for block in x)
    assert Budget(MEMBERS, 80).usage(Budget(MEMBERS, 80).compress(small, MU)) <= 80


def test_nothing_is_compressed_where_everything_fits():
    x = drawn()
    x[1][0] = 1e-60
    assert all(
        torch.equal(a, b)
        for a, b in zip(Budget(MEMBERS, 1e9).compress(x, MU).decompress(), x, strict=True)
    )


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_the_unit_of_the_limit_is_the_callers(unit):
    """Seconds, bytes or multiply-adds: the same Theta."""
    x = drawn()
    members = tuple(
        Part(part.view, part.compression, part.at, part.unit * unit) for part in MEMBERS
    )
    theta, expected = (
        Budget(members, 100 * unit).compress(x, MU),
        Budget(MEMBERS, 100).compress(x, MU),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(theta.decompress(), expected.decompress(), strict=True)
    )
    assert math.isclose(
        Budget(members, 100 * unit).usage(theta), unit * Budget(MEMBERS, 100).usage(expected)
    )


def table_member(least: float) -> tuple[Part, ...]:
    seconds = leco.Table([least, least + 0.1, least + 0.2])
    return Part(Matrix(), RankSelection(0, seconds), (0,)), Part(Vector(), L0Penalty(0), (1,), 0.01)


def test_a_limit_below_the_least_cost_is_named():
    budget = Budget(table_member(0.5), 0.4)
    message = r"^Budget: limit = 0\.4 must be at least 0\.5, the least that the members can cost$"
    with pytest.raises(ValueError, match=message):
        budget.check((torch.Size((2, 3)), torch.Size((4,))))
    with pytest.raises(ValueError, match=message):
        budget.compress(drawn(((2, 3), (4,))), MU)


def test_the_least_cost_is_a_limit_that_is_kept():
    x = drawn(((2, 3), (4,)))
    budget = Budget(table_member(0.5), 0.5)
    budget.check((torch.Size((2, 3)), torch.Size((4,))))
    assert budget.usage(budget.compress(x, MU)) == 0.5


def test_limit_0_leaves_nothing():
    assert all(not block.any() for block in Budget(MEMBERS, 0).compress(drawn(), MU).decompress())


def test_a_descent_step_as_a_member_keeps_the_limit():
    x = drawn(((60,), (12, 8)))
    for limit in (0, 60, 1000):
        budget = Budget(
            (
                Part(Vector(), EntropyCodebook(0, k=7), (0,), 1 / 8),
                Part(Matrix(), RankSelection(0), (1,), 4),
            ),
            limit,
        )
        theta = budget.compress(x, MU)
        assert budget.usage(theta) <= limit
        assert distortion(x, budget.compress(x, MU, theta)) <= distortion(x, theta) * (1 + 1e-9)


def test_the_price_is_found_in_few_c_steps(monkeypatch: pytest.MonkeyPatch):
    """Of a descent step, whose cost jumps: the mean is 13, and 22 where the bracket is halved in
    turn."""
    calls, family = [], EntropyCodebook.family

    def counted(self: EntropyCodebook, *args: Any) -> Any:
        found = family(self, *args)
        return lambda alpha: calls.append(alpha) or found(alpha)

    monkeypatch.setattr(EntropyCodebook, "family", counted)
    for limit in range(20, 320, 15):
        budget = Budget(
            (
                Part(Vector(), EntropyCodebook(0, k=7), (0,), 1 / 8),
                Part(Matrix(), RankSelection(0), (1,), 4),
            ),
            limit,
        )
        budget.compress(drawn(((60,), (12, 8))), MU)
    assert len(calls) < 17 * 20


@pytest.mark.parametrize(("middle", "expected"), [((5, 11), (0, 10)), ((5, 7), (5, 7))])
def test_a_descent_step_that_ends_above_the_line_is_taken_where_it_is_better(middle, expected):
    """For (0, 10), cost and distortion, at high prices, (10, 0) at low ones; where they are level a
    worse point is found."""

    def at(alpha: float) -> Point:
        cost, loss = (0, 10) if alpha > 1.2 else (10, 0) if alpha < 0.8 else middle
        return Point((Uncompressed().compress(torch.ones(1), MU),), (cost,), (loss,))

    found = search(at, 7, 100.0, 1e6, at(1e6)).point
    assert (found.total, found.loss) == expected


def test_a_warm_start_is_never_worse_and_never_above_the_limit():
    budget, wider = Budget(MEMBERS, 90), Budget(MEMBERS, 120)
    for noise in (0.0, 0.01, 0.1, 1.0):
        x = drawn()
        near = tuple(block + noise * torch.randn_like(block) for block in x)
        start = budget.compress(near, MU)
        reached = distortion(x, budget.compress(x, MU, start))
        assert reached <= min(distortion(x, start), distortion(x, budget.compress(x, MU))) * (
            1 + 1e-9
        )
        assert budget.usage(budget.compress(x, MU, wider.compress(near, MU))) <= 90


def test_a_start_that_is_better_than_the_price_can_find_is_kept():
    """Ranks 0 and 2 are on the hull, rank 1 is above it: no price buys it."""
    x = torch.eye(3, dtype=torch.float64)
    budget = Budget((Part(Matrix(), RankSelection(0, leco.Table([0, 3, 4, 5]))),), 3)
    start = Sum((Term(LowRank(1).compress(x, MU), Matrix(), (0,)),), ((3, 3),), 1)
    assert distortion(x, budget.compress(x, MU)) == 3
    assert distortion(x, budget.compress(x, MU, start)) == pytest.approx(2)


def test_ranks_that_the_dense_matrix_hides_are_found():
    """Nearly equal singular values: the dense matrix, for 25, is a better buy than ranks for 10
    each, so that a price buys all or nothing."""
    s = torch.tensor([1.04, 1.03, 1.02, 1.01, 1.0], dtype=torch.float64)
    x = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q * s
    for limit in range(26):
        theta = Budget((Part(Matrix(), RankSelection(0)),), limit).compress(x, MU)
        assert distortion(x, theta) == pytest.approx(
            float(s[limit // 10 :].square().sum()) if limit < 25 else 0, abs=1e-9
        )


def test_what_is_left_over_goes_where_it_helps_most():
    """One rank can be paid for, and two matrices want one."""
    small = torch.diag(torch.tensor([1.04, 1.03, 1.02, 1.01, 1.0], dtype=torch.float64))
    members = each_part(Matrix(), RankSelection(0), range(3))
    for place in range(3):
        x = tuple(3 * small if b == place else small for b in range(3))
        theta = Budget(members, 10).compress(x, MU)
        assert [term.theta.u.shape[1] for term in theta.terms] == [
            int(b == place) for b in range(3)
        ]


def test_ranks_of_a_kernel_that_the_dense_one_hides_are_found():
    """The best of both schemes' ranks that are cheaper than the kernel."""
    x = torch.randn(6, 5, 3, 2, dtype=torch.float64)
    views = Matrix((0,)), Matrix((0, 2))
    points = [p for view in views for p in rank_points(view.forward([x]))]
    steps = sorted({c for c, _ in points if c < RANK_UNIT * x.numel()})
    assert len(steps) > 8
    for limit in steps:
        budget = Budget((Part(Kernel(), ConvRankSelection(0), unit=RANK_UNIT),), limit)
        theta = budget.compress(x, MU)
        assert budget.usage(theta) <= limit
        assert (
            distortion(x, theta)
            <= min(
                d
                for c, d in hull([p for p in points if p[0] < RANK_UNIT * x.numel()])
                if c <= limit
            )
            + 1e-9
        )


def test_candidates_that_others_hide_are_found():
    """A price buys `Codebook(3)`, for 45, or nothing. Below 45 there is one scale for 40, or a
    weight for each 3."""
    x = torch.tensor([1.0, -1.0, 5.0] * 20, dtype=torch.float64) * (1 + 1e-4 * torch.arange(60))
    costs = {"Scaled": 40.0, "Codes": 45.0}
    choice = Choice(
        0,
        [
            Part(Vector(), Binary()),
            Part(Vector(), Codebook(3)),
            Part(Vector(), L0Penalty(0), unit=3),
        ],
        lambda t: costs[type(t).__name__],
    )
    budgets = {limit: Budget((Part(Kernel(), choice),), limit) for limit in (12, 39, 40, 44, 45)}
    thetas = {limit: budget.compress(x, MU) for limit, budget in budgets.items()}
    chosen = {
        limit: (theta.terms[0].theta.terms[0].candidate, budgets[limit].usage(theta))
        for limit, theta in thetas.items()
    }
    assert chosen == {12: (2, 12), 39: (2, 39), 40: (0, 40), 44: (2, 42), 45: (1, 45)}


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: Budget((Part(Vector(), L0Penalty(0)), Part(Vector(), TopK(3))), 5),
            TypeError,
            ("members[1]", "TopK(kappa=3", "penalty form"),
        ),
        (lambda: Budget((L0Penalty(0),), 5), TypeError, ("members[0] = L0Penalty", "leco.Part")),
        (
            lambda: Budget((Part(Vector(), Budget(MEMBERS, 3)),), 5),
            TypeError,
            ("members[0]", "penalty form"),
        ),
        (lambda: Budget(MEMBERS, -1), ValueError, ("Budget: limit = -1", "at least 0")),
        (lambda: Budget(MEMBERS, math.inf), ValueError, ("Budget: limit = inf", "finite")),
        (lambda: Budget(MEMBERS, math.nan), ValueError, ("Budget: limit = nan", "finite")),
        (lambda: Budget(MEMBERS, "4 kB"), TypeError, ("Budget: limit = '4 kB'", "number")),
        (
            lambda: Budget(MEMBERS[:2], 5).check(SHAPES),
            ValueError,
            ("block 2 of shape (3, 6)", "in 0 members"),
        ),
        (
            lambda: Budget((*MEMBERS, MEMBERS[1]), 5).check(SHAPES),
            ValueError,
            ("block 1 of shape (7,)", "in 2 members"),
        ),
        (
            lambda: Budget(MEMBERS, 5).compress(drawn(((5, 4), (7,))), MU),
            ValueError,
            ("at = (2,)", "0 to 1"),
        ),
        (
            lambda: Choice(-1, (Part(Vector(), Binary()),)),
            ValueError,
            ("Choice: alpha = -1", "at least 0"),
        ),
        (lambda: Choice(1, ()), ValueError, ("Choice: candidates is empty",)),
        (
            lambda: Choice(1, (Part(Vector(), Binary(), (0,)),)),
            ValueError,
            ("candidates[0]", "at = (0,)", "None"),
        ),
        (
            lambda: Choice(1, (Part(Vector(), TopK(9)), Part(Matrix(), LowRank(3)))).check(
                torch.Size((2, 3))
            ),
            ValueError,
            (
                "no candidate",
                "block 0 of shape (2, 3)",
                "kappa = 9 must be at most 6",
                "rank = 3 must be",
            ),
        ),
    ],
)
def test_errors_name_what_is_wrong(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# --- the choice

CANDIDATES = (
    Part(Matrix(), RankSelection(9.0), unit=64),
    Part(Vector(), L0Penalty(9.0), unit=80),
    Part(Vector(), Binary()),
    Part(Vector(), Codebook(3)),
    Part(Kernel(), Uncompressed()),
)
ALPHAS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 0.1, 10.0)


def schemes(x: Tensor) -> list[tuple[float, float]]:
    """(cost in bits, distortion) of every rank, every sparsity, both codebooks, and the whole
    block."""
    flat = x.flatten()
    points = [(64 * c / RANK_UNIT, d) for c, d in rank_points(x)] if x.dim() == 2 else []
    points += [(80 * c / KEPT_UNIT, d) for c, d in kept_points(flat)]
    for compression in (Binary(), Codebook(3)):
        theta = compression.compress(flat, MU)
        points.append((leco.bits(theta), distortion(flat, theta)))
    return [*points, (leco.bits(x), 0.0)]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_choice_is_the_least_over_all_schemes(alpha):
    for x in (drawn(), (drawn()[0].sign(), drawn()[1])):
        choice = Choice(alpha, CANDIDATES)
        theta = choice.compress(x, MU)
        reached = MU / 2 * distortion(x, theta) + choice.price(theta)
        assert reached == pytest.approx(
            sum(min(MU / 2 * d + alpha * c for c, d in schemes(block)) for block in x)
        )
        alone = [choice.compress(block, MU) for block in x]
        assert all(
            torch.equal(one.decompress(), block)
            for one, block in zip(alone, theta.decompress(), strict=True)
        )


def test_choice_switches_as_alpha_grows():
    x = torch.cat(
        [
            torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)
            + 0.05 * torch.randn(100, dtype=torch.float64),
            torch.full((4,), 6.0),
        ]
    )
    candidates = [
        Part(Vector(), Uncompressed()),
        Part(Vector(), Codebook(3)),
        Part(Vector(), Binary()),
        Part(Vector(), L0Penalty(0), unit=80),
    ]
    chosen, costs = [], []
    for alpha in (0.0, 1e-3, 0.5):
        choice = Choice(alpha, candidates)
        theta = choice.compress(x, 1.0)
        chosen.append(theta.terms[0].candidate)
        costs.append(choice.usage(theta))
    assert chosen == [0, 1, 3]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == leco.bits(x) < 64 * 104


def test_choice_skips_candidates_that_do_not_fit():
    choice = Choice(
        1e-6, (Part(Groups(4), Binary()), Part(Matrix(), LowRank(2)), Part(Vector(), Codebook(2)))
    )
    theta = choice.compress(drawn(((3, 5), (7,), (2, 2))), MU)
    assert [term.candidate for term in theta.terms[:2]] == [1, 2]


def test_choice_counts_what_a_unit_of_a_candidate_costs():
    """Two candidates with one form and one view: the Theta says whose it is, and so what it
    costs."""
    x = torch.randn(20, dtype=torch.float64)
    for dear, cheap in ((0, 1), (1, 0)):
        candidates: Any = [None, None]
        candidates[dear], candidates[cheap] = (
            Part(Vector(), L0Penalty(0), unit=50),
            Part(Vector(), TopK(5), unit=0.5),
        )
        choice = Choice(1e-9, candidates, cost=lambda theta: len(theta.values))
        theta = choice.compress(x, MU)
        assert (theta.terms[0].candidate, choice.usage(theta)) == (dear, 50 * 20)
        choice = Choice(1.0, candidates, cost=lambda theta: len(theta.values))
        assert choice.usage(choice.compress(x, MU)) == 0.5 * 5


def test_choice_pays_the_price_that_a_set_form_has():
    x = torch.randn(20, dtype=torch.float64)
    choice = Choice(1e-3, [Part(Vector(), TopK(5, gamma=0.5))])
    theta = choice.compress(x, MU)
    kept = theta.terms[0].theta
    assert choice.price(theta) == pytest.approx(
        1e-3 * leco.bits(kept) + 0.25 * float(kept.values.square().sum())
    )
    x = torch.tensor([3.0, 3, 3, 3, 3, 0.2, 0, 0], dtype=torch.float64)
    theta = Choice(1e-9, [Part(Vector(), TopK(6, gamma=0.01)), Part(Vector(), TopK(5))]).compress(
        x, MU
    )
    assert theta.terms[0].candidate == 1


def test_choice_keeps_the_last_theta_where_that_is_better():
    class Worse(Binary):
        def compress(self, x: Tensor, mu: float, theta: Any = None) -> Any:
            found = super().compress(x, mu)
            return found if theta is None else found._replace(scale=found.scale * 2)

    x = torch.randn(30, dtype=torch.float64)
    choice = Choice(1e-3, [Part(Vector(), Worse())])
    start = choice.compress(x, MU)
    assert distortion(x, choice.compress(x, MU, start)) <= distortion(x, start)


def test_bits_sparsity_and_ranks_compete_for_the_same_bytes():
    """A budget over choices finds the points on the hull of all schemes for each block."""
    x = drawn(((6, 5), (9,), (4, 4)))
    members = each_part(Kernel(), Choice(0, CANDIDATES), range(3), unit=1 / 8)
    points = hull(
        [
            (sum(c for c, _ in p) / 8, sum(d for _, d in p))
            for p in itertools.product(*(hull(schemes(block)) for block in x))
        ]
    )
    assert len(points) > 8
    for cost, least in points:
        theta = Budget(members, cost).compress(x, MU)
        assert distortion(x, theta) == pytest.approx(least, abs=1e-9)
        assert Budget(members, cost).usage(theta) == pytest.approx(cost)
        assert Budget(members, cost).usage(theta) <= cost


# --- through the algorithm


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 5)
    ).double()


def mixed(limit: float) -> dict[str, leco.Task]:
    choice = Choice(
        0,
        [
            Part(Vector(), Codebook(4)),
            Part(Matrix(), RankSelection(0), unit=64),
            Part(Vector(), L0Penalty(0), unit=80),
        ],
    )
    members = (
        Part(Matrix(), RankSelection(0), (0,), unit=8),
        Part(Vector(), L0Penalty(0), (1,), unit=10),
        Part(Kernel(), choice, (2,), unit=1 / 8),
    )
    return {
        "all": leco.Task(("0.weight", "2.weight", "4.weight"), Blocks(), Budget(members, limit))
    }


def test_lc_with_a_budget():
    """Six steps, and three, the state in another LC, and three more: the same; the limit is kept
    throughout."""
    torch.manual_seed(0)
    model, x, y = (
        net(),
        torch.randn(50, 12, dtype=torch.float64),
        torch.randn(50, 5, dtype=torch.float64),
    )

    def steps(lc: leco.LC, mus: list[float]) -> None:
        for mu in mus:
            lc.mu = mu
            optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.05)
            for _ in range(5):
                optimizer.zero_grad()
                (nn.functional.mse_loss(lc.model(x), y) + lc.penalty()).backward()
                optimizer.step()
            assert lc.step().price == 0
            budget: Any = lc.tasks["all"].compression
            theta: Any = lc.thetas["all"]
            assert 0.8 * 700 <= budget.usage(theta) <= 700

    mus = [0.05 * 1.5**k for k in range(6)]
    first = leco.LC(model, mixed(700))
    steps(first, mus[:3])
    second = leco.LC(net(), mixed(700))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    steps(first, mus[3:])
    steps(second, mus[3:])
    assert all(torch.equal(first.delta[name], second.delta[name]) for name in first.delta)
    second.project_()
    again: Any = second.tasks["all"].compression
    theta = again.compress(tuple(p.detach() for p in second.params.values()), 1.0)
    for found, p in zip(theta.decompress(), second.params.values(), strict=True):
        torch.testing.assert_close(found, p.detach())


def test_lc_names_the_least_limit_at_construction():
    seconds = Part(Matrix(), RankSelection(0, leco.Table([0.5, 1, 2, 3, 4, 5])), (0,))
    with pytest.raises(
        ValueError,
        match=r"task 'all', parameters 4.weight: Blocks: Budget: limit = 0.1 must be at least 0.5",
    ):
        leco.LC(net(), {"all": leco.Task("4.weight", Blocks(), Budget((seconds,), 0.1))})


# --- weights of the distortion


def test_weights_are_a_budget_over_scaled_blocks():
    weights = (0.3, 2.0, 1.0)
    weighted = Budget(
        [
            Part(p.view, p.compression, p.at, p.unit, w)
            for p, w in zip(MEMBERS, weights, strict=True)
        ],
        100,
    )
    for _ in range(5):
        x = drawn()
        theta = weighted.compress(x, MU)
        scaled = Budget(MEMBERS, 100).compress(
            tuple(block * w for block, w in zip(x, weights, strict=True)), MU
        )
        assert weighted.usage(theta) == Budget(MEMBERS, 100).usage(scaled) <= 100
        for one, other, w in zip(theta.decompress(), scaled.decompress(), weights, strict=True):
            torch.testing.assert_close(one, other / w, rtol=1e-12, atol=1e-12)


def test_a_larger_weight_keeps_more():
    x = tuple(torch.randn(40, dtype=torch.float64) for _ in range(2))
    kept = []
    for weight in (0.5, 1.0, 2.0):
        members = each_part(Vector(), L0Penalty(0), range(2), KEPT_UNIT, (weight, 1.0))
        kept.append(int(Budget(members, 100).compress(x, MU).decompress()[0].count_nonzero()))
    assert kept[0] < kept[1] < kept[2]


def test_weights_go_through_retraining_and_the_file(tmp_path):
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    members = each_part(Matrix(), RankSelection(0), range(2), RANK_UNIT, (0.25, 4.0))
    task = leco.Task(["0.weight", "1.weight"], Blocks(), Budget(members, 150))
    lc = leco.LC(net, {"all": task})
    lc.mu = 1.0
    free = leco.Retraining(lc)
    optimizer = torch.optim.SGD(free.parameters(), lr=0.0)
    free.attach(optimizer)
    x = torch.randn(7, 6, dtype=torch.float64)
    net(x).square().sum().backward()
    variables = [
        v.detach().clone().requires_grad_()
        for v in free.parameters()[: len(leco.theta.tree.free_leaves(lc.thetas["all"]))]
    ]
    first, second = leco.theta.tree.with_free_leaves(lc.thetas["all"], variables).decompress()
    by_hand = (
        torch.nn.functional.linear(
            torch.nn.functional.linear(x, first, net[0].bias.detach()), second, net[1].bias.detach()
        )
        .square()
        .sum()
    )
    wanted = torch.autograd.grad(by_hand, variables)
    for variable, gradient in zip(free.parameters(), wanted, strict=False):
        torch.testing.assert_close(variable.grad, gradient, rtol=1e-10, atol=1e-10)
    free.detach()
    leco.save(tmp_path / "m", lc)
    other = leco.load(tmp_path / "m", nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double())
    assert all(torch.equal(other.get_parameter(name), delta) for name, delta in lc.delta.items())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Part(Vector(), TopK(1), weight=0.0), ("Part: weight = 0.0", "positive")),
        (lambda: Part(Vector(), TopK(1), weight=math.inf), ("Part: weight = inf", "finite")),
        (
            lambda: Choice(1.0, (Part(Vector(), TopK(1), weight=2.0),)),
            ("Choice: candidates[0]", "weight = 2.0"),
        ),
        (
            lambda: leco.Additive([Part(Vector(), Binary(), weight=2.0), (Vector(), TopK(1))]),
            ("Additive: term 0", "weight = 2.0"),
        ),
    ],
)
def test_a_weight_that_has_no_meaning_is_named(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)

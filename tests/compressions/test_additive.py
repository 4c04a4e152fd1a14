"""`Additive` and `Compose`: the exact joint C steps against brute force, descent, blocks,
retraining."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labels import label
from torch import Tensor, nn

import leco
from leco import (
    Additive,
    Binary,
    Codebook,
    Compose,
    FixedCodebook,
    L0Penalty,
    L1Penalty,
    LowRank,
    Matrix,
    Part,
    Rows,
    Ternary,
    TopK,
    Uniform,
    Vector,
)
from leco.compressions import L1Ball, L2Ball, PowersOfTwo, RankSelection
from leco.theta import Affine, Codes, Dense, Scaled, Sparse, Sum
from leco.theta.tree import free_leaves, with_free_leaves

MU = 0.7
VECTOR, MATRIX = Vector(), Matrix()
quick = settings(max_examples=40, deadline=None)
numbers = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-2, 2).map(lambda v: round(v, 3))),
    min_size=2,
    max_size=6,
)


def squared(x: Tensor) -> float:
    return float(x.square().sum())


def objective(compression, x, theta, mu: float = MU) -> float:
    pairs = zip(leco.views.blocks(x), leco.views.blocks(theta.decompress()), strict=True)
    return mu / 2 * sum(squared(a - b) for a, b in pairs) + compression.price(theta)


def vector(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- the exact joint C steps


CORRECTIONS = {  # with the price of a correction
    TopK(1): lambda s: 0 * s,
    TopK(0.5): lambda s: 0 * s,
    TopK(1, gamma=0.4): lambda s: 0.2 * s.square(),
    TopK(0): lambda s: 0 * s,
    L0Penalty(0.2): lambda s: 0.2 * (s != 0),
    L1Penalty(0.3): lambda s: 0.3 * s.abs(),
    L1Ball(0.8): lambda s: 0 * s,
}


@quick
@given(numbers, st.sampled_from(list(CORRECTIONS)), st.booleans())
@pytest.mark.parametrize(
    ("quantizer", "values"),
    [
        (FixedCodebook((-1, 0.3, 2)), (-1, 0.3, 2)),
        (Binary(scale=False), (-1, 1)),
        (Ternary(scale=False), (-1, 0, 1)),
        (PowersOfTwo(0), (-1, 0, 1)),
    ],
    ids=label,
)
def test_fixed_codebook_and_corrections_are_the_best_of_all_codes(
    quantizer, values, x, corrections, swapped
):
    x = vector(x)
    terms = [(VECTOR, quantizer), (VECTOR, corrections)]
    additive = Additive(terms[::-1] if swapped else terms)
    left = x - torch.tensor(list(itertools.product(values, repeat=len(x))), dtype=torch.float64)
    s = corrections.compress(left, MU).decompress()  # each row's best
    least = float((MU / 2 * (left - s).square() + CORRECTIONS[corrections](s)).sum(-1).min())
    assert objective(additive, x, additive.compress(x, MU)) <= least * (1 + 1e-12) + 1e-12


@quick
@given(numbers, st.data())
def test_fixed_codebook_and_top_kappa_are_the_best_of_all_supports(x, data):
    x = vector(x)
    kappa = data.draw(st.integers(0, len(x) - 1))
    errors = torch.minimum((x - 1).square(), (x + 1).square())
    least = min(
        float(errors[list(rest)].sum())
        for rest in itertools.combinations(range(len(x)), len(x) - kappa)
    )
    theta = Additive([(VECTOR, Binary(scale=False)), (VECTOR, TopK(kappa))]).compress(x, MU)
    assert squared(x - theta.decompress()) == pytest.approx(least, abs=1e-12)
    assert int(theta.terms[1].theta.mask.sum()) == kappa


@quick
@given(numbers, st.booleans(), st.data())
def test_binary_and_top_kappa_are_the_best_of_all_supports(x, swapped, data):
    x = vector(x)
    kappa = data.draw(st.integers(0, len(x) - 1))
    rests = [x[list(rest)].abs() for rest in itertools.combinations(range(len(x)), len(x) - kappa)]
    least = min(squared(rest - rest.mean()) for rest in rests)
    terms = [(VECTOR, Binary()), (VECTOR, TopK(kappa))]
    theta = Additive(terms[::-1] if swapped else terms).compress(x, MU)
    assert squared(x - theta.decompress()) == pytest.approx(least, abs=1e-12)
    assert isinstance(theta.terms[1 if swapped else 0].theta, Scaled)


@pytest.mark.parametrize(
    "x",
    [
        [0.0] * 5,
        [2.0] * 5,
        [-3.0, 3, 3, -3],
        [1e8, 1e8 + 1, 1e8 + 2, -1e8],
        [0, 0, 0, 7],
        [5.0, 1, 1, 1, -5],
    ],
    ids=label,
)
@pytest.mark.parametrize("kappa", [0, 1, 2])
def test_binary_and_top_kappa_on_ties_zeros_and_large_values(x, kappa):
    x = vector(x)
    rests = [x[list(rest)].abs() for rest in itertools.combinations(range(len(x)), len(x) - kappa)]
    least = min(squared(rest - rest.mean()) for rest in rests)
    theta = Additive([(VECTOR, Binary()), (VECTOR, TopK(kappa))]).compress(x, MU)
    assert squared(x - theta.decompress()) == pytest.approx(
        least, abs=1e-6 if x.abs().max() > 1e6 else 1e-12
    )


@pytest.mark.parametrize("at", [None, (0, 2)])
def test_exact_steps_are_joint_over_blocks(at):
    x = tuple(torch.randn(shape, dtype=torch.float64) for shape in ((2, 2), (3,), (1, 3)))
    taken = torch.cat([x[b].flatten() for b in at or range(3)])
    rest = [Part(VECTOR, Codebook(1), (1,))] if at else []
    for quantizer, error in (
        (Binary(scale=False), lambda a: squared(a - 1)),
        (Binary(), lambda a: squared(a - a.mean())),
    ):
        least = min(
            error(taken[list(own)].abs())
            for own in itertools.combinations(range(len(taken)), len(taken) - 2)
        )
        additive = Additive([Part(VECTOR, quantizer, at), Part(VECTOR, TopK(2), at), *rest])
        if rest and quantizer.scale:
            continue  # three terms: block coordinate descent
        delta = additive.compress(x, MU).decompress()
        assert sum(squared(x[b] - delta[b]) for b in at or range(3)) == pytest.approx(least)


def test_fixed_codebooks_of_each_block_with_joint_corrections_are_exact():
    x = tuple(torch.randn(4, dtype=torch.float64) for _ in range(2))
    terms = [
        Part(VECTOR, TopK(2)),
        Part(VECTOR, Binary(scale=False), (0,)),
        Part(Rows(), Ternary(scale=False), (1,)),
    ]
    errors = torch.cat(
        [(x[0].abs() - 1).square(), torch.minimum(x[1].square(), (x[1].abs() - 1).square())]
    )
    delta = Additive(terms).compress(x, MU).decompress()
    assert sum(squared(a - b) for a, b in zip(x, delta, strict=True)) == pytest.approx(
        float(errors.sort().values[:-2].sum())
    )


def test_a_scale_for_each_row_is_left_to_descent():
    x = torch.randn(3, 8, dtype=torch.float64)
    theta = Additive([(Rows(), Binary()), (VECTOR, TopK(4))]).compress(x, MU)
    assert theta.terms[0].theta.scale.shape == (3,)
    assert squared(x - theta.decompress()) < squared(
        x - Additive([(VECTOR, Binary()), (VECTOR, TopK(4))]).compress(x, MU).decompress()
    )


def test_corrections_of_more_blocks_than_the_signs_are_left_to_descent():
    x = torch.randn(6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    theta = Additive([Part(VECTOR, Binary(), (0,)), Part(VECTOR, TopK(3))]).compress(x, MU)
    alone = Binary().compress(x[0], MU).decompress()
    assert sum(squared(a - b) for a, b in zip(x, theta.decompress(), strict=True)) < squared(
        x[0] - alone
    ) + squared(x[1])


def test_corrections_with_an_l2_term_do_not_move_the_window():
    """They cost so much that the mean of all |x_i| is the best scale."""
    x = torch.randn(30, dtype=torch.float64).pow(3)
    additive = Additive([(VECTOR, Binary()), (VECTOR, TopK(12, gamma=1e6))])
    assert objective(additive, x, additive.compress(x, MU)) <= objective(
        Binary(), x, Binary().compress(x, MU)
    )


def test_two_sparse_terms_that_meet_are_left_to_descent():
    """The l1 ball has less to do once the largest entries are corrected, and is then used for
    others."""
    x = torch.randn(4, 10, dtype=torch.float64).pow(3)
    additive = Additive([(VECTOR, Binary(scale=False)), (VECTOR, L1Ball(5.0)), (Rows(), TopK(2))])
    signs = Binary(scale=False).compress(x, MU).decompress()
    left = x - signs - L1Ball(5.0).compress((x - signs).flatten(), MU).decompress().view_as(x)
    once = squared(left - TopK(2).compress(left, MU).decompress())
    assert squared(x - additive.compress(x, MU).decompress()) < 0.99 * once


# --- descent


TERMS = {
    "quantized + sparse": [(VECTOR, Codebook(2)), (VECTOR, TopK(0.05))],
    "low rank + sparse": [(MATRIX, LowRank(2)), (VECTOR, TopK(0.05))],
    "low rank + quantized": [(MATRIX, LowRank(2)), (Rows(), Binary())],
    "all three": [(MATRIX, RankSelection(0.3)), (VECTOR, Ternary()), (VECTOR, L0Penalty(0.5))],
    "codebooks": [(VECTOR, Codebook(2)), (Rows(), Codebook(2))],
    "grid + powers": [(VECTOR, Uniform(2)), (VECTOR, PowersOfTwo(1))],
    "quantized low rank + sparse": [
        (MATRIX, Compose(LowRank(2), Uniform(4))),
        (VECTOR, L1Penalty(0.5)),
    ],
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_no_sweep_raises_the_objective(terms):
    x, one = torch.randn(12, 15, dtype=torch.float64), Additive(terms, sweeps=1)
    theta = one.compress(x, MU)
    reached = [objective(one, x, theta)]
    for _ in range(8):
        theta = one.compress(x, MU, theta)
        reached.append(objective(one, x, theta))
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(reached))
    assert objective(one, x, Additive(terms, sweeps=20).compress(x, MU)) <= reached[0]
    alone = [part.compression.compress(part.view.forward([x]), MU) for part in one.parts]
    assert reached[-1] < min(
        objective(p.compression, p.view.forward([x]), theta)
        for p, theta in zip(one.parts, alone, strict=True)
    )


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_a_retrained_theta_is_a_warm_start(terms):
    x, additive = torch.randn(12, 15, dtype=torch.float64), Additive(terms, sweeps=1)
    for noise in (0.01, 0.3):
        theta = additive.compress(x, MU)
        theta = with_free_leaves(
            theta, [leaf + noise * torch.randn_like(leaf) for leaf in free_leaves(theta)]
        )
        assert objective(additive, x, additive.compress(x, MU, theta)) <= objective(
            additive, x, theta
        ) * (1 + 1e-12)


def test_a_theta_of_other_terms_or_shapes_is_not_a_start():
    x = torch.randn(4, 5, dtype=torch.float64)
    additive = Additive([(VECTOR, Codebook(2)), (VECTOR, TopK(3))])
    cold = additive.compress(x, MU).decompress()
    three = Additive([*additive.parts, (MATRIX, LowRank(1))]).compress(x, MU)
    assert torch.equal(additive.compress(x, MU, three).decompress(), cold)
    assert torch.equal(additive.compress(x, MU, additive.compress(x.T, MU)).decompress(), cold)


@dataclass(frozen=True)
class Wanders(Codebook):
    """Good at first, and worse than its warm start after."""

    def compress(self, x, mu, theta=None):
        found = super().compress(x, mu)
        return found if theta is None else found._replace(codebook=found.codebook + 1)


def test_a_term_that_rises_keeps_its_theta():
    x = torch.randn(40, dtype=torch.float64)
    wanders, once = (
        Additive([(VECTOR, kind(2)), (VECTOR, TopK(4))], sweeps=5) for kind in (Wanders, Codebook)
    )
    first = Codebook(2).compress(x, MU)
    theta = wanders.compress(x, MU)
    assert torch.equal(theta.terms[0].theta.codebook, first.codebook)
    assert objective(wanders, x, theta) <= MU / 2 * squared(x - first.decompress())
    assert objective(once, x, once.compress(x, MU)) <= objective(wanders, x, theta)


def test_a_theta_outside_the_set_does_not_stay():
    """Retrained values may leave an l1 ball. The lower error of the point outside is no reason to
    keep it."""
    x = torch.randn(30, dtype=torch.float64)
    additive = Additive([(VECTOR, Codebook(2)), (VECTOR, L1Ball(1.0))])
    theta = additive.compress(x, MU)
    outside = with_free_leaves(
        theta, [theta.terms[0].theta.codebook, 5 * theta.terms[1].theta.values]
    )
    assert float(additive.compress(x, MU, outside).terms[1].theta.values.abs().sum()) <= 1 + 1e-12


# --- what the sums are


def test_terms_that_add_nothing_leave_the_other():
    x = torch.randn(6, 5, dtype=torch.float64)
    for other, view in ((LowRank(2), MATRIX), (Codebook(3), VECTOR), (Ternary(), Rows())):
        alone = view.backward(other.compress(view.forward([x]), MU).decompress(), [x.shape])[0]
        for nothing in (TopK(0), L0Penalty(1e6), L1Penalty(1e6)):
            torch.testing.assert_close(
                Additive([(view, other), (VECTOR, nothing)]).compress(x, MU).decompress(), alone
            )


def test_terms_of_blocks_of_their_own_are_separate_compressions():
    x = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    additive = Additive([Part(MATRIX, LowRank(1), (0,)), Part(VECTOR, Codebook(2), (1,))])
    first, second = additive.compress(x, MU).decompress()
    torch.testing.assert_close(first, LowRank(1).compress(x[0], MU).decompress())
    torch.testing.assert_close(second, Codebook(2).compress(x[1], MU).decompress())


def test_planted_sums_are_found():
    low = torch.randn(20, 2, dtype=torch.float64) @ torch.randn(2, 30, dtype=torch.float64)
    sparse = (
        torch.zeros(600, dtype=torch.float64)
        .index_fill_(0, torch.randperm(600)[:12], 40.0)
        .view(20, 30)
    )
    x = low + sparse
    theta = Additive([(MATRIX, LowRank(2)), (VECTOR, TopK(12))], sweeps=50).compress(x, MU)
    assert squared(x - theta.decompress()) < 1e-6 * squared(x)
    assert torch.equal(theta.terms[1].theta.mask.view(20, 30), sparse != 0)


def test_low_ranks_of_two_matrices_of_a_kernel():
    x = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    additive = Additive([(MATRIX, LowRank(1)), (Matrix((0, 2)), LowRank(1))])
    theta = additive.compress(x, MU)
    assert [tuple(term.theta.u.shape) for term in theta.terms] == [(6, 1), (18, 1)]
    assert squared(x - theta.decompress()) < min(
        float(torch.linalg.svdvals(view.forward([x])).square()[1:].sum())
        for view in (MATRIX, Matrix((0, 2)))
    )


# --- Compose


def test_quantized_kept_values_and_quantized_factors():
    x = torch.randn(9, 8, dtype=torch.float64)
    pruned = Compose(TopK(10), Codebook(2)).compress(x.flatten(), MU)
    kept = x.flatten()[x.flatten().abs() >= x.abs().flatten().sort().values[-10]]
    assert isinstance(pruned, Sparse)
    assert isinstance(pruned.values, Codes)
    torch.testing.assert_close(
        pruned.decompress()[pruned.mask], Codebook(2).compress(kept, MU).decompress()
    )

    for view, scales in ((Vector(), ()), (Rows(), (9,)), (leco.Groups(2), (9,))):
        low = Compose(LowRank(2), Uniform(5), view).compress(x, MU)
        assert low.u.decompress().shape == (9, 2)
        assert low.v.decompress().shape == (2, 8)
        inner = low.u.terms[0].theta if isinstance(low.u, Sum) else low.u
        assert isinstance(inner, Affine)
        assert inner.scale.shape == scales
        assert isinstance(low.u, Affine) == (view == Rows())


@pytest.mark.parametrize("view", [Vector(), Rows(), leco.Groups(8)], ids=label)
@pytest.mark.parametrize("then", [Uniform(3), Codebook(3), Binary(), L1Penalty(0.05)], ids=label)
def test_sweeps_of_compose_descend_from_the_fields_compressed_alone(view, then):
    x = torch.randn(12, 14, dtype=torch.float64)
    factors = LowRank(4).compress(x, MU)
    reached = []
    for sweeps in (1, 2, 4, 16):
        compose = Compose(LowRank(4), then, view, sweeps=sweeps)
        reached.append(objective(compose, x, compose.compress(x, MU)))
    u, v = (
        view.backward(then.compress(view.forward([f]), MU).decompress(), [f.shape])[0]
        for f in factors
    )
    assert reached == sorted(reached, reverse=True)
    if not isinstance(then, L1Penalty):
        assert reached[0] < MU / 2 * squared(x - u @ v)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("name", ["u", "v"])
def test_the_surrogate_of_a_factor_lies_above_the_error(name, weighed):
    """||x - A f||^2 <= sum_i L_i (f - (f_0 - g/L))_i^2 + constant, with equality at f_0 and, for
    some f, nearly so elsewhere."""
    from leco.compressions.compose import _curvature, _gradient

    x, theta = (
        torch.randn(6, 7, dtype=torch.float64),
        LowRank(3).compress(torch.randn(6, 7, dtype=torch.float64), MU),
    )
    mu = (0.3 + torch.rand(6, 7, dtype=torch.float64)) if weighed else 1.0
    start = getattr(theta, name)
    bound, gradient = _curvature(theta, name, mu), _gradient(x, theta, name, mu)

    def error_of(delta):
        return float((mu * (x - delta).square()).sum())

    constant = error_of(theta.decompress()) - float((gradient.square() / bound).sum())
    ratios = []
    other = torch.linalg.svd(theta.v if name == "u" else theta.u)
    top = other.U[:, 0] if name == "u" else other.Vh[0]
    for k in range(20):
        step = (
            torch.randn_like(start)
            if k
            else (
                torch.outer(torch.ones(6, dtype=x.dtype), top)
                if name == "u"
                else top[:, None].expand(3, 7)
            )
        )
        error = error_of(theta._replace(**{name: start + step}).decompress())
        surrogate = float((bound * (step + gradient / bound).square()).sum()) + constant
        assert error <= surrogate * (1 + 1e-12)
        ratios.append((surrogate - error) / squared(step))
    if not weighed:
        assert min(ratios) < 1e-9 * bound  # no smaller L would do


@pytest.mark.parametrize(
    "first", [LowRank(2), RankSelection(0.3), leco.ConvRankSelection(0.3)], ids=label
)
def test_compose_over_every_low_rank(first):
    x = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    x = x if isinstance(first, leco.ConvRankSelection) else MATRIX.forward([x])
    compose = Compose(first, Uniform(8))
    theta, alone = compose.compress(x, MU), first.compress(x, MU)
    assert objective(compose, x, theta) <= objective(first, x, alone) * 1.01
    assert compose.price(theta) == first.price(alone)
    assert leco.bits(theta) < leco.bits(alone) / 3
    full = Compose(RankSelection(0.0), Uniform(8)).compress(MATRIX.forward([x]), MU)
    assert isinstance(full, Dense)
    assert isinstance(full.values, Sum)


@quick
@given(
    numbers,
    st.sampled_from([TopK(1), TopK(0.5), L0Penalty(0.3), L0Penalty(0.05)]),
    st.sampled_from([(-1.0, 1.0), (-1.0, 2.0), (0.5, 1.0, 3.0)]),
)
def test_given_values_of_kept_weights_are_the_best_of_all(x, first, values):
    x = vector(x)
    points = torch.tensor(
        list(itertools.product((0.0, *values), repeat=len(x))), dtype=torch.float64
    )
    kept = points.count_nonzero(-1).double()
    price = (
        first.alpha * kept
        if isinstance(first, L0Penalty)
        else torch.where(kept <= first.count(len(x)), 0, torch.inf)
    )
    least = float((MU / 2 * (x - points).square().sum(-1) + price).min())
    compose = Compose(first, FixedCodebook(values))
    assert objective(compose, x, compose.compress(x, MU)) == pytest.approx(least, abs=1e-12)


def test_a_kept_weight_is_worth_its_price_by_the_error_it_saves():
    """2|x| - 1 is saved by a sign: 0.2 and 0, at a price of 0.05, mu/2 times 0.143."""
    assert Compose(L0Penalty(0.05), Binary(scale=False)).compress(
        vector([0.6, 0.5]), MU
    ).decompress().tolist() == [1, 0]


def test_compose_goes_on_from_the_last_theta():
    """Factors on a coarse grid that no rounding of the singular vectors gives."""
    u, v = (Uniform(2).compress(torch.randn(n, dtype=torch.float64), MU) for n in (30, 36))
    start = LowRank(3).compress(torch.randn(10, 12, dtype=torch.float64), MU)
    planted = start._replace(
        u=Sum((leco.theta.Term(u, VECTOR, (0,)),), ((10, 3),), 1),
        v=Sum((leco.theta.Term(v, VECTOR, (0,)),), ((3, 12),), 1),
    )
    x, compose = planted.decompress(), Compose(LowRank(3), Uniform(2))
    assert objective(compose, x, compose.compress(x, MU)) > 1e-3
    assert objective(compose, x, compose.compress(x, MU, planted)) < 1e-12


def test_a_price_of_the_fields_keeps_the_best_theta():
    """The steps for the kept values do not see what `L1Penalty` asks for them."""
    x = torch.randn(40, dtype=torch.float64)
    shrunk = L1Penalty(0.5).compress(x, MU)
    start = Sparse(shrunk.mask, Codebook(8).compress(shrunk.values, MU))
    compose = Compose(L1Penalty(0.5), Codebook(8))
    assert objective(compose, x, compose.compress(x, MU, start)) <= objective(compose, x, start)


def test_prices_of_the_fields_enter_as_they_should():
    """A stationary point of mu/2 ||x - u v||^2 + alpha (||u||_1 + ||v||_1): each gradient is alpha
    against the sign, or below it at 0."""
    x, alpha = 4 * torch.randn(6, 7, dtype=torch.float64), 0.8
    compose = Compose(LowRank(2), L1Penalty(alpha), Rows(), sweeps=3000)
    theta = compose.compress(x, MU)
    u, v = theta.u.decompress(), theta.v.decompress()
    assert compose.price(theta) == pytest.approx(alpha * float(u.abs().sum() + v.abs().sum()))
    for factor, gradient in ((u, MU * (u @ v - x) @ v.T), (v, MU * u.T @ (u @ v - x))):
        assert ((gradient + alpha * factor.sign())[factor != 0].abs() < 0.05 * alpha).all()
        assert (gradient[factor == 0].abs() < 1.05 * alpha).all()


def test_fields_start_from_their_last_theta():
    starts = []

    @dataclass(frozen=True)
    class Recorded(Codebook):
        def compress(self, x, mu, theta=None):
            starts.append(theta)
            return super().compress(x, mu, theta)

    Compose(LowRank(2), Recorded(4), sweeps=2).compress(torch.randn(8, 9, dtype=torch.float64), MU)
    assert [start is None for start in starts] == [True] * 2 + [False] * 4


def test_fewer_weights_are_kept_where_values_are_coarse():
    """Most weights are worth their price, but not one of the two values that suit the large
    ones."""
    x = torch.cat([torch.full((20,), 0.9, dtype=torch.float64), vector([8, 8, 9, 9])])
    theta = Compose(L0Penalty(0.3), Codebook(1)).compress(x, 1.0)
    assert theta.decompress().tolist() == [0] * 20 + [8.5] * 4


def test_fields_that_are_empty_or_too_small_stay():
    x = torch.randn(6, dtype=torch.float64)
    assert Compose(TopK(0), Codebook(2)).compress(x, MU).decompress().count_nonzero() == 0
    assert (
        Compose(LowRank(0), Uniform(8)).compress(x.view(2, 3), MU).decompress().count_nonzero() == 0
    )
    few = Compose(L0Penalty(1.0), Codebook(6))
    theta = few.compress(x * (x.abs() == x.abs().max()) * 10, MU)
    assert isinstance(theta.values, Tensor)
    again = few.compress(20 * x.sign(), MU, theta)
    assert isinstance(again.values, Codes)


def test_compose_does_not_start_from_the_theta_of_another_shape():
    x = torch.randn(20, dtype=torch.float64)
    compose = Compose(TopK(5), Codebook(2))
    assert torch.equal(
        compose.compress(x, MU, compose.compress(x[:10], MU)).decompress(),
        compose.compress(x, MU).decompress(),
    )


# --- in the algorithm


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def tasks() -> dict[str, leco.Task]:
    sums = [Part(VECTOR, Codebook(2)), Part(MATRIX, LowRank(1), (1,)), Part(VECTOR, TopK(4))]
    return {"both": leco.Task(["0.weight", "2.weight"], leco.Blocks(), Additive(sums))}


def nested() -> dict[str, leco.Task]:
    low = [
        (MATRIX, Compose(LowRank(1), Uniform(4), Rows(1))),
        (VECTOR, Compose(TopK(4), Codebook(2))),
    ]
    return {
        "first": leco.Task("0.weight", leco.Kernel(), Additive(low)),
        "second": leco.Task("2.weight", VECTOR, Compose(L0Penalty(0.01), Ternary())),
    }


DATA = (
    torch.randn(16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    torch.arange(16) % 3,
)


@pytest.mark.parametrize("make", [tasks, nested])
def test_state_and_projection_of_nested_thetas(make):
    lc, other = leco.LC(network(), make()), leco.LC(network(), make())
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.1)
    lc.attach(optimizer)
    for mu in (0.1, 0.2, 0.4):
        lc.mu = mu
        optimizer.zero_grad()
        nn.functional.cross_entropy(lc.model(DATA[0]), DATA[1]).backward()
        optimizer.step()
        lc.step()
    assert lc.bits() > 0
    other.load_state_dict(lc.state_dict())
    for name, theta in lc.thetas.items():
        assert all(
            torch.equal(a, b)
            for a, b in zip(free_leaves(theta), free_leaves(other.thetas[name]), strict=True)
        )
        assert type(other.thetas[name]) is type(theta)
    assert all(torch.equal(lc.delta[name], other.delta[name]) for name in lc.delta)
    other.model.load_state_dict(lc.model.state_dict())
    lc.step()
    other.step()
    assert all(torch.equal(lc.delta[name], other.delta[name]) for name in lc.delta)
    lc.project_()
    assert all(torch.equal(lc.model.get_parameter(name), delta) for name, delta in lc.delta.items())


def by_hand(theta, name: str, leaves: list[Tensor]) -> dict[str, Tensor]:
    """The weights of the tasks above from the free floats, in order, written out."""
    if name == "both":
        codes, low, sparse = (term.theta for term in theta.terms)
        codebook, u, v, kept = leaves
        flat = codebook[codes.indices.long()].index_add(0, sparse.mask.nonzero().squeeze(1), kept)
        return {"0.weight": flat[:35].view(7, 5), "2.weight": flat[35:].view(3, 7) + u @ v}
    if name == "first":
        low, sparse = (term.theta for term in theta.terms)
        su, sv, codebook = leaves
        grid = [f.terms[0].theta for f in (low.u, low.v)]
        u, v = (
            (s[:, None] * (q.indices.double() - q.zero_point[:, None].double())).T
            for s, q in zip((su, sv), grid, strict=True)
        )
        flat = torch.zeros(35, dtype=torch.float64).index_add(
            0, sparse.mask.nonzero().squeeze(1), codebook[sparse.values.indices.long()]
        )
        return {"0.weight": u @ v + flat.view(7, 5)}
    (scale,) = leaves
    kept = theta.mask.nonzero().squeeze(1)
    values = scale * theta.values.values[theta.values.indices.long()]
    return {"2.weight": torch.zeros(21, dtype=torch.float64).index_add(0, kept, values).view(3, 7)}


@pytest.mark.parametrize("make", [tasks, nested])
def test_retraining_has_the_gradient_of_the_parametrisation(make):
    lc = leco.LC(network(), make())
    lc.mu = 1.0
    free = leco.Retraining(lc)
    optimizer = torch.optim.SGD(free.parameters(), lr=0.1)
    free.attach(optimizer)
    leaves = {
        name: [leaf.clone().requires_grad_() for leaf in free_leaves(theta)]
        for name, theta in lc.thetas.items()
    }
    weights = dict(
        itertools.chain(
            *(by_hand(lc.thetas[name], name, own).items() for name, own in leaves.items())
        )
    )
    assert all(torch.allclose(weights[name], lc.delta[name]) for name in lc.delta)
    rest = {name: p.detach() for name, p in lc.model.named_parameters() if name not in weights}
    nn.functional.cross_entropy(
        torch.func.functional_call(lc.model, weights | rest, DATA[0]), DATA[1]
    ).backward()
    optimizer.zero_grad()
    nn.functional.cross_entropy(lc.model(DATA[0]), DATA[1]).backward()
    optimizer.step()
    for name, own in leaves.items():
        moved = [leaf.detach() - 0.1 * leaf.grad for leaf in own]
        for got, expected in zip(free_leaves(lc.thetas[name]), moved, strict=True):
            torch.testing.assert_close(got, expected)
    lc.step()  # from retrained Thetas


@dataclass(frozen=True)
class Upside(Matrix):
    """A view of a user's own."""


class Own(Codes):
    """A form of a user's own."""


@dataclass(frozen=True)
class OwnCodebook(Codebook):
    forms = (Own,)

    def compress(self, x, mu, theta=None):
        return Own(*super().compress(x, mu, theta))


def test_forms_and_views_of_the_members_are_known():
    model = network()
    compression = Additive(
        [(Upside(), LowRank(1)), (MATRIX, Compose(LowRank(2), OwnCodebook(2), Upside((0,))))]
    )
    assert Own in compression.forms
    assert Upside in compression.views
    assert Compose(LowRank(1), Uniform(4), Upside()).views == (Upside,)
    lc, other = (
        leco.LC(model, {"t": leco.Task("0.weight", leco.Kernel(), compression)}) for _ in range(2)
    )
    lc.mu = 1.0
    other.load_state_dict(lc.state_dict())
    assert torch.equal(other.delta["0.weight"], lc.delta["0.weight"])


# --- errors


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Additive([]), "must be at least two"),
        (lambda: Additive([(VECTOR, Binary())]), "must be at least two"),
        (
            lambda: Additive([(VECTOR, Binary()), (VECTOR, TopK(1))], sweeps=0),
            "Additive: sweeps = 0 must be at least 1",
        ),
        (
            lambda: Additive([(MATRIX, LowRank(2)), (MATRIX, LowRank(3))]),
            r"terms 0 and 1, .* compete: .* write LowRank\(5\)",
        ),
        (
            lambda: Additive([(MATRIX, LowRank(2)), (MATRIX, RankSelection(1.0))]),
            "write one RankSelection",
        ),
        (
            lambda: Additive([(VECTOR, Binary()), (VECTOR, TopK(2)), (VECTOR, L0Penalty(1))]),
            "terms 1 and 2, .* both correct the same weights",
        ),
        (
            lambda: Additive([(VECTOR, Binary(False)), (Rows(), Ternary(False))]),
            r"one fixed codebook; write FixedCodebook\(values\)",
        ),
        (
            lambda: Additive([(VECTOR, Binary()), (VECTOR, L2Ball(1.0))]),
            "an l2 ball leaves every weight free",
        ),
        (lambda: Compose(TopK(3), Codebook(2), sweeps=0), "Compose: sweeps = 0 must be at least 1"),
    ],
)
def test_construction_names_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "first", [Codebook(2), L1Ball(1.0), L2Ball(1.0), Uniform(4), LowRank], ids=label
)
def test_compose_names_what_can_come_first(first):
    with pytest.raises(
        TypeError, match=r"Compose: first = .* must be one of TopK, L0Penalty, .*LowRank"
    ):
        Compose(first, Uniform(4))


def test_the_order_of_a_part_is_named():
    with pytest.raises(TypeError, match=r"the order is Part\(view, compression\)"):
        Additive([(Binary(), VECTOR), (VECTOR, TopK(1))])
    with pytest.raises(TypeError, match="is not an instance of a compression"):
        Compose(TopK(1), VECTOR)


S = torch.Size


@pytest.mark.parametrize(
    ("compression", "shape", "words"),
    [
        (
            Additive([(VECTOR, Codebook(9)), (VECTOR, TopK(1))]),
            S([2, 4]),
            "Additive: term 0: Codebook: k = 9 must be at most 8",
        ),
        (
            Additive([(VECTOR, Codebook(2)), (VECTOR, TopK(9))]),
            S([2, 4]),
            "Additive: term 1: TopK: kappa = 9 must be at most 8",
        ),
        (
            Additive([(MATRIX, LowRank(2)), (VECTOR, TopK(1))]),
            S([2, 4]),
            r"term 0, LowRank\(rank=2\), holds any array of shape \(2, 4\)",
        ),
        (
            Additive([(MATRIX, LowRank(1)), (Rows(), TopK(4))]),
            S([2, 4]),
            r"term 1, TopK\(kappa=4.*\), holds any array",
        ),
        (
            Additive([Part(VECTOR, Binary(), (0,)), Part(VECTOR, TopK(1), (0,))]),
            (S([2]), S([3])),
            r"block 1, of shape \(3,\), has no term",
        ),
        (
            Additive([Part(MATRIX, LowRank(1), (0,)), Part(MATRIX, LowRank(1))]),
            S([2, 4]),
            r"compete: .* LowRank\(2\)",
        ),
        (
            Additive([Part(VECTOR, Binary(False), (0,)), Part(VECTOR, Binary(False))]),
            (S([2]), S([3])),
            "one fixed codebook",
        ),
        (
            Additive([Part(VECTOR, Binary(), (2,)), Part(VECTOR, TopK(1))]),
            (S([2]), S([3])),
            r"term 0: Part: at = \(2,\)",
        ),
        (
            Compose(TopK(3), Codebook(4)),
            S([9]),
            r"can't take the values of TopK.*\(3,\): Codebook: k = 4 must be at most 3",
        ),
        (Compose(TopK(10), Codebook(4)), S([9]), "TopK: kappa = 10 must be at most 9"),
        (
            Compose(LowRank(2), Uniform(4), leco.Groups(5)),
            S([9, 10]),
            r"the u of LowRank\(rank=2\), of shape \(9, 2\): .* 5 does not divide the 18",
        ),
        (
            Compose(LowRank(2), Codebook(3), Rows()),
            S([9, 10]),
            "the u of .*Codebook: k = 3 must be at most 2",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_named(compression, shape, words):
    with pytest.raises(ValueError, match=words):
        compression.check(shape)


def test_terms_that_compete_elsewhere_only_are_a_sum():
    Additive([Part(MATRIX, LowRank(2), (0,)), Part(MATRIX, LowRank(2), (1,))]).check(
        (S([3, 4]), S([3, 4]))
    )
    Additive([(MATRIX, LowRank(2)), (Matrix((1,)), LowRank(1))]).check(S([3, 4]))
    Additive([Part(MATRIX, LowRank(3), (0,)), Part(VECTOR, TopK(1), (1,))]).check(
        (S([3, 4]), S([5]))
    )
    Additive([(VECTOR, Codebook(2)), (VECTOR, Codebook(2))]).check(S([3, 4]))

"""C steps against brute force on tiny inputs, and against other people's algorithms on larger ones.
The objective is compared, and so is Delta where the optimum is unique."""

import itertools
import math

import kmeans1d
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

import leco
from leco.compressions import (
    Binary,
    Codebook,
    ConvRankSelection,
    FixedCodebook,
    L0Penalty,
    L1Ball,
    L1Penalty,
    L2Ball,
    LowRank,
    PowersOfTwo,
    RankSelection,
    Ternary,
    TopK,
    Uniform,
    cells,
    codebooks,
    quantization,
    sorted_values,
)
from leco.theta import Codes, ConvFactors, Dense

quick = settings(max_examples=60, deadline=None, derandomize=True)
small_integers = st.lists(st.integers(-4, 4), min_size=1, max_size=12)  # ties everywhere
small_floats = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)


@pytest.mark.parametrize("dense", [0, 10**6])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 5000])
def test_sums_of_runs_are_those_of_the_sorted_values(
    n: int, dense: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sorted_values, "DENSE", dense)
    x = torch.randn(3, n, dtype=torch.float64)
    data, runs = sorted_values.Sorted(x.clone()), x.sort(dim=-1).values.split(1)
    assert (data.block == 1) == (dense > 0)
    cuts = torch.tensor([0, 1, n // 3, n // 2, n]).expand(3, -1)
    expected = torch.stack(
        [torch.stack([row[0, :cut].sum() for cut in cuts[0].tolist()]) for row in runs]
    )
    torch.testing.assert_close(data.prefix_sums(cuts), expected, rtol=1e-12, atol=1e-12)
    positions, masses, sums = data.candidates(16)
    assert torch.equal(masses, positions.double())
    torch.testing.assert_close(sums, data.prefix_sums(positions), rtol=1e-12, atol=1e-12)
    edges = torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64).expand(3, 1, -1)
    numbers, totals = data.cells(edges)
    borders = [-torch.inf, *edges[0, 0].tolist(), torch.inf]
    for j, (low, high) in enumerate(itertools.pairwise(borders)):
        own = (x > low) & (x <= high)
        assert torch.equal(numbers[:, 0, j], own.sum(-1))
        torch.testing.assert_close(totals[:, 0, j], (x * own).sum(-1), rtol=1e-12, atol=1e-12)


def vector(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def error(compression, x: Tensor, mu: float = 2.0) -> float:
    """The objective: ||x - Delta||^2 at mu = 2, plus the price."""
    theta = compression.compress(x, mu)
    return mu / 2 * float((x - theta.decompress()).square().sum()) + compression.price(theta)


def equal(a: float, b: float, x: Tensor) -> bool:
    return abs(a - b) <= 1e-9 * (b + float(x.square().sum()))


# --- codebooks


def kmeans_error(x: Tensor, k: int) -> float:
    found = kmeans1d.cluster(x.tolist(), k)
    return float((x - vector(found.centroids)[torch.tensor(found.clusters)]).square().sum())


def runs_error(x: Tensor, k: int) -> float:
    """Over all ways to cut the sorted values into k runs, some of them empty."""
    ordered, n = x.sort().values, len(x)
    cuts = itertools.combinations_with_replacement(range(n + 1), k - 1)
    runs = ([ordered[i:j] for i, j in itertools.pairwise((0, *cut, n))] for cut in cuts)
    return min(
        sum(float((run - run.mean()).square().sum()) for run in parts if len(run)) for parts in runs
    )


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (5, 2), (7, 3), (8, 4), (6, 6)])
def test_codebook_is_the_best_of_all_cuts(n, k):
    for x in (torch.randn(n, dtype=torch.float64), torch.randint(-2, 3, (n,)).double()):
        assert equal(error(Codebook(k), x), runs_error(x, k), x)


@pytest.mark.parametrize(
    ("n", "k"), [(10, 2), (100, 3), (100, 7), (333, 16), (1000, 2), (1000, 40), (50, 50), (90, 80)]
)
@pytest.mark.parametrize("exact", [None, True])
def test_codebook_is_kmeans1d(n, k, exact):
    for x in (torch.randn(n), torch.randn(n) ** 3, torch.rand(n) + 5, (3 * torch.randn(n)).round()):
        x = x.double()
        assert equal(error(Codebook(k, exact), x), kmeans_error(x, k), x)


@quick
@given(small_integers | small_floats, st.integers(1, 6))
def test_codebook_is_kmeans1d_with_ties(values, k):
    x, k = vector(values), min(k, len(values))
    assert equal(error(Codebook(k), x), kmeans_error(x, k), x)


@quick
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 4), st.data())
def test_codebook_of_a_batch_is_kmeans1d_of_each_row(rows, n, k, data):
    x = vector(data.draw(st.lists(st.integers(-3, 3), min_size=rows * n, max_size=rows * n))).view(
        rows, n
    )
    k = min(k, n)
    assert equal(error(Codebook(k), x), sum(kmeans_error(row, k) for row in x), x)


@pytest.mark.parametrize("part", [1, 4, 16, 2**15])
@pytest.mark.parametrize("shape", [(1, 2), (3, 11), (7, 3), (5, 16)])
def test_codebook_of_two_values_is_kmeans1d_a_part_at_a_time(part, shape, monkeypatch):
    monkeypatch.setattr("leco.compressions.kmeans1d.PART", part)
    x = torch.randn(shape, dtype=torch.float64)
    for own in (x, x**3, x.round(), 1e6 + x, torch.ones_like(x)):
        assert equal(error(Codebook(2), own), sum(kmeans_error(row, 2) for row in own), own)


def test_codebook_of_two_values_is_exact_however_many_weights(monkeypatch):
    monkeypatch.setattr(codebooks, "EXACT_SIZE", 0)
    x = (
        torch.randn(3, 2**15, dtype=torch.float64)
        .add_(torch.tensor([[0.0], [10.0], [21.0]], dtype=torch.float64))
        .flatten()
    )
    stuck = Codes(
        torch.zeros(x.shape, dtype=torch.uint8), torch.tensor([0.0, 15.5], dtype=torch.float64)
    )
    best, local = (
        float((x - Codebook(2, exact).compress(x, 1.0, stuck).decompress()).square().sum())
        for exact in (None, False)
    )
    assert best == pytest.approx(kmeans_error(x, 2), rel=1e-12)
    assert local > 1.1 * best  # where Lloyd's algorithm stays


@pytest.mark.parametrize(("exact", "n"), [(True, 200), (False, 200), (False, 3000)])
def test_codebook_entries_are_centroids_of_their_cells_in_increasing_order(exact, n):
    theta = Codebook(5, exact).compress(x := torch.randn(3, n, dtype=torch.float64), 1.0)
    assert (theta.codebook.diff() > 0).all()
    for row, indices, codebook in zip(x, theta.indices, theta.codebook, strict=True):
        torch.testing.assert_close(
            codebook, torch.stack([row[indices == j].mean() for j in range(5)])
        )


def laplace(n: int) -> Tensor:
    return torch.distributions.Laplace(0.0, 1.0).sample((n,))


@pytest.mark.parametrize("k", [2, 4, 16])
@pytest.mark.parametrize("draw", [torch.randn, laplace], ids=["normal", "laplace"])
def test_cold_lloyd_is_near_the_optimum(draw, k):
    x = draw(20_000).double()
    assert error(Codebook(k, exact=False), x) <= kmeans_error(x, k) * 1.01
    assert error(Codebook(k, exact=False), x.float().double()) <= 1.01 * error(
        Codebook(k, exact=True), x
    )


@pytest.mark.parametrize(("n", "k"), [(1500, 128), (5000, 64)])
def test_cold_lloyd_is_near_the_optimum_for_many_values_too(n, k):
    """The tails need cells of few values."""
    for x in (torch.randn(n).double(), laplace(n).double(), torch.randn(n).double() ** 3):
        assert error(Codebook(k, exact=False), x) <= kmeans_error(x, k) * 1.05


def test_lloyd_of_a_batch_is_near_the_optimum_of_each_row():
    x = torch.randn(3, 5000, dtype=torch.float64) * torch.tensor([[1.0], [10.0], [0.01]])
    delta = Codebook(4, exact=False).compress(x, 1.0).decompress()
    for row, out in zip(x, delta, strict=True):
        assert float((row - out).square().sum()) <= kmeans_error(row, 4) * 1.01


def test_a_warm_lloyd_starts_from_the_given_codebook():
    """In a local optimum it stays: 3 clusters, two of the three values on one of them."""
    x = vector([0.0, 0.1, 10.0, 10.1, 20.0, 20.1])
    cold = Codebook(3, exact=False).compress(x, 1.0)
    stuck = cold._replace(codebook=vector([0.0, 0.1, 15.05]))
    assert Codebook(3, exact=False).compress(x, 1.0, stuck).codebook.tolist() == pytest.approx(
        [0.0, 0.1, 15.05]
    )
    assert Codebook(3, exact=True).compress(x, 1.0, stuck).codebook.tolist() == pytest.approx(
        [0.05, 10.05, 20.05]
    )


def test_many_values_take_wider_indices():
    x = torch.arange(300, dtype=torch.float64)
    for k, dtype in ((257, torch.int32), (256, torch.uint8)):
        theta = FixedCodebook(range(k)).compress(x, 1.0)
        assert theta.indices.dtype == dtype
        assert torch.equal(theta.decompress(), x.clamp(max=k - 1))
    start = Codebook(300, exact=False).compress(
        x, 1.0, Codes(torch.zeros(300, dtype=torch.int32), x)
    )
    assert start.indices.dtype == torch.int32
    assert torch.equal(start.decompress(), x)


@pytest.mark.parametrize(
    "compression",
    [
        Codebook(4, exact=False),
        PowersOfTwo(2, scale=True),
        FixedCodebook((-1, 2), True),
        Uniform(3, True),
    ],
    ids=str,
)
def test_a_batch_too_large_for_one_go_is_taken_in_parts(compression, monkeypatch):
    x = torch.randn(7, 60, dtype=torch.float64)
    monkeypatch.setattr(codebooks, "EXACT_WORK", 0)
    monkeypatch.setattr(quantization, "EXACT_WORK", 0)
    whole = compression.compress(x, 1.0)
    monkeypatch.setattr(sorted_values, "QUERIES", 700)
    parts = compression.compress(x, 1.0)
    assert torch.equal(parts.decompress(), whole.decompress())
    assert torch.equal(
        compression.compress(x.view(7, 1, 60), 1.0).decompress()[:, 0], whole.decompress()
    )


# --- given values, with and without a scale


def all_points(values, n: int) -> Tensor:
    return torch.cartesian_prod(*[vector(values)] * n).view(-1, n)


def scaled_error(x: Tensor, values) -> float:
    """Over all K^n assignments, each with its least-squares scale s >= 0."""
    points = all_points(values, len(x))
    a, b = (points @ x).clamp(min=0), points.square().sum(1)
    return float(x.square().sum() - torch.where(b > 0, a.square() / b, 0).max())


def nearest_error(x: Tensor, values) -> float:
    return float((x - all_points(values, len(x))).square().sum(1).min())


def powers(c: int) -> list[float]:
    return [0.0, *(sign * 2.0**-j for j in range(c + 1) for sign in (-1, 1))]


SETS = [
    (Binary, [-1, 1], 9),
    (Ternary, [-1, 0, 1], 7),
    (lambda scale: PowersOfTwo(0, scale), powers(0), 7),
    (lambda scale: PowersOfTwo(1, scale), powers(1), 6),
    (lambda scale: PowersOfTwo(2, scale), powers(2), 5),
    (lambda scale: FixedCodebook((-1, 0.5, 2), scale), [-1, 0.5, 2], 7),
    (lambda scale: FixedCodebook((-2, -1, 1, 2), scale), [-2, -1, 1, 2], 6),
    (lambda scale: FixedCodebook((1, 3), scale), [1, 3], 8),
    (lambda scale: FixedCodebook((-3, -2, -0.1), scale), [-3, -2, -0.1], 7),
    (lambda scale: FixedCodebook((0, 1), scale), [0, 1], 8),
    (lambda scale: FixedCodebook((-2,), scale), [-2], 5),
    (lambda scale: FixedCodebook((-1e-7, 1), scale), [-1e-7, 1], 4),
]
sets = pytest.mark.parametrize(
    ("make", "values", "most"),
    SETS,
    ids=lambda value: str(value) if isinstance(value, list) else "",
)


@sets
@pytest.mark.parametrize("scale", [False, True])
def test_given_values_are_the_best_of_all_assignments(make, values, most, scale):
    best = scaled_error if scale else nearest_error
    for n in {1, 2, most}:
        for x in (
            torch.randn(n),
            -torch.rand(n),
            torch.rand(n) + 1,
            30 * torch.randn(n),
            torch.randint(-2, 3, (n,)),
            torch.zeros(n),
        ):
            x = x.double()
            assert equal(error(make(scale), x), best(x, values), x)


@quick
@given(
    st.sampled_from(SETS[:6]), st.booleans(), st.lists(st.integers(-3, 3), min_size=1, max_size=5)
)
def test_given_values_are_the_best_with_ties(case, scale, integers):
    make, values, _ = case
    x = vector(integers)
    assert equal(error(make(scale), x), (scaled_error if scale else nearest_error)(x, values), x)


@pytest.mark.parametrize(
    "make",
    [lambda: Ternary(), lambda: PowersOfTwo(1, True), lambda: FixedCodebook((-1, 0.5, 2), True)],
)
def test_scales_of_a_batch_are_the_best_of_each_row(make):
    x = torch.randn(4, 5, dtype=torch.float64) * torch.tensor([[1.0], [100.0], [0.01], [0.0]])
    values = {Ternary: [-1, 0, 1], PowersOfTwo: powers(1), FixedCodebook: [-1, 0.5, 2]}[
        type(make())
    ]
    delta = make().compress(x, 1.0).decompress()
    for row, out in zip(x, delta, strict=True):
        assert equal(float((row - out).square().sum()), scaled_error(row, values), row)


def test_ternary_of_many_rows_is_scanned_in_blocks():
    """2^20 // rows entries at a time, here 4 of 6."""
    x = torch.randn(2**18, 6)
    ordered = x.abs().sort(descending=True).values.double().cumsum(-1)
    count = torch.arange(1, 7)
    j = (ordered / count.sqrt()).argmax(-1, keepdim=True)
    scale = Ternary().compress(x, 1.0).scale
    torch.testing.assert_close(scale, (ordered.gather(-1, j) / count[j]).squeeze(-1).float())


@pytest.mark.parametrize("make", [make for make, _, _ in SETS[2:-1]])
@pytest.mark.parametrize("shift", [0.0, 1.0, -3.0])
def test_the_descent_of_a_scale_is_near_the_optimum(make, shift, monkeypatch):
    for x in (torch.randn(2000).double() + shift, laplace(2000).double() + shift):
        exact = error(make(True), x)
        monkeypatch.setattr(codebooks, "EXACT_WORK", 0)
        monkeypatch.setattr(quantization, "EXACT_WORK", 0)
        monkeypatch.setattr(quantization, "best_scale", None)
        assert exact * (1 - 1e-9) <= error(make(True), x) <= exact * 1.01
        monkeypatch.undo()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_descent_of_a_scale_goes_on_from_the_last_one(sign, monkeypatch):
    """All x near +-1 and +-2, and a value 100 that none needs: no start of the search finds the
    scale 1. Retraining may turn its sign."""
    compression = FixedCodebook((-100, -2, -1, 1, 2, 100), scale=True)
    x = torch.tensor([-2, -1, 1, 2]).repeat(100) + 0.1 * torch.randn(400, dtype=torch.float64)
    exact = compression.compress(x, 1.0)
    last = exact._replace(
        scale=sign * exact.scale, indices=exact.indices if sign == 1 else 5 - exact.indices
    )
    assert torch.equal(last.decompress(), exact.decompress())
    monkeypatch.setattr(codebooks, "EXACT_WORK", 0)
    monkeypatch.setattr(quantization, "EXACT_WORK", 0)
    torch.testing.assert_close(compression.compress(x, 1.0, last).decompress(), exact.decompress())


@pytest.mark.parametrize("c", [0, 1, 2, 5])
def test_borders_of_powers_of_two(c):
    """3/4 of 2^-j between 2^-j and 2^-(j+1), and 2^-c / 2 below: just above and just below, on both
    sides."""
    for sign in (-1.0, 1.0):
        for j in range(c):
            border = sign * 0.75 * 2.0**-j
            delta = (
                PowersOfTwo(c)
                .compress(vector([border * (1 - 1e-12), border * (1 + 1e-12)]), 1.0)
                .decompress()
            )
            assert delta.tolist() == [sign * 2.0 ** -(j + 1), sign * 2.0**-j]
        border = sign * 2.0**-c / 2
        delta = (
            PowersOfTwo(c)
            .compress(vector([border * (1 - 1e-12), border * (1 + 1e-12), sign * 1e9]), 1.0)
            .decompress()
        )
        assert delta.tolist() == [0.0, sign * 2.0**-c, sign]


@pytest.mark.parametrize("border", [0.75, -0.75, 0.25, -0.25])
def test_on_a_border_either_value_will_do(border):
    assert error(PowersOfTwo(1), vector([border])) == 0.0625


# --- the uniform grid, a descent step


@pytest.mark.parametrize(("bits", "n"), [(2, 1), (2, 4), (2, 7), (3, 4)])
def test_uniform_is_near_the_best_of_all_assignments(bits, n):
    """All assignments with their least-squares scales. The C step is not exact: it may miss a grid,
    by little of ||x||^2."""
    levels = list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    for _ in range(10):
        x = torch.randn(n, dtype=torch.float64)
        best, found = scaled_error(x, levels), error(Uniform(bits), x)
        assert best - 1e-12 <= found <= best + 0.01 * float(x.square().sum())


@pytest.mark.parametrize("n", [1, 3, 6])
def test_uniform_with_a_zero_point_is_near_the_best_of_all_assignments(n):
    for shift in (0.0, 1.0, -2.0):
        x = torch.randn(n, dtype=torch.float64) + shift
        best = min(scaled_error(x, [q - z for q in range(4)]) for z in range(4))
        found = error(Uniform(2, zero_point=True), x)
        assert best - 1e-12 <= found <= best + 0.01 * float(x.square().sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("zero_point", [False, True])
def test_uniform_is_near_a_dense_scan_of_scales(bits, zero_point):
    for x in (torch.randn(500).double(), laplace(500).double(), torch.randn(500).double() + 2):
        top = 2**bits - 1
        zeros = (
            {2 ** (bits - 1)}
            if not zero_point
            else {round(share * top / 20) for share in range(21)}
        )
        widest = 1.05 * float(torch.maximum(x.max().clamp(min=0), -x.min().clamp(max=0)) * 2) / top
        best = math.inf
        for z in zeros:
            s = (torch.linspace(0.05, 1.1, 400, dtype=torch.float64) * widest).unsqueeze(-1)
            best = min(
                best, float((x - s * (x / s).round().clamp(-z, top - z)).square().sum(-1).min())
            )
        assert error(Uniform(bits, zero_point), x) <= best * 1.06


# --- pruning


@quick
@given(
    small_integers,
    st.integers(0, 12),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([0.25, 2.0]),
)
def test_top_k_is_the_best_of_all_supports(values, kappa, gamma, mu):
    """On a support, the best theta minimises mu/2 (x - t)^2 + gamma/2 t^2 entry by entry."""
    x, kappa = vector(values), min(kappa, len(values))

    def on(support) -> float:
        kept = x[list(support)]
        t = mu * kept / (mu + gamma)
        return float(
            mu / 2 * (x.square().sum() - kept.square().sum() + (kept - t).square().sum())
            + gamma / 2 * t.square().sum()
        )

    best = min(on(support) for support in itertools.combinations(range(len(x)), kappa))
    theta = TopK(kappa, gamma).compress(x, mu)
    assert int(theta.mask.sum()) == len(theta.values) == kappa
    assert equal(error(TopK(kappa, gamma), x, mu), best, x)


@quick
@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_a_share_is_the_nearest_count_and_above_0_at_least_1(n, share):
    kept = int(TopK(share).compress(torch.randn(n), 1.0).mask.sum())
    assert abs(kept - share * n) <= 0.5 or (kept == 1 and 0 < share * n < 0.5)


def duchi(x: Tensor, kappa: float) -> Tensor:
    """Duchi et al., ICML 2008, figure 1: rho is the last j with mu_j > (mu_1 + ... + mu_j -
    kappa)/j."""
    if float(x.abs().sum()) <= kappa:
        return x
    if kappa == 0:
        return torch.zeros_like(x)
    ordered = sorted(x.abs().tolist(), reverse=True)
    sums = list(itertools.accumulate(ordered))
    rho = max(j for j in range(1, len(x) + 1) if ordered[j - 1] - (sums[j - 1] - kappa) / j > 0)
    return x.sign() * (x.abs() - (sums[rho - 1] - kappa) / rho).clamp(min=0)


def bisected(x: Tensor, kappa: float) -> Tensor:
    low, high = 0.0, float(x.abs().max())
    if float(x.abs().sum()) <= kappa:
        return x
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if float((x.abs() - middle).clamp(min=0).sum()) > kappa
            else (low, middle)
        )
    return x.sign() * (x.abs() - high).clamp(min=0)


@quick
@given(small_integers | small_floats, st.just(0.0) | st.floats(1e-3, 40))
def test_l1_ball_is_the_algorithm_of_duchi_and_bisection(values, kappa):
    x = vector(values)
    delta = L1Ball(kappa).compress(x, 1.0).decompress()
    torch.testing.assert_close(delta, duchi(x, kappa), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(delta, bisected(x, kappa), rtol=1e-9, atol=1e-9)


def test_l1_ball_of_a_batch_with_rows_inside_and_outside():
    x = torch.randn(5, 30, dtype=torch.float64) * torch.tensor(
        [[0.01], [1.0], [0.0], [100.0], [0.1]]
    )
    delta = L1Ball(4.0).compress(x, 1.0).decompress()
    for row, out in zip(x, delta, strict=True):
        torch.testing.assert_close(out, duchi(row, 4.0))


@quick
@given(small_floats, st.floats(0, 20))
def test_l2_ball_is_the_nearest_point_on_the_ray(values, kappa):
    """By symmetry the nearest point is t x with 0 <= t <= 1; the largest t that is allowed."""
    x = vector(values)
    norm = math.sqrt(sum(v * v for v in values))
    t = 1.0 if norm <= kappa else kappa / norm
    torch.testing.assert_close(L2Ball(kappa).compress(x, 1.0).decompress(), t * x)


@pytest.mark.parametrize(
    ("kind", "cost"), [(L0Penalty, lambda t: (t != 0).double()), (L1Penalty, lambda t: t.abs())]
)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_penalties_are_the_best_on_a_grid(kind, cost, alpha, mu):
    x = torch.arange(-60, 61) / vector(20)
    grid = torch.arange(-1200, 1201) / vector(400)  # holds 0 and all x
    best = (mu / 2 * (x.unsqueeze(-1) - grid).square() + alpha * cost(grid)).amin(-1)
    delta = kind(alpha).compress(x, mu).decompress()
    reached = mu / 2 * (x - delta).square() + alpha * cost(delta)
    assert (reached <= best + 1e-12).all()
    assert (reached >= best - mu * 0.0025**2).all()  # so near is the grid


def test_the_l0_threshold_and_the_l1_threshold():
    x = vector([0.99, 1.01, -0.99, -1.01])
    assert L0Penalty(1.0).compress(x, 2.0).decompress().tolist() == [0, 1.01, 0, -1.01]
    assert L1Penalty(2.0).compress(x, 2.0).decompress().tolist() == pytest.approx(
        [0, 0.01, 0, -0.01]
    )


# --- low rank


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 7), (3, 1), (2, 6, 4)])
def test_low_rank_has_the_error_of_eckart_and_young(shape):
    x = torch.randn(shape, dtype=torch.float64)
    spectrum = torch.from_numpy(np.linalg.svd(x.numpy(), compute_uv=False)).square()
    for r in range(min(shape[-2:]) + 1):
        theta = LowRank(r).compress(x, 1.0)
        assert equal(error(LowRank(r), x), float(spectrum[..., r:].sum()), x)
        if not isinstance(theta, Dense):
            assert theta.u.shape[-1] == theta.v.shape[-2] == r
            # balanced
            torch.testing.assert_close(theta.u.square().sum(-2), theta.v.square().sum(-1))


@pytest.mark.parametrize("r", [1, 2, 3])
def test_no_random_factors_beat_low_rank(r):
    """Each pair after ten sweeps of alternating least squares, which converges to the optimum from
    below no start."""
    x = torch.randn(6, 5, dtype=torch.float64)
    least = error(LowRank(r), x)
    for _ in range(20):
        v = torch.randn(r, 5, dtype=torch.float64)
        for _ in range(10):
            u = torch.linalg.lstsq(v.T, x.T).solution.T
            v = torch.linalg.lstsq(u, x).solution
        assert least <= float((x - u @ v).square().sum()) * (1 + 1e-9)


def best_rank(matrix: np.ndarray, alpha: float, mu: float, costs) -> tuple[float, list[int]]:
    """The least objective over all ranks, by truncated SVDs, and the ranks that reach it."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    objectives = [
        alpha * costs[r] + mu / 2 * float(((matrix - (u[:, :r] * s[:r]) @ v[:r]) ** 2).sum())
        for r in range(len(s) + 1)
    ]
    return min(objectives), [r for r, o in enumerate(objectives) if o <= min(objectives) + 1e-9]


def chosen_rank(theta) -> int:
    return min(theta.values.shape) if isinstance(theta, Dense) else theta.u.shape[-1]


@quick
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0, 2),
    st.floats(0.1, 3),
    st.integers(0, 10**6),
    st.data(),
)
def test_rank_selection_is_the_best_of_all_ranks_for_any_table(m, n, alpha, mu, seed, data):
    """Costs of few values: plateaus, steps, and a higher rank that costs less."""
    costs = data.draw(
        st.lists(
            st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
            min_size=min(m, n) + 1,
            max_size=min(m, n) + 1,
        )
    )
    x = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    selection = RankSelection(alpha, leco.Table(costs))
    least, ranks = best_rank(x.numpy(), alpha, mu, costs)
    theta = selection.compress(x, mu)
    assert equal(error(selection, x, mu), least, x)
    assert chosen_rank(theta) in ranks
    assert theta.decompress().shape == (m, n)


@pytest.mark.parametrize("cost", [leco.storage, leco.MultiplyAdds(9)])
def test_rank_selection_runs_through_all_ranks_as_alpha_grows(cost):
    x = (
        torch.diag(vector([5, 4, 3, 2, 1]))
        @ torch.linalg.qr(torch.randn(5, 20, dtype=torch.float64).T).Q.T
    )
    seen = []
    for alpha in torch.logspace(-3, 1.5, 60, dtype=torch.float64).tolist():
        costs = [min(r * 25, 100) * (9 if cost is not leco.storage else 1) for r in range(6)]
        least, ranks = best_rank(x.numpy(), alpha, 2.0, costs)
        assert equal(error(RankSelection(alpha, cost), x), least, x)
        seen.append(chosen_rank(RankSelection(alpha, cost).compress(x, 2.0)))
        assert seen[-1] in ranks
    # rank 4 takes 100 numbers, as the matrix does
    assert sorted(set(seen), reverse=True) == [5, 3, 2, 1, 0]
    assert seen == sorted(seen, reverse=True)


def scheme_matrices(kernel: np.ndarray) -> dict[int, np.ndarray]:
    out, channels, height, width = kernel.shape
    return {
        1: kernel.reshape(out, channels * height * width),
        2: kernel.transpose(0, 2, 1, 3).reshape(out * height, channels * width),
    }


@pytest.mark.parametrize(
    "shape", [(4, 3, 3, 2), (6, 2, 1, 5), (2, 6, 5, 1), (5, 1, 3, 3), (3, 4, 1, 1)]
)
@pytest.mark.parametrize("schemes", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("structure", [None, 1, 2])
@pytest.mark.parametrize(
    "cost",
    [leco.storage, lambda shape, r: r * (shape[0] + 0.1 * shape[1])],
    ids=["storage", "uneven"],
)
def test_conv_rank_selection_is_the_best_of_both_schemes(shape, schemes, structure, cost):
    """On random kernels, and on ones that have rank 1 in one scheme, but for noise."""
    kernel = np.random.default_rng(0).normal(size=shape)
    if structure:
        matrix = scheme_matrices(kernel)[structure]
        matrix = np.outer(matrix[:, 0], matrix[0]) + 0.01 * matrix
        out, channels, height, width = shape
        kernel = (
            matrix.reshape(shape)
            if structure == 1
            else matrix.reshape(out, height, channels, width).transpose(0, 2, 1, 3).copy()
        )
    x, won = torch.from_numpy(kernel), set()
    for alpha in np.logspace(-4, 1, 26).tolist():
        best = {}
        for number in schemes:
            matrix = scheme_matrices(kernel)[number]
            m, n = matrix.shape
            costs = [
                min(r * (m + n), m * n) if cost is leco.storage else r * (m + 0.1 * n)
                for r in range(min(m, n) + 1)
            ]
            best[number] = best_rank(matrix, alpha, 2.0, costs)
        selection = ConvRankSelection(alpha, cost, schemes)
        theta = selection.compress(x, 2.0)
        assert equal(error(selection, x), min(least for least, _ in best.values()), x)
        assert theta.decompress().shape == x.shape
        if isinstance(theta, ConvFactors):
            won.add(theta.scheme)
            assert chosen_rank(theta) in best[theta.scheme][1]
    assert won <= set(schemes)
    if structure in schemes and min(shape) > 1 and cost is leco.storage:
        assert structure in won


@quick
@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.integers(0, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_conv_factors_are_two_convolutions(shape, r, stride_h, stride_w, pad_h, pad_w):
    """Scheme 1: height x width to r channels, then 1 x 1. Scheme 2: 1 x width to r channels, then
    height x 1."""
    out, channels, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape) + r)
    image = torch.randn(2, channels, 6, 7, generator=generator, dtype=torch.float64)
    stride, padding = (stride_h, stride_w), (pad_h, pad_w)

    def factors(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, r, generator=generator, dtype=torch.float64), torch.randn(
            r, columns, generator=generator, dtype=torch.float64
        )

    u, v = factors(out, channels * height * width)
    one = conv2d(
        image, ConvFactors(u, v, 1, height, width).decompress(), stride=stride, padding=padding
    )
    if r:
        inner = conv2d(image, v.view(r, channels, height, width), stride=stride, padding=padding)
        torch.testing.assert_close(conv2d(inner, u.view(out, r, 1, 1)), one)

    u, v = factors(out * height, channels * width)
    one = conv2d(
        image, ConvFactors(u, v, 2, height, width).decompress(), stride=stride, padding=padding
    )
    if r:
        inner = conv2d(
            image, v.view(r, channels, 1, width), stride=(1, stride_w), padding=(0, pad_w)
        )
        second = torch.stack([u[o * height : (o + 1) * height].T for o in range(out)]).view(
            out, r, height, 1
        )
        torch.testing.assert_close(
            conv2d(inner, second, stride=(stride_h, 1), padding=(pad_h, 0)), one
        )
    else:
        assert one.count_nonzero() == 0


@pytest.mark.parametrize(
    "compression",
    [
        leco.Codebook(4, exact=False),
        leco.PowersOfTwo(2, scale=True),
        leco.Uniform(4),
        leco.Uniform(3, zero_point=True),
    ],
)
def test_working_in_parts_changes_nothing(compression, monkeypatch):
    """What is done a part at a time, for the memory's sake, gives the same with parts of a row, or
    of a few weights."""
    monkeypatch.setattr(codebooks, "EXACT_WORK", 0)
    monkeypatch.setattr(quantization, "EXACT_WORK", 0)
    x = torch.randn(7, 200, dtype=torch.float64)
    whole = compression.compress(x, 1.0)
    monkeypatch.setattr(sorted_values, "QUERIES", 8)
    monkeypatch.setattr(cells, "CHUNK", 16)
    parts = compression.compress(x, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    alone = compression.compress(x[2], 1.0)
    torch.testing.assert_close(alone.decompress(), whole.decompress()[2], rtol=1e-12, atol=0)


def test_sums_over_many_float32_weights_lose_nothing():
    """Equal magnitudes, whose sum a naive float32 loop gets wrong by a thousandth."""
    x = (
        torch.full((2_000_000,), 0.0317)
        * torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)).sign()
    )
    assert float(Binary().compress(x, 1.0).scale) == pytest.approx(0.0317, rel=1e-5)
    norm = 0.0317 * 2_000_000**0.5
    assert float(
        leco.L2Ball(norm / 2).compress(x, 1.0).decompress().double().norm()
    ) == pytest.approx(norm / 2, rel=1e-5)
    model = torch.nn.Linear(2_000_000, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(x)
    lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.TopK(0))})
    lc.mu = 1.0
    assert lc.record().gap == pytest.approx(norm, rel=1e-5)

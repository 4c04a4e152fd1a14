"""C steps of codebooks in a metric, against brute force on tiny arrays."""

import itertools

import pytest
import torch
from torch import Tensor

import leco
from leco.compressions import Codebook, EntropyCodebook, EntropyMatrix, Hashed, VectorCodebook
from leco.compressions.entropy_descent import Candidates
from leco.compressions.entropy_starts import last_candidate
from leco.compressions.entropy_weighed import Weighed, descend_in_metric
from leco.compressions.kmeans1d import best_split, lloyd, optimal_codebook
from leco.compressions.sorted_values import Sorted
from leco.theta import Codes, VectorCodes, ZeroCodes, hashed_positions


def metric(shape: tuple[int, ...], spread: float = 2.0) -> Tensor:
    """Weights over several orders of magnitude."""
    return (spread * torch.randn(shape, dtype=torch.float64)).exp()


def error(x: Tensor, mu: Tensor, theta) -> float:
    return float((mu * (x - theta.decompress()).square()).sum())


def cell_error(x: Tensor, d: Tensor) -> float:
    """Of the values x (n, ...) in one cell, at the weighted mean."""
    if not len(x):
        return 0.0
    mean = (d * x).sum(0) / d.sum(0)
    return float((d * (x - mean).square()).sum())


def runs_error(x: Tensor, d: Tensor, k: int) -> float:
    """Over all ways to cut the sorted values into k runs."""
    order, n = x.argsort(), len(x)
    x, d = x[order], d[order]
    cuts = itertools.combinations_with_replacement(range(n + 1), k - 1)
    return min(
        sum(cell_error(x[i:j], d[i:j]) for i, j in itertools.pairwise((0, *cut, n))) for cut in cuts
    )


def assignments(n: int, k: int):
    """All ways to put n things into k cells, numbered as they first appear."""
    for cells in itertools.product(*(range(min(i + 1, k)) for i in range(n))):
        yield torch.tensor(cells)


def equal(a: float, b: float, scale: float) -> bool:
    return abs(a - b) <= 1e-9 * (b + scale)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (9, 2), (7, 3), (8, 4), (6, 6)])
def test_codebook_is_the_best_of_all_cuts(n: int, k: int):
    for x in (
        torch.randn(n, dtype=torch.float64),
        torch.randint(-2, 3, (n,)).double(),
        torch.randn(n, dtype=torch.float64) + 1e3,
    ):
        for d in (metric((n,)), metric((n,), 8.0)):
            found = error(x, d, Codebook(k).compress(x, d))
            assert equal(found, runs_error(x, d, k), float((d * x.square()).sum()))


@pytest.mark.parametrize("dense", [2, 2**10])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_both_dynamic_programs_are_the_best_of_all_cuts(
    k: int, dense: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("leco.compressions.kmeans1d.DENSE_ENDS", dense)
    x, d = torch.randn(6, 9, dtype=torch.float64), metric((6, 9))
    found = error(x, d, Codebook(k, exact=True).c_step(x, d))
    best = sum(runs_error(*row, k) for row in zip(x, d, strict=True))
    assert equal(found, best, 1.0)


@pytest.mark.parametrize("part", [1, 4, 2**15])
def test_two_cells_are_exact_a_part_at_a_time(part: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leco.compressions.kmeans1d.PART", part)
    x, d = torch.randn(5, 11, dtype=torch.float64), metric((5, 11))
    found = error(x, d, Codebook(2).compress(x, d))
    assert equal(found, sum(runs_error(*row, 2) for row in zip(x, d, strict=True)), 1.0)


@pytest.mark.parametrize("dense", [0, 10**6])
def test_sums_of_runs_are_weighted(dense: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("leco.compressions.sorted_values.DENSE", dense)
    x, d = torch.randn(3, 500, dtype=torch.float64), metric((3, 500))
    data = Sorted(x.clone(), d)
    edges = torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64).expand(3, 1, -1)
    numbers, masses, sums = data.counted_cells(edges)
    borders = [-torch.inf, *edges[0, 0].tolist(), torch.inf]
    for j, (low, high) in enumerate(itertools.pairwise(borders)):
        own = (x > low) & (x <= high)
        assert torch.equal(numbers[:, 0, j], own.sum(-1))
        torch.testing.assert_close(masses[:, 0, j], (d * own).sum(-1), rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(sums[:, 0, j], (d * x * own).sum(-1), rtol=1e-12, atol=1e-9)


def test_no_sweep_of_lloyd_raises_the_error(monkeypatch: pytest.MonkeyPatch):
    x, d = torch.randn(400, dtype=torch.float64), metric((400,))
    data, book = Sorted(x.clone(), d), torch.linspace(-1, 4, 9, dtype=torch.float64)
    monkeypatch.setattr("leco.compressions.kmeans1d.MAX_SWEEPS", 1)
    last = torch.inf
    for _ in range(30):
        found = float((d * (x.unsqueeze(-1) - book).square().amin(-1)).sum())
        assert found <= last * (1 + 1e-12)
        last, book = found, lloyd(data, book)


def test_lloyd_in_a_metric_is_near_the_optimum():
    x, d = torch.randn(3000, dtype=torch.float64), metric((3000,), 1.0)
    best = error(x, d, Codebook(7, exact=True).compress(x, d))
    assert best <= error(x, d, Codebook(7, exact=False).compress(x, d)) <= 1.001 * best


CODEBOOKS = [
    (Codebook(2), (40, 24)),
    (Codebook(3, exact=True), (4, 24)),
    (Codebook(3, exact=False), (3, 50)),
    (Codebook(5, exact=False), (40, 24)),
    (Codebook(5, exact=False), (40, 300)),
    (VectorCodebook(5), (2, 60, 3)),
    (VectorCodebook(5), (60, 1)),
    (Hashed(5), (3, 24)),
    (EntropyCodebook(0.05, 4), (3, 50)),
    (EntropyCodebook(0.05, 4, zero=False), (3, 50)),
    (EntropyMatrix(0.05, 4), (6, 8)),
]


@pytest.mark.parametrize(("compression", "shape"), CODEBOOKS)
def test_a_metric_of_ones_is_none(compression, shape: tuple[int, ...]):
    x = torch.randn(shape, dtype=torch.float64)
    theta, other = (compression.compress(x, mu) for mu in (0.7, torch.full_like(x, 0.7)))
    assert all(
        torch.equal(a, b) for a, b in zip(theta, other, strict=True) if isinstance(a, Tensor)
    )


@pytest.mark.parametrize(("compression", "shape"), CODEBOOKS)
def test_a_constant_metric_has_the_objective_of_a_number(compression, shape: tuple[int, ...]):
    x = torch.randn(shape, dtype=torch.float64)
    found = [
        0.35 * float((x - theta.decompress()).square().sum()) + compression.price(theta)
        for theta in (compression.c_step(x, mu) for mu in (0.7, torch.full_like(x, 0.7)))
    ]
    exact = not isinstance(compression, (EntropyCodebook, EntropyMatrix))
    assert found[1] <= found[0] * (1 + 1e-12)
    assert not exact or found[1] == pytest.approx(found[0], rel=1e-12)


@pytest.mark.parametrize("scale", [1e-37, 1e37])
@pytest.mark.parametrize(("compression", "shape"), CODEBOOKS[:8])
def test_weights_of_any_size_in_single_precision(compression, shape, scale: float):
    x = (1.0 if scale < 1 else 1e6) * torch.randn(shape)
    d = metric(shape, 0.1).float()
    one, other = (compression.compress(x, mu).decompress() for mu in (d, scale * d))
    assert other.isfinite().all()
    errors = [float((d * (x - delta).square()).sum()) for delta in (one, other)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


# --- many small problems


def each_error(x: Tensor, d: Tensor, theta) -> Tensor:
    return (d * (x - theta.decompress()).square()).sum(-1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "k"), [(16, 16), (17, 16), (32, 16), (64, 4), (64, 16), (400, 5)])
def test_many_codebooks_are_near_the_optimum(n: int, k: int, weighted: bool):
    for x in (torch.randn(40, n), torch.randn(40, n).exp(), torch.randn(40, n) ** 3):
        x = x.double()
        d = metric((40, n), 1.0) if weighted else torch.ones(40, n, dtype=torch.float64)
        mu = d if weighted else 1.0
        best = each_error(x, d, Codebook(k, exact=True).compress(x, mu))
        found = each_error(x, d, Codebook(k, exact=False).compress(x, mu))
        rounding = 1e-12 * (d * x.square()).sum(-1)
        assert (found >= best - rounding).all()
        assert found.sum() <= 1.015 * best.sum() + rounding.sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [3, 16])
def test_many_warm_codebooks_are_never_worse(k: int, weighted: bool):
    """In any row, from any Theta: also one with idle values, in any order."""
    for _ in range(10):
        x = torch.randn(50, 40, dtype=torch.float64)
        d = metric((50, 40)) if weighted else torch.ones_like(x)
        book = 2 * torch.randn(50, k, dtype=torch.float64)
        start = Codes(torch.randint(0, k, (50, 40)).to(torch.uint8), book)
        theta = Codebook(k, exact=False).compress(x, d if weighted else 1.0, start)
        assert (each_error(x, d, theta) <= each_error(x, d, start) * (1 + 1e-12)).all()
        again = Codebook(k, exact=False).compress(x, d if weighted else 1.0, theta)
        assert (each_error(x, d, again) <= each_error(x, d, theta) * (1 + 1e-12)).all()


def test_many_codebooks_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch):
    x, d = torch.randn(70, 40, dtype=torch.float64), metric((70, 40))
    whole = Codebook(6, exact=False).compress(x, d)
    warm = Codebook(6, exact=False).compress(x + 0.1, d, whole)
    monkeypatch.setattr("leco.compressions.many_codebooks.CHUNK", 500)
    monkeypatch.setattr("leco.compressions.best_cuts.TABLE", 3000)
    monkeypatch.setattr("leco.compressions.best_cuts.LAYERS", 3000)
    parts = Codebook(6, exact=False).compress(x, d)
    again = Codebook(6, exact=False).compress(x + 0.1, d, whole)
    for one, other in ((whole, parts), (warm, again)):
        torch.testing.assert_close(one.decompress(), other.decompress(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [20, 300])
def test_many_codebooks_of_few_values_are_these_values(n: int):
    x = torch.randn(40, 5, dtype=torch.float64).gather(1, torch.randint(0, 5, (40, n)))
    for k in (5, 9):
        theta = Codebook(k, exact=False).compress(x, 1.0)
        delta = theta.decompress()
        assert float((delta - x).abs().max()) < (1e-9 if n == 20 else 0.05)
        again = Codebook(k, exact=False).compress(delta, 1.0, theta).decompress()
        assert float((again - delta).abs().max()) < 1e-12


# --- vectors


@pytest.mark.parametrize(("n", "d", "k"), [(7, 2, 2), (7, 3, 3), (6, 2, 4)])
def test_vector_codebook_is_the_best_of_all_assignments(n: int, d: int, k: int):
    for _ in range(3):
        x, mu = torch.randn(n, d, dtype=torch.float64), metric((n, d), 1.0)
        best = min(
            sum(cell_error(x[z == j], mu[z == j]) for j in range(k)) for z in assignments(n, k)
        )
        found = error(x, mu, VectorCodebook(k).compress(x, mu))
        assert best - 1e-12 <= found <= 1.02 * best + 1e-12


def test_vector_codebook_in_a_metric_never_rises():
    x, mu = torch.randn(2, 300, 3, dtype=torch.float64) + 50, metric((2, 300, 3))
    theta = VectorCodes(torch.zeros(2, 300, dtype=torch.uint8), x[:, :9].clone())
    last = torch.inf
    for _ in range(12):
        theta = VectorCodebook(9, sweeps=1).compress(x, mu, theta)
        found = error(x, mu, theta)
        assert found <= last * (1 + 1e-12)
        last = found


# --- hashed


def test_hashed_values_are_weighted_means():
    x, mu = torch.randn(3, 50, dtype=torch.float64), metric((3, 50))
    values = Hashed(6, 3).compress(x, mu).values
    cells = hashed_positions(6, 3, 0, 50, x.device)
    for row, j in itertools.product(range(3), range(6)):
        own = cells == j
        mean = (mu * x)[row, own].sum() / mu[row, own].sum() if own.any() else torch.tensor(0.0)
        torch.testing.assert_close(values[row, j], mean.double())


# --- entropy


def objective(compression, x: Tensor, mu: Tensor, theta) -> float:
    return error(x, mu, theta) / 2 + compression.price(theta)


@pytest.mark.parametrize("zero", [True, False])
def test_entropy_in_a_metric_never_rises(zero: bool):
    x, mu = torch.randn(4, 60, dtype=torch.float64), metric((4, 60), 1.0)
    compression = EntropyCodebook(0.02, 5, zero)
    theta = compression.compress(x, 1.0)
    start = last_candidate(theta, 4, 5, zero)
    assert start is not None
    start = Candidates(*(field.squeeze(1) for field in start))
    data, which, strict = Weighed.of(x, mu), torch.arange(4), torch.zeros(4, dtype=torch.bool)
    fixed = float((mu * x.square()).sum())
    last = 2 * objective(compression, x, mu, theta) - fixed
    for sweeps in range(1, 8):
        found = descend_in_metric(data, which, start, 0.04, strict, sweeps)
        assert float(found.objective.sum()) <= last + 1e-9 * abs(last)
        last = float(found.objective.sum())


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.1])
def test_entropy_in_a_metric_is_never_above_its_starts(alpha: float, zero: bool):
    x, mu = torch.randn(2, 80, dtype=torch.float64), metric((2, 80), 1.5)
    compression = EntropyCodebook(alpha, 4, zero)
    for start in (compression.compress(x, 1.0), compression.compress(x + 0.3, mu)):
        warm = compression.compress(x, mu, start)
        assert type(warm) is (ZeroCodes if zero else Codes)
        before, after = (objective(compression, x, mu, theta) for theta in (start, warm))
        assert after <= before * (1 + 1e-9)
        again = compression.compress(x, mu, warm)
        assert objective(compression, x, mu, again) <= after * (1 + 1e-9)


def test_entropy_in_a_metric_is_near_the_best_of_all_assignments():
    compression = EntropyCodebook(0.003, 3, zero=False)
    for _ in range(4):
        x, mu = torch.randn(7, dtype=torch.float64), metric((7,), 1.0)
        best = min(
            sum(cell_error(x[z == j], mu[z == j]) for j in range(3)) / 2
            + compression.price(Codes(z, torch.zeros(3)))
            for z in assignments(7, 3)
        )
        found = objective(compression, x, mu, compression.compress(x, mu))
        assert best - 1e-12 <= found <= 1.25 * best


def test_entropy_matrix_in_a_metric_is_never_above_its_starts():
    x = torch.randn(12, 15, dtype=torch.float64) * (torch.rand(12, 1) < 0.5)
    mu = metric((12, 15), 1.0)
    compression = EntropyMatrix(0.05, 4)
    cold = compression.compress(x, mu)
    flat = EntropyCodebook(0.05, 4).compress(x.view(-1), mu.view(-1))
    flat = ZeroCodes(flat.indices.view(x.shape), flat.codebook)
    assert objective(compression, x, mu, cold) <= objective(compression, x, mu, flat) * (1 + 1e-9)
    start = compression.compress(x + 0.2 * (x != 0), 1.0)
    warm = compression.compress(x, mu, start)
    assert objective(compression, x, mu, warm) <= objective(compression, x, mu, start) * (1 + 1e-9)


def test_the_layers_of_a_net_are_compressed_in_a_metric():
    for compression in (Codebook(4), VectorCodebook(4), Hashed(4), EntropyCodebook(0.1)):
        assert compression.takes_metric
    assert leco.Codebook(2).compress(torch.tensor([0.0, 1.0, 9.0]), torch.tensor([1.0, 3, 1]))


def test_optimal_codebooks_of_two_are_best_splits():
    x, d = torch.randn(5, 30, dtype=torch.float64), metric((5, 30))
    data = Sorted(x.clone(), d)
    torch.testing.assert_close(
        optimal_codebook(data, 2, data.candidates(30)), best_split(data), rtol=1e-9, atol=1e-9
    )

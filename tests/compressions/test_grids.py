"""Grids and given values of many short rows: against ranges that other tools try, against brute
force in a metric, and against the last Theta."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from leco.compressions import (
    Binary,
    FixedCodebook,
    PowersOfTwo,
    Ternary,
    Uniform,
    grids,
    quantization,
    scale_search,
)
from leco.compressions.cells import nearest
from leco.compressions.scale_search import Rows, tile_buffers
from leco.compressions.sorted_values import order_of, sort_with
from leco.compressions.value_search import Values


def rows_of(name: str, rows: int, n: int) -> Tensor:
    """Random rows, float64."""
    x = torch.randn(rows, n, dtype=torch.float64)
    if name == "laplace":
        return torch.distributions.Laplace(0.0, 1.0).sample((rows, n)).double()
    if name == "t3":
        return torch.distributions.StudentT(3.0).sample((rows, n)).double()
    if name == "skewed":
        return x.exp() - 1
    if name == "outliers":
        return torch.where(torch.rand(rows, n) < 0.02, 10 * x, x)
    return x + 2 if name == "shifted" else x


NAMES = ("normal", "laplace", "t3", "skewed", "outliers", "shifted")


def weighed(x: Tensor, theta: Any, d: Tensor | float = 1.0) -> Tensor:
    """The error of each row in the metric."""
    return (d * (x.double() - theta.decompress().double()).square()).sum(-1)


def metric_like(x: Tensor) -> Tensor:
    return torch.exp2(2 * torch.randn_like(x))


def best_range(x: Tensor, bits: int, zero_point: bool) -> Tensor:
    """The least error of each row over 25 shrunk ranges with rounding, as min-max tools try."""
    top = 2**bits - 1
    low, high = x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    least = torch.full_like(low, torch.inf)
    for share in torch.linspace(0.3, 1, 25).tolist():
        width = high - low if zero_point else 2 * torch.maximum(high, -low)
        s = (share * width / top).unsqueeze(-1)
        z = (-share * low.unsqueeze(-1) / s).round() if zero_point else 2 ** (bits - 1)
        delta = s * ((x / s + z).round().clamp(0, top) - z)
        least = torch.minimum(least, (x - delta).square().sum(-1))
    return least


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("n", [7, 32, 128])
def test_no_row_is_worse_than_the_best_of_25_ranges(name, bits, zero_point, n):
    x = rows_of(name, 200, n)
    for own, slack in ((x, 1e-12), (x.float(), 1e-5)):
        theta = Uniform(bits, zero_point).compress(own, 1.0)
        most = best_range(own.double(), bits, zero_point)
        assert (weighed(own, theta) <= most * (1 + slack) + 1e-12).all()


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_a_metric_moves_the_grid_to_the_heavy_weights(bits, zero_point):
    x = rows_of("normal", 100, 32)
    d = torch.where(x.abs() < 0.5, 100.0, 0.01)
    compression = Uniform(bits, zero_point)
    plain, own = compression.compress(x, 1.0), compression.compress(x, d)
    assert (weighed(x, own, d) <= weighed(x, plain, d) * (1 + 1e-9)).all()
    assert weighed(x, own, d).sum() < 0.5 * weighed(x, plain, d).sum()


TAKING = [
    *(Uniform(bits, zero_point) for bits in (2, 3, 8) for zero_point in (False, True)),
    FixedCodebook((-1, 0.5, 2), True),
    FixedCodebook((1, 3), True),
    FixedCodebook((-1, 0.5, 2)),
    PowersOfTwo(2, True),
    PowersOfTwo(20, True),
    Ternary(),
    Ternary(scale=False),
    Binary(),
    Binary(scale=False),
]
taking = pytest.mark.parametrize("compression", TAKING, ids=str)


@pytest.fixture(params=["enumerated", "short rows", "long rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By enumeration, by passes over the rows, on sorted data."""
    if request.param != "enumerated":
        monkeypatch.setattr(quantization, "EXACT_WORK", 0)
        least = 0 if request.param == "long rows" else 10**6
        monkeypatch.setattr(quantization, "SORTED", least)
        monkeypatch.setattr(grids, "SORTED", least)
    return request.param


@taking
def test_a_constant_metric_is_none(compression, way):
    for name in NAMES:
        x = rows_of(name, 20, 40)
        plain = compression.c_step(x, 1.0)
        for level in (1.0, 0.3, 1e-30, 1e30):
            theta = compression.c_step(x, torch.full_like(x, level))
            energy = x.square().sum(-1)
            if isinstance(compression, Uniform):  # a metric may not leave out ranges
                assert (weighed(x, theta) <= weighed(x, plain) + 1e-12 * energy).all()
            else:
                assert ((weighed(x, theta) - weighed(x, plain)).abs() <= 1e-12 * energy).all()


@taking
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_a_warm_start_is_never_worse_in_a_metric(compression, way, kind):
    slack = 1e-9 if kind == torch.float64 else 1e-5
    for name in NAMES:
        x = rows_of(name, 20, 40).to(kind)
        for noise in (0.01, 0.3, 3.0):
            near = x + noise * torch.randn_like(x)
            for d in (metric_like(x), 1.0):
                last = compression.compress(near, d)
                found = compression.compress(x, d, last)
                most = weighed(x, last, d) * (1 + slack) + slack * 1e-3 * (d * x.square()).sum(-1)
                assert (weighed(x, found, d) <= most).all()


def assignments(values: Any, n: int) -> Tensor:
    """All K^n ways to give each of n entries a value."""
    return torch.tensor(list(itertools.product(values, repeat=n)), dtype=torch.float64)


def least_in_metric(x: Tensor, d: Tensor, points: Tensor) -> float:
    """Over all assignments, each with its best scale at or above 0 in the metric."""
    a, b = (points @ (d * x)).clamp(min=0), points.square() @ d
    gain = torch.where(b > 0, a.square() / b.clamp(min=1e-300), 0)
    return float((d * x.square()).sum() - gain.max())


EXACT = [
    (Binary(), (-1, 1)),
    (Ternary(), (-1, 0, 1)),
    (PowersOfTwo(1, True), (-1, -0.5, 0, 0.5, 1)),
    (FixedCodebook((-1, 0.5, 2), True), (-1, 0.5, 2)),
    (FixedCodebook((-2, -1, 1, 2), True), (-2, -1, 1, 2)),
    (FixedCodebook((1, 3), True), (1, 3)),
]


@pytest.mark.parametrize(("compression", "values"), EXACT, ids=str)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_scaled_values_are_the_best_of_all_assignments_in_a_metric(compression, values, n):
    points = assignments(values, n)
    for name in NAMES:
        for x in (rows_of(name, 6, n), (2 * rows_of(name, 6, n)).round()):
            d = metric_like(x)
            found = weighed(x, compression.c_step(x, d), d)
            for row, own, error in zip(x, d, found.tolist(), strict=True):
                best = least_in_metric(row, own, points)
                assert abs(error - best) <= 1e-9 * float((own * row.square()).sum())


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_grids_are_near_the_best_of_all_assignments_in_a_metric(zero_point, n):
    """The C step is not exact: it may miss a grid, by little of sum d x^2."""
    zeros = range(4) if zero_point else (2,)
    points = torch.cat([assignments([q - z for q in range(4)], n) for z in zeros])
    missed = []
    for name in NAMES:
        x = rows_of(name, 6, n)
        d = metric_like(x)
        for row, own in zip(x, d, strict=True):
            found = float(weighed(row, Uniform(2, zero_point).c_step(row, own), own))
            best, energy = least_in_metric(row, own, points), float((own * row.square()).sum())
            missed.append((found - best) / energy)
    assert min(missed) >= -1e-9
    assert max(missed) <= 0.05
    assert sum(missed) / len(missed) <= 0.005


@taking
def test_the_descent_in_a_metric_is_near_the_enumeration(compression, monkeypatch):
    """Near on average; an entry may be much heavier than all others."""
    if isinstance(compression, Uniform):
        return
    x = torch.cat([rows_of(name, 50, 40) for name in NAMES])
    d = metric_like(x)
    exact = weighed(x, compression.compress(x, d), d).sum()
    monkeypatch.setattr(quantization, "EXACT_WORK", 0)
    for least in (0, 10**6):
        monkeypatch.setattr(quantization, "SORTED", least)
        found = weighed(x, compression.compress(x, d), d).sum()
        assert exact * (1 - 1e-9) <= found <= exact * 1.01


@pytest.mark.parametrize("compression", [Uniform(3), Uniform(3, True), PowersOfTwo(2, True)])
@pytest.mark.parametrize("n", [5, 60, 400])
def test_tiles_and_blocks_change_nothing(compression, n, monkeypatch):
    monkeypatch.setattr(quantization, "EXACT_WORK", 0)
    x = torch.randn(7, n, dtype=torch.float64)
    for d in (1.0, metric_like(x)):
        whole = compression.compress(x, d)
        warm = compression.compress(x + 0.1, d, whole)
        with monkeypatch.context() as patch:
            patch.setattr(scale_search, "TILE", 130)
            patch.setattr(scale_search, "BLOCK", 200)
            parts = compression.compress(x, d)
            again = compression.compress(x + 0.1, d, whole)
        for a, b in ((whole, parts), (warm, again)):
            torch.testing.assert_close(a.decompress(), b.decompress(), rtol=1e-12, atol=1e-12)


def test_a_grid_that_retraining_turned_round_is_the_same_grid():
    x = torch.randn(5, 30, dtype=torch.float64) + 1
    theta = Uniform(3, True).compress(x, 1.0)
    turned = theta._replace(
        scale=-theta.scale, zero_point=7 - theta.zero_point, indices=7 - theta.indices
    )
    assert torch.equal(turned.decompress(), theta.decompress())
    found = Uniform(3, True).compress(x, 1.0, turned)
    assert (weighed(x, found) <= weighed(x, theta) * (1 + 1e-12)).all()


def test_rows_of_zeros_beside_others():
    x = torch.randn(4, 20)
    x[1], x[2, :19] = 0, 0
    for compression in (Uniform(4), Uniform(4, True), PowersOfTwo(3, True)):
        for d in (1.0, metric_like(x)):
            theta = compression.compress(x, d)
            for last in (None, theta):
                delta = compression.compress(x, d, last).decompress()
                assert delta.isfinite().all()
                assert not delta[1].any()
                torch.testing.assert_close(delta[2], x[2], rtol=0.1, atol=0)


@pytest.mark.parametrize(
    "values",
    [(-1, 0.5, 2), (1, 3), (-3, -2, -0.1), (0.0, 1.0), (-2, -1, 1, 2), (-1, 0, 1), (5,), range(60)],
)
def test_the_nearest_of_given_values(values):
    own = torch.tensor(values, dtype=torch.float64)
    book, x = Values(own), 4 * torch.randn(9, 30, dtype=torch.float64)
    t = x.abs() if book.folded else x
    q, other = torch.empty_like(t), torch.empty_like(t)
    book.nearest(t, q, other)
    expected = own[nearest(x, own).long()]
    torch.testing.assert_close(q, expected.abs() if book.folded else expected)


def test_errors_and_fits_are_those_of_their_formulas():
    x, d = torch.randn(3, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    rows = Rows(
        x,
        d,
        torch.ones(3, dtype=torch.float64),
        Values(x.new_tensor([1, 3])).nearest,
        tile_buffers(x),
    )
    share = torch.tensor([[0.3], [1.0]], dtype=torch.float64).expand(2, 3)
    tried, fitted = rows.errors(share), rows.fits(share)
    for c in range(2):
        s = share[c].unsqueeze(-1)
        q = torch.where(x / s > 2, 3.0, 1.0)
        torch.testing.assert_close(tried.error[c], (d * (x - s * q).square()).sum(-1))
        best = ((d * x * q).sum(-1) / (d * q * q).sum(-1)).clamp(min=scale_search.NOTHING)
        torch.testing.assert_close(fitted.share[c], best)
        torch.testing.assert_close(
            fitted.error[c], (d * (x - best.unsqueeze(-1) * q).square()).sum(-1), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("shape", [(1,), (50,), (4, 33), (2, 3, 10)])
def test_packed_sorting_is_sorting_with_indices(shape):
    x = torch.randn(shape)
    x.view(-1)[0] = -0.0
    d = torch.rand(shape)
    values, weights = sort_with(x, d)
    order = order_of(x)
    assert torch.equal(values, x.gather(-1, order))
    assert torch.equal(weights, d.gather(-1, order))
    ties = x.round()
    values, weights = sort_with(ties, d)
    assert torch.equal(values, ties.sort(dim=-1).values)
    for value in (-1.0, 0.0, 1.0):
        ours, theirs = (
            torch.where(v == value, w, 0).double().sum(-1)
            for v, w in ((values, weights), (ties, d))
        )
        torch.testing.assert_close(ours, theirs)

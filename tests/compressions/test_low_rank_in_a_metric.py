"""Low rank and tensor decompositions in a metric, in float64: exact in outer products, never worse
than a start elsewhere, and near a long run of alternating weighted least squares."""

import math

import pytest
import torch
from labels import label
from torch import Tensor

import leco
from leco.compressions import cp, outer, train, tucker
from leco.compressions.metric import distortion
from leco.theta import Dense, Factors

MU = 0.7


@pytest.fixture(autouse=True)
def _few_sweeps(monkeypatch: pytest.MonkeyPatch):
    for file in (cp, train, tucker):
        monkeypatch.setattr(file, "SWEEPS", 10)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outer_product(shape: tuple[int, ...], seed: int = 0, spread: float = 1.0) -> Tensor:
    """mu_i = r_1 o r_2 o ... over a few decades."""
    mu = torch.full(shape, MU, dtype=torch.float64)
    for k, n in enumerate(shape):
        side = (spread * draw(n, seed=seed + 10 + k)).exp()
        mu = mu * side.view(-1, *(1,) * (len(shape) - k - 1))
    return mu


def rough(shape: tuple[int, ...], seed: int = 0, noise: float = 1.0) -> Tensor:
    """An outer product times noise, which is none."""
    return outer_product(shape, seed) * (noise * draw(*shape, seed=seed + 99)).exp()


def objective(compression, x: Tensor, mu, theta) -> float:
    return distortion(x, theta.decompress(), mu) + compression.price(theta)


def table(shape, rank):
    """A cost with steps and a plateau."""
    return float([0, 1, 1, 4, 4.5, 9, 9][rank])


MATRICES = [leco.LowRank(2), leco.LowRank(0), leco.RankSelection(0.5, table)]
KERNELS = [
    leco.ConvRankSelection(0.05),
    leco.ConvRankSelection(0.05, schemes=(2,)),
    leco.Tucker2((2, 2)),
    leco.Tucker((2, 2, 2, 1)),
    leco.TuckerSelection(0.02),
    leco.CP(3),
    leco.TensorTrain((3, 4, 2)),
]
EVERY = [(c, (6, 7)) for c in MATRICES] + [(c, (5, 4, 3, 2)) for c in KERNELS]


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=label)
def test_a_constant_metric_is_none(compression, shape):
    x = draw(*shape)
    plain = compression.compress(x, MU)
    weighed = compression.c_step(x, torch.full_like(x, MU))
    assert type(weighed) is type(plain)
    assert math.isclose(
        objective(compression, x, MU, weighed),
        objective(compression, x, MU, plain),
        rel_tol=1e-9 if isinstance(compression, leco.CP) else 1e-12,
    )
    same = compression.compress(x, torch.full_like(x, MU))
    assert torch.equal(same.decompress(), plain.decompress())


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=label)
def test_a_warm_start_is_never_worse_in_a_metric(compression, shape):
    for seed in range(2):
        x = draw(*shape, seed=seed)
        for mu in (outer_product(shape, seed), rough(shape, seed), rough(shape, seed, 3.0)):
            for noise in (0.0, 0.3):
                other = x + noise * draw(*shape, seed=seed + 50)
                for weights in (1.0, mu):
                    start = compression.compress(other, weights)
                    leaves = [leaf.clone() for leaf in start if isinstance(leaf, Tensor)]
                    found = compression.compress(x, mu, start)
                    reached = objective(compression, x, mu, found)
                    assert reached <= objective(compression, x, mu, start) * (1 + 1e-12)
                    kept = [leaf for leaf in start if isinstance(leaf, Tensor)]
                    assert all(torch.equal(a, b) for a, b in zip(leaves, kept, strict=True))


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=label)
def test_a_metric_helps(compression, shape):
    """The step in the metric is below the step without it."""
    for seed in range(4):
        x = draw(*shape, seed=seed)
        for mu in (outer_product(shape, seed), rough(shape, seed, 0.5)):
            plain = compression.compress(x, float(mu.mean()))
            found = compression.compress(x, mu)
            assert objective(compression, x, mu, found) <= objective(compression, x, mu, plain) * (
                1 + 1e-12
            )


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=label)
def test_x_and_the_metric_are_untouched(compression, shape):
    for mu in (outer_product(shape), rough(shape)):
        x = draw(*shape)
        before = x.clone(), mu.clone()
        compression.c_step(x, mu)
        assert torch.equal(x, before[0])
        assert torch.equal(mu, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (40, 30)])
def test_an_outer_product_has_the_optimum_of_its_scaled_matrix(shape, dtype):
    for seed in range(3):
        x, mu = draw(*shape, seed=seed).to(dtype), outer_product(shape, seed).to(dtype)
        assert outer.outer(mu, 2).share is None
        scaled = x.double() * mu.double().sqrt()
        for rank in range(min(shape) + 1):
            least = float(torch.linalg.svdvals(scaled)[rank:].square().sum()) / 2
            theta = leco.LowRank(rank).c_step(x, mu)
            found = distortion(x.double(), theta.decompress().double(), mu.double())
            total = float(scaled.square().sum())
            assert abs(found - least) <= (1e-13 if dtype == torch.float64 else 1e-6) * total
            if isinstance(theta, Factors):  # balanced
                torch.testing.assert_close(theta.u.norm(dim=0), theta.v.norm(dim=1))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0, 30.0])
def test_ranks_in_an_outer_product_are_the_best_of_all(alpha):
    for seed in range(5):
        x, mu = draw(6, 7, seed=seed), outer_product((6, 7), seed)
        tails = torch.linalg.svdvals(x * mu.sqrt()).square().flip(0).cumsum(0).flip(0)
        tails = [*(tails / 2).tolist(), 0.0]
        best = min(alpha * table(x.shape, r) + tails[r] for r in range(7))
        penalty = leco.RankSelection(alpha, table)
        theta = penalty.compress(x, mu)
        assert math.isclose(objective(penalty, x, mu, theta), best, rel_tol=1e-12, abs_tol=1e-12)
        for offered, usage in (offer(alpha) for offer in penalty.offers(x, mu)):
            assert usage == penalty.usage(offered)
        family = penalty.family(x, mu)(alpha)
        assert torch.equal(family.decompress(), theta.decompress())


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_convolution_ranks_in_an_outer_product_are_the_best_of_both_schemes(alpha):
    shape = (5, 4, 3, 2)
    for seed in range(4):
        x, mu = draw(*shape, seed=seed), outer_product(shape, seed)
        scaled, best = x * mu.sqrt(), alpha * x.numel()
        for matrix in (scaled.flatten(1), scaled.transpose(1, 2).reshape(15, 8)):
            s = torch.linalg.svdvals(matrix)
            for r in range(len(s)):
                cost = leco.storage(matrix.shape, r)
                best = min(best, alpha * cost + float(s[r:].square().sum()) / 2)
        penalty = leco.ConvRankSelection(alpha)
        theta = penalty.compress(x, mu)
        assert math.isclose(objective(penalty, x, mu, theta), best, rel_tol=1e-12)


def least_squares(x: Tensor, mu: Tensor, u: Tensor, v: Tensor, sweeps: int) -> float:
    """The objective after alternating weighted least squares from u v."""
    near = 1e-12 * torch.eye(u.shape[1], dtype=x.dtype)
    for _ in range(sweeps):
        gram = torch.einsum("ij,rj,sj->irs", mu, v, v) + near
        u = torch.linalg.solve(gram, ((mu * x) @ v.mT).unsqueeze(-1)).squeeze(-1)
        gram = torch.einsum("ij,ir,is->jrs", mu, u, u) + near
        v = torch.linalg.solve(gram, ((mu * x).mT @ u).unsqueeze(-1)).squeeze(-1).mT
    return distortion(x, u @ v, mu)


@pytest.mark.parametrize(("noise", "allowed"), [(0.3, 1.01), (1.0, 1.06)])
def test_the_descent_ends_near_alternating_least_squares(noise, allowed):
    """From the same start: in the nearest outer product."""
    for seed in range(3):
        x = draw(30, 40, seed=seed) @ torch.linspace(1, 0.05, 40, dtype=torch.float64).diag()
        mu = rough((30, 40), seed, noise)
        low = leco.LowRank(5)
        theta = low.compress(x, mu)
        reached = objective(low, x, mu, theta)
        start = leco.LowRank(5).compress(x, 1.0)
        assert reached <= allowed * least_squares(x, mu, start.u, start.v, 300)
        # and what least squares still gain from there is small
        assert reached <= allowed * least_squares(x, mu, theta.u, theta.v, 300)


def test_no_step_of_the_descent_raises_the_objective(monkeypatch):
    for seed in range(3):
        x, mu = draw(8, 9, seed=seed), rough((8, 9), seed, 2.0)
        for compression in (leco.LowRank(3), leco.RankSelection(1.0, lambda shape, r: r)):
            reached = []
            for steps in range(12):
                monkeypatch.setattr(outer, "STEPS", steps)
                reached.append(objective(compression, x, mu, compression.compress(x, mu)))
            assert reached == sorted(reached, reverse=True)
            assert reached[-1] < reached[0]


def test_one_step_from_a_theta_is_a_majorisation(monkeypatch):
    """Half the sum of D (y - Delta)^2 and the constant is at or above the objective everywhere, and
    equal to it at the start."""
    x, mu = draw(6, 7), rough((6, 7))
    own = outer.outer(mu, 2)
    bound = outer.times(torch.ones_like(x), own.bound).square()
    assert bool((bound >= mu * (1 - 1e-12)).all())
    torch.testing.assert_close(own.share * bound, mu)
    delta = draw(6, 7, seed=5)
    target, roots = own.target(x, delta)

    def above(point: Tensor) -> float:
        scaled = outer.times(point, roots)
        return float((target - scaled).square().sum()) / 2 + outer.offset(x, mu, own, delta)

    assert math.isclose(above(delta), distortion(x, delta, mu), rel_tol=1e-12)
    for seed in range(20):
        point = delta + draw(6, 7, seed=seed)
        assert above(point) >= distortion(x, point, mu) * (1 - 1e-12)


def test_the_bound_of_a_metric_is_tight_in_every_row_and_column():
    mu = rough((6, 7), noise=2.0)
    share = outer.outer(mu, 2).share
    assert share is not None
    torch.testing.assert_close(share.amax(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_outer_product_is_found_through_rounding_and_no_further(dtype):
    rows, columns = (outer_product((n,), spread=4.0).to(dtype) for n in (200, 300))
    mu = rows[:, None] * columns * 0.3
    assert outer.outer(mu, 2).share is None
    mu[3, 4] *= 1 + 100 * torch.finfo(dtype).eps
    assert outer.outer(mu, 2).share is not None


def test_a_batch_of_matrices_is_each_of_them(monkeypatch):
    monkeypatch.setattr(outer, "STEPS", 1)
    x = draw(3, 6, 7)
    for mu in (
        outer_product((6, 7)).expand(3, -1, -1),
        torch.stack([rough((6, 7), s) for s in (1, 2, 3)]),
    ):
        together = leco.LowRank(2).compress(x, mu).decompress()
        for one, own, delta in zip(x, mu, together, strict=True):
            torch.testing.assert_close(leco.LowRank(2).compress(one, own).decompress(), delta)


@pytest.mark.parametrize("compression", [leco.Tucker2((2, 2)), leco.TensorTrain((3, 4, 2))])
def test_tensors_of_these_ranks_are_recovered_in_an_outer_product(compression):
    x = compression.compress(draw(5, 4, 3, 2), 1.0).decompress()
    mu = outer_product((5, 4, 3, 2))
    found = compression.compress(x, mu).decompress()
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def test_a_free_rank_is_the_dense_matrix_in_a_metric():
    x, mu = draw(5, 4), rough((5, 4))
    for penalty in (leco.RankSelection(0.0), leco.TuckerSelection(0.0)):
        for start in (None, Dense(x + 1), penalty.compress(0 * x, 1.0)):
            theta = penalty.compress(x, mu, start)
            torch.testing.assert_close(theta.decompress(), x)


def test_one_step_of_a_family_is_not_above_the_dense_matrix():
    """Whose distortion is 0, while that of each rank is at least the majorisation's constant."""
    for seed in range(6):
        x, mu = draw(6, 7, seed=seed), rough((6, 7), seed, 2.0)
        far = leco.LowRank(1).compress(draw(6, 7, seed=seed + 1), 1.0)
        for alpha in (0.1, 1.0, 3.0):
            penalty = leco.RankSelection(alpha, table)
            found = penalty.family(x, mu, far)(alpha)
            assert objective(penalty, x, mu, found) <= alpha * table(x.shape, 6) * (1 + 1e-12)


def test_a_step_that_would_raise_the_objective_is_not_taken():
    values = iter([3.0, 2.0, 5.0, 4.0, 1.0])
    found = outer.descend(
        Dense(torch.tensor([next(values)])),
        lambda delta, last: Dense(torch.tensor([next(values)])),
        lambda theta, delta: float(delta),
    )
    assert float(found.values) == 2.0

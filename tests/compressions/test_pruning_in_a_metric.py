"""Pruning in a metric: against brute force, bisection and optimality conditions, in float64."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import leco
from leco.compressions import roots

MU = 0.7


def draw(*shape: int, seed: int = 0, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """x, and weights mu_i over a few decades."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    spreads = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    return x, MU * spreads.exp()


def objective(compression, x: Tensor, mu, theta) -> float:
    distortion = (mu / 2 * (x - theta.decompress()).square()).sum()
    return float(distortion) + compression.price(theta)


EVERY = [
    (leco.TopK(3), (2, 12)),
    (leco.TopK(0.25, gamma=0.5), (2, 12)),
    (leco.L0Penalty(0.3), (2, 12)),
    (leco.L1Penalty(0.3), (2, 12)),
    (leco.L1Ball(1.5), (2, 12)),
    (leco.L1Ball(0.0), (2, 12)),
    (leco.L2Ball(1.5), (2, 12)),
    (leco.L2Ball(0.0), (2, 12)),
    (leco.GroupTopK(2), (2, 5, 3)),
    (leco.GroupL0Penalty(0.5, (1.0, 2.0, 0.5, 0.0, 3.0)), (2, 5, 3)),
    (leco.GroupL1Penalty(0.5, (1.0, 2.0, 0.5, 0.0, 3.0)), (2, 5, 3)),
    (leco.NM(2, 4), (2, 12)),
    (leco.NM(2, 17), (2, 34)),
]


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=str)
def test_a_constant_metric_is_none(compression, shape):
    x, _ = draw(*shape)
    plain = compression.compress(x, MU)
    weighed = compression.c_step(x, torch.full_like(x, MU))
    assert math.isclose(
        objective(compression, x, MU, weighed),
        objective(compression, x, MU, plain),
        rel_tol=1e-12,
        abs_tol=1e-14,
    )
    assert type(weighed) is type(plain)
    same = compression.compress(x, torch.full_like(x, MU))
    assert torch.equal(same.decompress(), plain.decompress())


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_leading_dimensions_are_a_batch_in_a_metric(compression, shape, seed):
    x, mu = draw(*shape, seed=seed)
    together = compression.compress(x, mu).decompress()
    for row, own, delta in zip(x, mu, together, strict=True):
        torch.testing.assert_close(compression.compress(row, own).decompress(), delta)


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=str)
def test_pieces_change_nothing(compression, shape, monkeypatch):
    x, mu = draw(*shape)
    whole = compression.compress(x, mu).decompress()
    monkeypatch.setattr(roots, "CHUNK", 5)
    torch.testing.assert_close(compression.compress(x, mu).decompress(), whole)


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=str)
def test_x_and_the_metric_are_untouched(compression, shape):
    x, mu = draw(*shape)
    before = x.clone(), mu.clone()
    compression.c_step(x, mu)
    assert torch.equal(x, before[0])
    assert torch.equal(mu, before[1])


@pytest.mark.parametrize(("compression", "shape"), EVERY, ids=str)
def test_a_metric_is_used_in_float32_too(compression, shape):
    x, mu = draw(*shape)
    theta = compression.compress(x.float(), mu.float())
    assert theta.decompress().dtype == torch.float32
    best = objective(compression, x, mu, compression.compress(x, mu))
    assert objective(compression, x, mu, theta) <= best * (1 + 1e-5)


def supports(n: int, kappa: int) -> list[Tensor]:
    masks = torch.tensor(list(itertools.product([False, True], repeat=n)))
    return list(masks[masks.sum(1) <= kappa])


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("kappa", [0, 1, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_top_k_is_the_best_of_all_supports(gamma, kappa, seed):
    x, mu = draw(6, seed=seed)
    x = x.round() if seed == 3 else x  # ties and zeros
    top = leco.TopK(kappa, gamma)
    lost, kept = mu / 2 * x.square(), mu * gamma / (mu + gamma) / 2 * x.square()
    best = min(float(lost[~mask].sum() + kept[mask].sum()) for mask in supports(6, kappa))
    theta = top.compress(x, mu)
    assert int(theta.mask.sum()) == kappa
    assert math.isclose(objective(top, x, mu, theta), best, rel_tol=1e-12, abs_tol=1e-14)


def test_the_first_of_equal_gains_are_kept():
    x = torch.tensor([[1.0, -2.0, 4.0, 2.0], [4.0, 4.0, 1.0, 2.0]], dtype=torch.float64)
    theta = leco.TopK(2).compress(x, x.square().reciprocal())
    assert theta.mask.tolist() == 2 * [[True, True, False, False]]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_priced_weights_are_the_best_of_all_supports(alpha, seed):
    x, mu = draw(6, seed=seed)
    penalty = leco.L0Penalty(alpha)
    lost = mu / 2 * x.square()
    best = min(float(lost[~mask].sum() + alpha * int(mask.sum())) for mask in supports(6, 6))
    theta = penalty.compress(x, mu)
    assert math.isclose(objective(penalty, x, mu, theta), best, rel_tol=1e-12, abs_tol=1e-14)
    assert torch.equal(penalty.family(x, mu)(alpha).mask, theta.mask)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_soft_threshold_satisfies_its_conditions(alpha, seed):
    x, mu = draw(20, seed=seed)
    theta = leco.L1Penalty(alpha).compress(x, mu).decompress()
    pull = mu * (x - theta)
    assert torch.allclose(pull[theta != 0], alpha * theta.sign()[theta != 0], atol=1e-12)
    assert bool((pull[theta == 0].abs() <= alpha * (1 + 1e-12)).all())


def bisected(norm_at, kappa: float, high: float) -> float:
    """The multiplier at which the norm falls to kappa."""
    low = 0.0
    for _ in range(2000):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if norm_at(middle) > kappa else (low, middle)
    return high


@pytest.mark.parametrize("kappa", [1e-6, 0.1, 1.0, 5.0, 1e6])
@pytest.mark.parametrize("spread", [0.0, 1.5, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_l1_ball_is_bisection(kappa, spread, seed):
    x, mu = draw(40, seed=seed, spread=spread)

    def at(tau: float) -> Tensor:
        return x.sign() * (x.abs() - tau / mu).clamp(min=0)

    tau = bisected(lambda tau: float(at(tau).abs().sum()), kappa, float((mu * x.abs()).max()))
    expected = at(tau) if float(x.abs().sum()) > kappa else x
    found = leco.L1Ball(kappa).c_step(x, mu).decompress()
    assert float(found.abs().sum()) <= kappa * (1 + 1e-12)
    assert bool(((found - expected).abs() <= 1e-12 * (x.abs() + tau / mu)).all())


@pytest.mark.parametrize("kappa", [1e-6, 0.1, 1.0, 5.0, 1e6])
@pytest.mark.parametrize("spread", [0.0, 1.5, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_l2_ball_is_bisection(kappa, spread, seed):
    x, mu = draw(40, seed=seed, spread=spread)

    def at(tau: float) -> Tensor:
        return mu * x / (mu + tau)

    high = float((mu * x).norm()) / kappa
    tau = bisected(lambda tau: float(at(tau).norm()), kappa, high) if x.norm() > kappa else 0.0
    found = leco.L2Ball(kappa).c_step(x, mu).decompress()
    assert float(found.norm()) <= kappa * (1 + 1e-12)
    torch.testing.assert_close(found, at(tau), rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("ball", [leco.L1Ball(2.0), leco.L2Ball(2.0)], ids=str)
def test_rows_inside_a_ball_stay_and_zeros_are_no_problem(ball):
    x, mu = draw(3, 8)
    x[0] *= 0.01
    x[1] = 0
    found = ball.compress(x, mu).decompress()
    assert torch.equal(found[:2], x[:2])
    assert not torch.equal(found[2], x[2])


@pytest.mark.parametrize("kappa", range(6))
def test_groups_kept_are_the_best_of_all_choices(kappa):
    for seed in range(4):
        x, mu = draw(5, 3, seed=seed)
        lost = (mu / 2 * x.square()).sum(1)
        best = min(float(lost[~mask].sum()) for mask in supports(5, kappa))
        top = leco.GroupTopK(kappa)
        assert math.isclose(
            objective(top, x, mu, top.compress(x, mu)), best, rel_tol=1e-12, abs_tol=1e-14
        )


@pytest.mark.parametrize("costs", [1.0, (1.0, 3.0, 0.5, 0.0, 2.0)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
def test_priced_groups_are_the_best_of_all_choices(alpha, costs):
    each = torch.tensor(costs, dtype=torch.float64).expand(5)
    for seed in range(4):
        x, mu = draw(5, 3, seed=seed)
        lost = (mu / 2 * x.square()).sum(1)
        best = min(float(lost[~m].sum() + alpha * each[m].sum()) for m in supports(5, 5))
        penalty = leco.GroupL0Penalty(alpha, costs)
        assert math.isclose(
            objective(penalty, x, mu, penalty.compress(x, mu)), best, rel_tol=1e-12, abs_tol=1e-14
        )


@pytest.mark.parametrize("spread", [0.0, 1.5, 8.0])
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.5, 1.5])
def test_the_block_soft_threshold_satisfies_its_conditions(alpha, spread):
    """0 is in mu (theta - x) + t d||theta_g||: a unit vector where theta_g is not 0, the unit ball
    where it is."""
    costs = (1.0, 3.0, 0.5, 0.0, 2.0)
    kept = 0
    for seed in range(6):
        x, mu = draw(5, 4, seed=seed, spread=spread)
        x[0] *= seed > 0
        delta = leco.GroupL1Penalty(alpha, costs).c_step(x, mu).decompress()
        for row, own, d, c in zip(x, mu, delta, costs, strict=True):
            t, pull = alpha * c, own * (row - d)
            if d.any():
                kept += 1
                allowed = 1e-12 * t + 1e-15 * own * row.abs()  # what x - delta rounds away
                assert bool(((pull - t * d / d.norm()).abs() <= allowed).all())
            else:
                assert pull.norm() <= t * (1 + 1e-12)
    assert kept


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 8), (2, 9), (2, 17)])
def test_each_block_keeps_what_gains_most(n, m):
    x, mu = draw(6, 3 * m)
    delta = leco.NM(n, m).compress(x, mu).decompress()
    gains = (mu * x.square()).view(-1, m)
    kept = (delta.view(-1, m) != 0).long()
    assert torch.equal((gains * kept).sum(1), (gains.topk(n).values).sum(1)) or torch.allclose(
        (gains * kept).sum(1), gains.topk(n).values.sum(1), rtol=1e-12
    )
    assert bool((kept.sum(1) == n).all())


def test_newton_takes_few_steps_however_wide_the_metric(monkeypatch):
    """A million weights over 16 decades, as rows and as one vector."""
    monkeypatch.setattr(roots, "STEPS", 60)
    x, mu = draw(64, 1000, spread=6.0)
    for shape in ((64, 1000), (1, 64000)):
        own, weights = x.view(shape), mu.view(shape)
        for kappa in (1e-3, 1.0, 30.0):
            l1 = leco.L1Ball(kappa).compress(own, weights).decompress().abs().sum(1)
            l2 = leco.L2Ball(kappa).compress(own, weights).decompress().norm(dim=1)
            for norms in (l1, l2):
                torch.testing.assert_close(norms, torch.full_like(norms, kappa).clamp(max=kappa))

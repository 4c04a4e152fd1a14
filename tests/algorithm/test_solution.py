"""The algorithm, on problems with known solutions."""

import math

import pytest
import torch
from small_nets import Weights, quadratic
from torch import nn

import leco


def solve_l_step(lc: leco.LC, a: torch.Tensor, c: torch.Tensor) -> None:
    """argmin of L(w) - lambda'(w - Delta) + mu/2 ||w - Delta||^2, exactly."""
    n = len(c)
    pull = lc.mu * lc.delta["w"] + lc.multipliers.get("w", torch.zeros(n, dtype=c.dtype))
    with torch.no_grad():
        lc.params["w"].copy_(
            torch.linalg.solve(a + lc.mu * torch.eye(n, dtype=c.dtype), a @ c + pull)
        )


def known_solution():
    """min L(w) subject to w_i = t for all i, a codebook of one value: t* = 1'Ac / 1'A1, and lambda*
    = dL/dw at t* 1."""
    a, c = quadratic()
    one = torch.ones_like(c)
    t = (one @ a @ c) / (one @ a @ one)
    gradient = a @ (t * one - c)
    assert abs(float(one @ gradient)) < 1e-12  # KKT: orthogonal to the constraint's tangent
    return a, c, t * one, gradient


def test_augmented_lagrangian_converges_to_the_known_weights_and_multipliers():
    a, c, w, gradient = known_solution()
    lc = leco.LC(Weights(w=c), {"w": leco.Task("w", leco.Vector(), leco.Codebook(1))})
    for mu in [1.0] * 50 + [2.0] * 50 + [4.0] * 100:
        lc.mu = mu
        solve_l_step(lc, a, c)
        record = lc.step()
    torch.testing.assert_close(lc.params["w"].detach(), w, rtol=0, atol=1e-10)
    torch.testing.assert_close(lc.delta["w"], w, rtol=0, atol=1e-10)
    torch.testing.assert_close(lc.multipliers["w"], gradient, rtol=0, atol=1e-10)
    assert record.multiplier_norm == pytest.approx(float(gradient.norm()))
    assert record.gap < 1e-10


def test_quadratic_penalty_stays_at_lambda_over_mu_from_the_solution():
    """At the minimum over w and Theta for a given mu, mu (Delta - w) estimates lambda with an error
    of order 1/mu."""
    a, c, w, gradient = known_solution()
    lc = leco.LC(
        Weights(w=c), {"w": leco.Task("w", leco.Vector(), leco.Codebook(1))}, multipliers=False
    )
    errors = []
    for mu in (10.0, 100.0):
        lc.mu = mu
        for _ in range(2000):
            solve_l_step(lc, a, c)
            record = lc.step()
        estimate = mu * (lc.delta["w"] - lc.params["w"].detach())
        errors.append((float((estimate - gradient).norm()), float((lc.delta["w"] - w).norm())))
        assert record.gap == pytest.approx(float(gradient.norm()) / mu, rel=0.5)
    assert lc.multipliers == {}
    assert all(late < 0.15 * early for early, late in zip(*errors, strict=True))


def test_direct_compression_is_the_c_step_of_w_at_the_first_mu():
    w = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)
    lc = leco.LC(Weights(w=w), {"w": leco.Task("w", leco.Vector(), leco.L0Penalty(0.5))})
    with pytest.raises(ValueError, match=r"mu is not set"):
        _ = lc.mu
    lc.mu = 4.0  # threshold sqrt(2 * 0.5 / 4) = 0.5
    assert lc.delta["w"].tolist() == [0, -2, 1]
    assert lc.multipliers["w"].tolist() == [0, 0, 0]
    assert lc.params["w"].tolist() == w.tolist()


def test_c_step_sees_w_less_lambda_over_mu_and_multipliers_step_follows_the_gap():
    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    lc = leco.LC(Weights(w=w), {"w": leco.Task("w", leco.Vector(), leco.L2Ball(1.0))})
    lc.mu = 2.0
    delta = lc.delta["w"].clone()
    lc.multipliers_step()
    expected = -2.0 * (w - delta)
    torch.testing.assert_close(lc.multipliers["w"], expected)
    lc.mu = 4.0
    lc.c_step()
    x = w - expected / 4
    torch.testing.assert_close(lc.delta["w"], x / x.norm())


@pytest.mark.parametrize("curvature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("share", [0.5, 0.95, 1.05, 1.2, 1.5, 3.0])
def test_signs_swing_for_ever_exactly_where_steady_mu_says(share, curvature):
    """L = H w^2 / 2, L steps by gradient flow, started on the cycle: it is kept, or left for
    good."""
    iterations, lr, a = 100, 0.01, 1.0
    mu = share * leco.steady_mu(lr, iterations)
    model = Weights(w=torch.zeros(3, dtype=torch.float64))
    lc = leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary(scale=False))})
    lc.mu = mu
    s = -math.expm1(-lr * (mu + curvature) * iterations)
    pulled = s * mu / (mu + curvature)
    w = -1.5 * pulled * a / (2 - s - pulled / 2)
    with torch.no_grad():
        model.w.fill_(w)
        lc.multipliers["w"].fill_(mu * (a - w) / 2)
    swings, signs = 0, lc.thetas["all"].indices
    for _ in range(20):
        with torch.no_grad():
            target = (mu * lc.delta["w"] + lc.multipliers["w"]) / (mu + curvature)
            model.w.copy_(target + (model.w - target) * (1 - s))
        lc.step()
        swings, signs = (
            swings + int((lc.thetas["all"].indices != signs).any()),
            lc.thetas["all"].indices,
        )
    assert swings == (20 if pulled < 1 - s / 2 else 0)
    if curvature == 0:
        assert (pulled < 1 - s / 2) == (share < 1)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_l_steps_of_one_iteration_from_delta_are_straight_through_training(factor):
    torch.manual_seed(0)
    inputs, outputs = (
        torch.randn(40, 12, dtype=torch.float64),
        torch.randn(40, 1, dtype=torch.float64),
    )
    model, binary, lr, mu = nn.Linear(12, 1, bias=False).double(), leco.Binary(), 0.05, 0.1
    latent = model.weight.detach().clone().view(-1)
    lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), binary)})
    optimizer = torch.optim.SGD(model.parameters(), lr)
    lc.attach(optimizer)
    lc.mu = mu
    lc.multipliers_step()
    signs = set()
    for _ in range(60):
        lc.mu, before = lc.mu * factor, lc.mu
        lc.project_()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), outputs).backward()
        gradient = model.weight.grad.clone().view(-1)
        optimizer.step()
        found = (model.weight.detach() - lc.multipliers["weight"] / lc.mu).view(-1)
        lc.step()
        delta = binary.compress(latent, mu).decompress()
        apart = before / lc.mu * (latent - delta)
        latent = delta + apart - lr * (gradient + lc.mu * apart)
        assert torch.allclose(found, latent, rtol=0, atol=1e-12)
        signs.add(tuple((latent >= 0).tolist()))
    assert len(signs) > 2

"""Retraining stays in the compression's set."""

import pytest
import torch
from torch import nn

import leco

W = torch.linspace(-2, 3, 12, dtype=torch.float64).view(3, 4)


def retrained(view, compression, gradient: torch.Tensor, steps: int = 1):
    model = nn.Module()
    model.w = nn.Parameter(W.clone())
    lc = leco.LC(model, {"w": leco.Task("w", view, compression)})
    lc.mu = 1.0
    free = leco.Retraining(lc)
    optimizer = torch.optim.SGD(free.parameters(), lr=1.0, momentum=0.9)
    free.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        (model.w * gradient).sum().backward()
        optimizer.step()
    return lc, free


def test_a_step_is_a_projected_gradient_step_on_the_ball():
    outward = -W.sign()
    lc, free = retrained(leco.Vector(), leco.L2Ball(2.0), outward)
    start = 2 * W.view(-1) / W.norm()
    moved = start - outward.view(-1)
    torch.testing.assert_close(lc.delta["w"].view(-1), 2 * moved / moved.norm())
    torch.testing.assert_close(free.parameters()[0].detach().view(-1), lc.delta["w"].view(-1))


def soft(x: torch.Tensor, kappa: float) -> torch.Tensor:
    """The projection on the l1 ball by bisection."""
    low, high = 0.0, float(x.abs().max())
    for _ in range(100):
        tau = (low + high) / 2
        inside = float((x.abs() - tau).clamp(min=0).sum()) <= kappa
        low, high = (low, tau) if inside else (tau, high)
    return x.sign() * (x.abs() - high).clamp(min=0)


def test_a_step_is_a_projected_gradient_step_on_the_l1_ball_with_the_support():
    outward = -W.sign()
    lc, _ = retrained(leco.Vector(), leco.L1Ball(4.0), outward)
    start = soft(W.view(-1), 4.0)
    moved = torch.where(start != 0, start - outward.view(-1), 0)
    torch.testing.assert_close(lc.delta["w"].view(-1), soft(moved, 4.0))


BALLS = [
    (leco.Vector(), leco.L1Ball(2.0), lambda w: w.abs().sum(), 2.0),
    (leco.Rows(), leco.L1Ball(0.7), lambda w: w.abs().sum(1).max(), 0.7),
    (leco.Vector(), leco.L2Ball(2.0), lambda w: w.norm(), 2.0),
    (leco.Rows(), leco.L2Ball(0.7), lambda w: w.norm(dim=1).max(), 0.7),
]


@pytest.mark.parametrize(("view", "compression", "size", "kappa"), BALLS)
def test_many_steps_outward_stay_on_the_boundary(view, compression, size, kappa):
    lc, _ = retrained(view, compression, -W.sign(), steps=5)
    assert float(size(lc.delta["w"])) == pytest.approx(kappa, rel=1e-9)
    assert torch.equal(lc.delta["w"], lc.params["w"])


def test_sets_that_hold_all_values_are_not_projected():
    lc, _ = retrained(leco.Vector(), leco.TopK(3), torch.ones(3, 4, dtype=torch.float64))
    largest = W.view(-1).abs().topk(3).indices
    expected = torch.zeros(12, dtype=torch.float64)
    expected[largest] = W.view(-1)[largest] - 1
    torch.testing.assert_close(lc.delta["w"].view(-1), expected)


def test_each_term_of_a_sum_stays_in_its_own_set():
    terms = [(leco.Vector(), leco.Binary()), (leco.Rows(), leco.L1Ball(0.25))]
    lc, _ = retrained(leco.Blocks(), leco.Additive(terms), -W.sign(), steps=5)
    _, rows = (term.decompress() for term in lc.thetas["w"].terms)
    assert float(rows.abs().sum(1).max()) == pytest.approx(0.25, rel=1e-9)

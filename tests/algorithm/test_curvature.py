"""The curvature of the loss along the distortion."""

import pytest
import torch
from small_nets import Weights, quadratic
from torch import nn

import leco


def problem() -> tuple[Weights, leco.LC]:
    model = Weights(w=torch.linspace(-1, 2, 50, dtype=torch.float64))
    return model, leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary())})


def test_both_gradients_see_the_same_random_numbers():
    """L = w'Mw/2 with a random diagonal M: the curvature of one M is between its extremes."""
    model, lc = problem()
    drawn = []

    def backward() -> None:
        diagonal = torch.rand(50, dtype=torch.float64)
        drawn.append(diagonal)
        ((diagonal * model.w).square().sum() + 1e6 * diagonal @ model.w).backward()

    h = lc.curvature(backward)
    assert torch.equal(*drawn)
    d = leco.Binary().compress(model.w.detach(), 1.0).decompress() - model.w.detach()
    exact = float((2 * drawn[0].square() * d) @ d / (d @ d))
    assert h == pytest.approx(exact, rel=1e-6)
    state = torch.get_rng_state()
    assert lc.curvature(backward) != h  # the generator went on
    assert not torch.equal(torch.get_rng_state(), state)


def test_dropout_gives_a_curvature_above_zero_for_a_convex_loss():
    model, lc = problem()

    def backward() -> None:
        (nn.functional.dropout(model.w, 0.5, True).square().sum() / 2).backward()

    # each kept weight counts 4 times, by half of them
    found = [lc.curvature(backward) for _ in range(20)]
    assert all(0.5 < h < 4 for h in found)


def test_curvature_is_that_of_a_quadratic_along_the_distortion_and_leaves_no_trace():
    a, c = quadratic()
    model = Weights(
        w=torch.linspace(-1, 2, 6, dtype=torch.float64), free=torch.zeros(3, dtype=torch.float64)
    )
    model.norm = nn.BatchNorm1d(2).double()
    lc = leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary())})
    before, kept = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.ones(6, dtype=torch.float64),
    )
    model.w.grad = kept
    d = leco.Binary().compress(model.w.detach(), 1.0).decompress() - model.w.detach()
    seen = []

    def backward() -> None:
        seen.append(model.w.detach().clone())
        model.norm(torch.randn(4, 2, dtype=torch.float64))
        gap = model.w - c
        (gap @ a @ gap / 2).backward()

    assert lc.curvature(backward) == pytest.approx(float(d @ a @ d / (d @ d)), rel=1e-12)
    assert torch.equal(seen[0], before["w"])
    assert torch.allclose(seen[1], before["w"] + d)
    assert model.w.grad is kept
    assert model.free.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not lc.thetas
    lc.mu = 0.5  # no warning that mu goes down
    assert lc.curvature(backward) == pytest.approx(float(d @ a @ d / (d @ d)), rel=1e-12)
    assert lc.mu == 0.5


def test_curvature_says_what_is_missing():
    model = Weights(w=torch.tensor([1.0, -1.0, 3.0]))
    lc = leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary())})
    with pytest.raises(ValueError, match=r"are 0; does `backward` call backward\(\)"):
        lc.curvature(lambda: model.w.sum())
    with pytest.raises(ValueError, match="are NaN"):
        lc.curvature(lambda: (model.w.sum() * float("nan")).backward())
    with torch.no_grad():
        model.w.copy_(torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="already"):
        lc.curvature(lambda: model.w.square().sum().backward())
    assert not lc.thetas

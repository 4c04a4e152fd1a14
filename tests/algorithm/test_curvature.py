"""The curvature does not depend on the numbers that dropout draws twice."""

import pytest
import torch
from small_nets import Weights
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

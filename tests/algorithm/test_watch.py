"""Loops that go wrong silently are noticed; right ones are silent."""

import warnings

import pytest
import torch
from small_nets import Weights, network, one_weight, tasks, train
from torch import nn

import leco


def loop(lc, optimizer, steps=2):
    lc.mu = 0.1
    for _ in range(steps):
        train(lc.model, optimizer, 2)
        lc.step()


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_forgotten_penalty_is_said_once(make):
    lc = leco.LC(network(), tasks())
    with pytest.warns(UserWarning, match=r"the penalty was not applied.*lc.attach") as caught:
        loop(lc, make(lc.model.parameters()), 4)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_applied_penalties_are_silent(make):
    lc = leco.LC(network(), tasks())
    optimizer = make(lc.model.parameters())
    lc.attach(optimizer)
    loop(lc, optimizer)
    lc.penalty()  # measured, not trained with
    loop(lc, optimizer)


def test_sam_steps_that_pass_by_the_hook_are_noticed():
    """first_step and second_step change the weights without `step`."""
    lc = leco.LC(network(), tasks())
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 1.0
    lc.model(torch.ones(2, 5, dtype=torch.float64)).sum().backward()
    with torch.no_grad():
        for p in lc.model.parameters():
            p.data.sub_(0.1 * p.grad)
    with pytest.warns(UserWarning, match="SAM's first_step, second_step"):
        lc.step()


def test_attach_and_penalty_together_are_noticed():
    lc = leco.LC(network(), tasks())
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 1.0
    lc.penalty().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match="applied twice since the last step"):
        lc.step()


def test_loops_without_gradients_are_silent():
    lc = leco.LC(network(), tasks())
    lc.mu = 1.0  # direct compression
    lc.step()
    with torch.no_grad():
        lc.params["0.weight"].mul_(2)  # an L step in closed form
    lc.step()
    lc.project_()
    lc.step()


@pytest.mark.parametrize(
    ("momentum", "nesterov", "dampening", "bound"),
    [(0, False, 0, 2.0), (0.9, False, 0, 3.8), (0.9, True, 0, 3.8 / 2.8), (0.5, False, 0.5, 6.0)],
)
def test_a_learning_rate_that_diverges_is_said_exactly_above_the_bound(
    momentum, nesterov, dampening, bound
):
    mu = 2.0
    for factor, diverges in ((0.98, False), (1.02, True)):
        lc = one_weight(torch.tensor([1.0, 3.0], dtype=torch.float64), leco.Codebook(1))
        options = {"momentum": momentum, "nesterov": nesterov, "dampening": dampening}
        free = nn.Parameter(torch.zeros(1))  # another group's rate does not matter
        groups = [{"params": lc.model.parameters()}, {"params": [free], "lr": 1e3}]
        optimizer = torch.optim.SGD(groups, lr=factor * bound / mu, **options)
        lc.attach(optimizer)
        lc.mu = mu
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(1200):
                optimizer.zero_grad()
                optimizer.step()
        assert len(caught) == diverges
        assert all("leco.stable_lr" in str(w.message) for w in caught)
        assert (float(lc.params["w"].detach().abs().max()) > 1e3) == diverges


def test_fused_steps_before_save_are_noticed(tmp_path):
    model = Weights(w=torch.linspace(-1, 2, 50))
    lc = leco.LC(model, {"w": leco.Task("w", leco.Vector(), leco.Binary())})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    lc.attach(optimizer)
    lc.mu = 1.0
    optimizer.step()
    with pytest.warns(UserWarning, match=r"changed since the last C step.*lc.step\(\)"):
        leco.save(tmp_path / "net", lc)

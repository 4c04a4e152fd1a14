"""The penalty's gradient in optimizer steps: which optimizers, which gradients, copies."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from small_nets import network, one_weight, tasks, train
from torch import nn

import leco
from leco.algorithm import penalty


class Accelerated(torch.optim.Optimizer):
    """What accelerate makes: an Optimizer by class that never runs its constructor."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step()


# --- which optimizers


def test_the_optimizer_inside_wrappers_is_found():
    models = network(), network()
    for model, wrap in zip(
        models, (lambda o: o, lambda o: Accelerated(Accelerated(o))), strict=True
    ):
        lc = leco.LC(model, tasks())
        optimizer = wrap(torch.optim.SGD(model.parameters(), lr=0.1))
        lc.attach(optimizer)
        lc.mu = 1.0
        optimizer.step()
    assert torch.equal(models[0][0].weight, models[1][0].weight)


@pytest.mark.parametrize("wrong", [object(), SimpleNamespace(optimizer=None), "sgd"])
def test_what_is_no_optimizer_is_refused_with_what_to_do(wrong):
    lc = leco.LC(network(), tasks())
    with pytest.raises(TypeError, match=r"attach takes optimizers of torch.optim.*lc.penalty\(\)"):
        lc.attach(wrong)
    assert not lc.attached


def test_an_optimizer_of_uncompressed_parameters_only_steps_as_without():
    model = network()
    lc = leco.LC(model, tasks())
    matrices = torch.optim.SGD([model[0].weight, model[2].weight], lr=0.5)
    others = torch.optim.SGD([model[0].bias, model[2].bias], lr=0.5)
    lc.attach(matrices, others)
    lc.mu = 1.0
    model[0].bias.grad = torch.ones(7, dtype=torch.float64)
    expected = model[0].bias.detach() - 0.5
    others.step()
    torch.testing.assert_close(model[0].bias.detach(), expected, rtol=0, atol=0)
    w, delta = model[0].weight.detach().clone(), lc.delta["0.weight"]
    matrices.step()
    torch.testing.assert_close(model[0].weight.detach(), w - 0.5 * (w - delta))


def test_two_lcs_on_one_weight_are_refused_and_on_two_weights_add_up():
    model = network()
    lcs = [leco.LC(model, {name: task}) for name, task in tasks().items()]
    twin = leco.LC(model, {"first": tasks()["first"]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for lc in lcs:
        lc.mu = 1.0
        lc.attach(optimizer)
    with pytest.raises(ValueError, match=r"'0.weight' of task 'first' gets the penalty of another"):
        twin.attach(optimizer)
    before = {n: p.detach().clone() for lc in lcs for n, p in lc.params.items()}
    optimizer.step()
    for lc in lcs:
        for name, p in lc.params.items():
            torch.testing.assert_close(p.detach(), (before[name] + lc.delta[name]) / 2)


# --- which gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_gradient_of_the_loss(dtype):
    """w = Delta, mu = 1: what is added must be 0, not mu w - mu Delta rounded on the way."""
    lc = one_weight(torch.tensor([1.5, -1.5], dtype=dtype), leco.Binary())
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.5)
    lc.attach(optimizer)
    lc.mu = 1.0
    small = torch.tensor([1e-4, -1e-4], dtype=dtype)
    lc.params["w"].grad = small.clone()
    optimizer.step()
    assert torch.equal(lc.params["w"].grad, small)


def test_the_gradient_is_formed_in_float32_and_rounded_once():
    torch.manual_seed(0)
    w, delta, multiplier, gradient = (torch.randn(1000).bfloat16() for _ in range(4))
    exact = gradient.double() + 0.3 * (w.double() - delta.double()) - multiplier.double()
    found = gradient.clone()
    penalty.add_gradient_([found], [w], [delta], [multiplier], 0.3)
    apart = (found.double() - exact).abs() / exact.abs().clamp(min=1e-3)
    assert float(apart.max()) < 2.0**-8 + 1e-4  # half a unit in the last place


def test_multipliers_move_by_a_difference_formed_in_float32():
    """(1.0078125 - 1) mu: exact in bfloat16, where mu w and mu Delta are not."""
    lc = one_weight(torch.tensor([1.0078125, -1.0], dtype=torch.bfloat16), leco.Binary(scale=False))
    lc.mu = 0.3
    lc.multipliers_step()
    assert lc.multipliers["w"].tolist() == [float(torch.tensor(-0.3 * 0.0078125).bfloat16()), 0]


def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    w, delta, multiplier = (
        [torch.randn(n, dtype=torch.float64) for n in (5, 3, 9, 2)] for _ in range(3)
    )
    found = []
    for size in (4, 1000):
        monkeypatch.setattr(penalty, "CHUNK", size)
        gradients = [torch.zeros_like(x) for x in w]
        penalty.add_gradient_(gradients, w, delta, multiplier, 2.0)
        found.append(gradients)
    for a, b, x, d, m in zip(*found, w, delta, multiplier, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, 2 * (x - d) - m)


def test_a_sparse_gradient_becomes_dense():
    torch.manual_seed(0)
    moved = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Embedding(6, 3, sparse=sparse, dtype=torch.float64)
        lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        lc.attach(optimizer)
        lc.mu = 1.0
        model(torch.tensor([1, 4])).square().sum().backward()
        optimizer.step()
        moved.append(model.weight.detach())
    torch.testing.assert_close(*moved)
    with pytest.raises(TypeError, match="SparseAdam"):
        leco.LC(model, lc.tasks).attach(torch.optim.SparseAdam(model.parameters()))


def test_a_weight_frozen_after_attach_stays():
    model = network()
    lc = leco.LC(model, tasks())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 1.0
    before = model[0].weight.detach().clone()
    model[0].weight.requires_grad_(False)
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.grad is None
    model[2].weight.requires_grad_(False)  # none is left
    optimizer.step()


def test_the_step_inside_compressed_is_refused():
    model = network()
    lc = leco.LC(model, tasks())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 1.0
    with lc.compressed(), pytest.raises(RuntimeError, match=r"inside `with lc\.compressed"):
        optimizer.step()


# --- copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_an_attached_lc_is_copied_without_its_optimizer(copied):
    model = network()
    lc = leco.LC(model, tasks())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 1.0
    train(model, optimizer)
    lc.step()
    twin = copied(lc)
    assert lc.attached
    assert not twin.attached
    twin.check_current()
    twin.check_saved()  # no warning: its weights belong to its Theta
    other = torch.optim.SGD(twin.model.parameters(), lr=0.1)
    twin.attach(other)
    before = {n: p.detach().clone() for n, p in lc.params.items()}
    for pair in ((model, optimizer), (twin.model, other)):
        train(*pair)
    for name, p in lc.params.items():
        assert torch.equal(p, twin.params[name])
        assert not torch.equal(p, before[name])
    copy.deepcopy(optimizer)
    assert pickle.loads(pickle.dumps(optimizer)).param_groups[0]["lr"] == 0.1


def test_a_copy_knows_that_its_weights_were_changed():
    lc = leco.LC(network(), tasks())
    lc.mu = 1.0
    with torch.no_grad():
        lc.params["0.weight"].add_(1)
    with pytest.warns(UserWarning, match="changed since the last C step"):
        copy.deepcopy(lc).check_saved()

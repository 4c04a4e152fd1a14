"""The diagonal of the empirical Fisher information."""

import pytest
import torch
from torch import nn

import leco

X, Y = torch.randn(12, 4, dtype=torch.float64), torch.randint(3, (12,))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.0), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


def of(model: nn.Module) -> leco.LC:
    return leco.LC(model, leco.each(["0.weight", "3.weight"], leco.Vector(), leco.Binary()))


def backward_of(model: nn.Module):
    def backward(rows: torch.Tensor) -> None:
        nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()

    return backward


@pytest.mark.parametrize("size", [1, 4])
def test_it_is_the_mean_square_of_the_gradients_of_batches(size):
    model = net().eval()
    lc, parts = of(model), torch.arange(12).split(size)
    found = leco.fisher(lc, backward_of(model), parts, damping=0.5)
    squares = {n: torch.zeros_like(p) for n, p in lc.params.items()}
    for part in parts:
        loss = nn.functional.cross_entropy(model(X[part]), Y[part])
        gradients = torch.autograd.grad(loss, list(lc.params.values()))
        for square, gradient in zip(squares.values(), gradients, strict=True):
            square += gradient.square()
    mean = torch.cat([s.view(-1) for s in squares.values()]).mean()
    for name, square in squares.items():
        assert torch.allclose(found[name], (square / mean + 0.5) / 1.5, rtol=1e-12)
    every = torch.cat([d.view(-1) for d in found.values()])
    assert every.mean() == pytest.approx(1.0)
    lc.set_metric(found)
    lc.mu = 0.1
    assert lc.step().weighed_gap > 0


def test_everything_is_left_as_it_was():
    model = net().train()
    lc = of(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    leco.fisher(lc, backward_of(model), torch.arange(12).split(3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert not lc.thetas
    assert not lc.metric


def test_a_weight_without_gradient_is_damped():
    model = nn.Linear(3, 1, bias=False)
    lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    x = torch.tensor([[1.0, 0.0, 2.0]])
    found = leco.fisher(lc, lambda row: model(row).sum().backward(), [x], damping=0.5)["weight"]
    assert torch.allclose(found, (torch.tensor([[1.0, 0.0, 4.0]]) / (5 / 3) + 0.5) / 1.5)


def test_half_precision_sums_in_float32():
    model = nn.Linear(3, 1, bias=False).bfloat16()
    lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    x = torch.full((1, 3), 2.0**-40, dtype=torch.bfloat16) * torch.tensor([1.0, 2.0, 3.0])
    found = leco.fisher(lc, lambda row: model(row).sum().backward(), [x.bfloat16()] * 300)
    assert found["weight"].dtype == torch.float32
    assert found["weight"].argsort().tolist() == [[0, 1, 2]]


def test_what_can_not_be_is_refused():
    model = net()
    lc, backward = of(model), backward_of(model)
    parts = torch.arange(12).split(3)
    for damping in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="damping"):
            leco.fisher(lc, backward, parts, damping=damping)
    with pytest.raises(ValueError, match="batches is empty"):
        leco.fisher(lc, backward, [])
    with pytest.raises(ValueError, match="mean squared gradient is 0"):
        leco.fisher(lc, lambda part: None, parts)
    with pytest.raises(ValueError, match="nan"):
        leco.fisher(lc, lambda part: (model(X) * torch.nan).sum().backward(), parts)
    lc.mu = 1.0
    with lc.compressed(), pytest.raises(RuntimeError, match="compressed"):
        leco.fisher(lc, backward, parts)

"""Statistics of batch norm: averaged over batches, or left as they were."""

import pytest
import torch
from torch import nn

import leco

X = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double()

    def forward(self, x, shift=0.0):
        return self.norm(x + shift)


def trained() -> Keywords:
    model = Keywords()
    model(5 + 3 * X)
    return model


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "batches is empty"),
        ([X, [X, X]], TypeError, "lists of inputs and targets"),
        ([X, {"x": X, "unknown": 1}], TypeError, "unexpected keyword argument"),
        ([X, X[:, :2]], RuntimeError, "running_mean"),
    ],
)
def test_batches_that_cannot_be_used_leave_everything_as_it_was(batches, error, message):
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        leco.recalibrate_(model, batches)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.training
    assert model.norm.training
    assert model.norm.momentum == 0.1


def test_an_interrupted_loader_leaves_the_statistics():
    model = trained()
    mean = model.norm.running_mean.clone()

    def loader():
        yield X
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leco.recalibrate_(model, loader())
    assert torch.equal(model.norm.running_mean, mean)


@pytest.mark.parametrize("give", [lambda x: x, lambda x: (x, 0.0), lambda x: {"x": x, "shift": 0}])
def test_inputs_are_tensors_tuples_or_mappings(give):
    model = trained()
    leco.recalibrate_(model, (give(x) for x in X.split(32)))
    torch.testing.assert_close(model.norm.running_mean, X.mean(0))
    variance = (X[:32].var(0) + X[32:].var(0)) / 2
    torch.testing.assert_close(model.norm.running_var, variance)

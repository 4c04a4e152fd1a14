"""Multiply-adds of recurrent layers and attention; arguments by name."""

import pytest
import torch
from torch import Tensor, nn

import leco


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_counted(kind):
    model = kind(8, 16, 2, bidirectional=True)
    weights = sum(p.numel() for name, p in model.named_parameters() if name.startswith("weight"))
    counts = leco.multiply_adds(model, torch.randn(5, 3, 8))
    assert counts == {"": 5 * 3 * weights}
    assert torch.backends.mkldnn.enabled


def test_attention_is_counted():
    x = torch.randn(2, 5, 16)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    counts = leco.multiply_adds(layer, x)
    projections, scores = 2 * 5 * 4 * 16 * 16, 2 * 2 * 5 * 5 * 16
    assert counts == {
        "self_attn": projections + scores,
        "linear1": 2 * 5 * 16 * 32,
        "linear2": 2 * 5 * 16 * 32,
    }


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, *, x: Tensor, double: bool = False) -> Tensor:
        return self.second(self.first(x).relu()) * (2 if double else 1)


def test_arguments_by_name():
    net, inputs = ByName(), {"x": torch.randn(3, 8), "double": True}
    assert leco.multiply_adds(net, inputs) == {"first": 3 * 8 * 16, "second": 3 * 16 * 4}
    found = leco.compare(net, ByName(), inputs, batches=[1], repeats=2)
    assert found.multiply_adds == (8 * 16 + 16 * 4,) * 2
    with pytest.raises(ValueError, match="one batch size"):
        leco.compare(net, net, {"double": True}, batches=[1], repeats=2)


def test_coupled_takes_arguments_by_name():
    pytest.importorskip("torch_pruning")
    net = ByName()
    sets = leco.coupled(net, {"x": torch.randn(3, 8)})
    (own,) = sets.values()
    assert sorted(own.params) == ["first.bias", "first.weight"]
    lc = leco.LC(
        net, {n: leco.Task(s.params, s.view, leco.GroupTopK(0.5)) for n, s in sets.items()}
    )
    lc.mu = 1.0
    lc.project_()
    small = leco.narrow(net, {"x": torch.randn(3, 8)})
    assert small.first.out_features == 8

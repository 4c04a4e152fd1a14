"""Recurrent layers, attention, bags and subclasses compute from packed weights."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import leco
from leco.layers.packed import unpacked


class Renamed(nn.Linear):
    """A subclass that computes as its parent."""


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def signs(model: nn.Module, names: list[str]) -> leco.LC:
    torch.manual_seed(1)
    lc = leco.LC(model.double().eval(), leco.each(names, leco.Vector(), leco.Codebook(4)))
    lc.mu = 1.0
    return lc


def first(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    return y if isinstance(y, Tensor) else y[0]


def packed_like(lc: leco.LC, *inputs: Tensor) -> nn.Module:
    """The packed net, which computes as the dense one does, after copies and pickles too."""
    assert unpacked(lc.model, lc) == {}
    net = leco.pack(lc.model, lc).eval()
    with lc.compressed():
        expected = first(lc.model(*inputs))
    for same in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.allclose(first(same(*inputs)), expected, rtol=0, atol=1e-12)
    held, dense = (sum(t.nbytes for t in m.state_dict().values()) for m in (net, lc.model))
    assert held < dense / 3
    other = leco.pack(lc.model, lc)
    other.load_state_dict(net.state_dict())
    return net


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind):
    model = kind(16, 24, 2, bidirectional=True)
    names = [name for name, _ in model.named_parameters() if name.startswith("weight")]
    lc = signs(model, names)
    net = packed_like(lc, torch.randn(5, 3, 16, dtype=torch.float64))
    assert all(torch.equal(getattr(net, name), lc.delta[name]) for name in names)
    assert {name for name, _ in net.named_parameters()} == {
        name for name, _ in model.named_parameters() if name.startswith("bias")
    }


def test_a_part_of_a_recurrent_layer():
    model = nn.LSTM(16, 24)
    lc = signs(model, ["weight_hh_l0"])
    net = leco.pack(lc.model, lc).eval()
    x = torch.randn(5, 3, 16, dtype=torch.float64)
    with lc.compressed():
        assert torch.allclose(net(x)[0], model(x)[0], rtol=0, atol=1e-12)
    assert "weight_ih_l0" in dict(net.named_parameters())


def test_attention():
    model = nn.MultiheadAttention(32, 4)
    x = torch.randn(5, 2, 32, dtype=torch.float64)
    net = packed_like(signs(model, ["in_proj_weight", "out_proj.weight"]), x, x, x)
    assert type(net.out_proj).__name__ == "PackedLinear"
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    names = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight"]
    net = packed_like(signs(layer, [*names, "linear2.weight"]), x)
    with torch.no_grad():  # torch's fast path reads the weights
        net(x)


def test_bags():
    packed_like(signs(nn.EmbeddingBag(50, 16), ["weight"]), torch.randint(50, (4, 6)))


def test_subclasses():
    x = torch.randn(2, 32, dtype=torch.float64)
    packed_like(signs(nn.Sequential(Renamed(32, 40)), ["0.weight"]), x)
    lc = signs(nn.Sequential(Doubled(32, 40)), ["0.weight"])
    reason = "is the weight of a Doubled, a subclass of Linear with a forward of its own"
    assert unpacked(lc.model, lc) == {"0.weight": reason}
    with lc.compressed():
        assert torch.equal(leco.pack(lc.model, lc)(x), lc.model(x))


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_an_embedding_in_groups(bits, zero_point, monkeypatch):
    model = nn.Embedding(50, 64)
    grid = leco.Uniform(bits, zero_point=zero_point)
    lc = leco.LC(model, leco.each(["weight"], leco.Groups(32), grid))
    lc.mu = 1.0
    net, ids = leco.pack(model, lc), torch.randint(50, (3, 4))
    monkeypatch.setattr(type(net.packed), "forward", lambda self: pytest.fail("all is decoded"))
    assert torch.equal(net(ids), lc.delta["weight"][ids])

"""Packed layers compute what the dense layer computes at Delta(Theta), from memory of the size of Theta."""

import copy
import pickle

import pytest
import torch
from torch import nn

import leco
from leco.packed import unpacked

FORMS = {
    "1 bit": leco.Codebook(2),
    "3 values": leco.Codebook(3),
    "5 values": leco.Codebook(5),
    "16 values": leco.Codebook(16),
    "17 values": leco.Codebook(17),
    "signs": leco.Binary(),
    "signs of 1": leco.Binary(scale=False),
    "ternary": leco.Ternary(),
    "powers": leco.PowersOfTwo(3),
    "scaled powers": leco.PowersOfTwo(2, scale=True),
    "grid": leco.Uniform(4),
    "shifted grid": leco.Uniform(8, zero_point=True),
    "sparse": leco.TopK(30),
    "half": leco.TopK(0.3),
    "coded": leco.EntropyCodebook(1e-2, 16),
    "sparse, quantized": leco.Compose(leco.TopK(80), leco.Codebook(4)),
    "ball": leco.L1Ball(0.5),
    "sum": leco.Additive((leco.Part(leco.Vector(), leco.Codebook(2)), leco.Part(leco.Vector(), leco.TopK(20)))),
}
ROWS = [name for name in FORMS if name not in ("sparse, quantized", "sum", "coded")]


def compressed(model: nn.Module, view, compression, names=("weight",)) -> leco.LC:
    torch.manual_seed(1)
    lc = leco.LC(model, {"all": leco.Task(list(names), view, compression)})
    lc.mu = 1.0
    return lc


def packed_like(lc: leco.LC, names=("weight",), **options) -> nn.Module:
    """The packed net, after a look at all weights: equal to the bit, and smaller."""
    assert unpacked(lc.model, lc) == {}
    net = leco.pack(lc.model, lc, **options).eval()
    for name in names:
        layer = net.get_submodule(name.rpartition(".")[0])
        assert type(layer).__name__.startswith("Packed")
        assert layer.weight.dtype == lc.params[name].dtype
        assert torch.equal(layer.weight, lc.delta[name])
    return net


@pytest.mark.parametrize("form", FORMS)
def test_linear_and_its_uses(form):
    torch.manual_seed(0)
    model = nn.Linear(19, 21).double()
    lc = compressed(model, leco.Vector(), FORMS[form])
    net, x = packed_like(lc), torch.randn(4, 19, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.linear(x, lc.delta["weight"], model.bias)
    assert torch.equal(net(x), expected)
    assert set(dict(net.named_parameters())) == {"bias"}
    found, wanted = (torch.autograd.grad(y.square().sum(), x)[0] for y in (net(x), expected))
    assert torch.equal(found, wanted)
    for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(same(x), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)


@pytest.mark.parametrize("view", [leco.Rows(), leco.Rows(1), leco.Groups(32), leco.Tiles(4, 8), leco.Kernel((1, 0))], ids=str)
@pytest.mark.parametrize("form", ROWS)
def test_batches_and_orders(form, view):
    torch.manual_seed(0)
    packed_like(compressed(nn.Linear(64, 32).double(), view, FORMS[form] if form not in ("sparse",) else leco.TopK(4)))


@pytest.mark.parametrize("form", FORMS)
def test_several_parameters(form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(60, 20, bias=False)).double()
    names = ("0.weight", "2.weight")
    net = packed_like(compressed(model, leco.Vector(), FORMS[form], names), names)
    assert net(torch.randn(2, 4, 10, dtype=torch.float64)).shape == (2, 20)


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=2),
    nn.Conv2d(4, 6, (3, 2), groups=2, dilation=(1, 2), padding="same", padding_mode="circular"),
    nn.Conv3d(2, 4, 2, bias=False),
    nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1),
    nn.ConvTranspose2d(4, 6, 3, groups=2),
    nn.ConvTranspose3d(2, 4, 2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("form", ["1 bit", "ternary", "grid", "sparse", "sum"])
def test_convolution(form, layer):
    model = copy.deepcopy(layer).double()
    lc = compressed(model, leco.Vector(), FORMS[form] if form != "sparse" else leco.TopK(2))
    x = torch.randn(2, model.in_channels, *(7,) * (model.weight.ndim - 2), dtype=torch.float64)
    found = packed_like(lc)(x)
    with lc.compressed():
        assert torch.equal(found, model(x))

"""What `coupled` leaves out, and why; nets on which a walk through the channels is hard."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import leco
from leco.layers.narrow import uncoupled

pytest.importorskip("torch_pruning")

TOKENS = torch.randn(2, 6, 8, dtype=torch.float64)
IMAGE = torch.randn(2, 4, 6, 6, dtype=torch.float64)


def halves(x):
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def chunks(x):
    return x.chunk(2, -1)


class Rotary(nn.Module):
    """A block of a language model: 4 heads of 2, `shared` of them to a key and value, positions by
    rotation, and a gated MLP. `cut` halves a head."""

    def __init__(self, shared, cut):
        super().__init__()
        self.shared, self.cut, heads = shared, cut, 4 // shared
        self.query, self.key = nn.Linear(8, 8, bias=False), nn.Linear(8, 2 * heads, bias=False)
        self.value, self.mix = nn.Linear(8, 2 * heads, bias=False), nn.Linear(8, 8, bias=False)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 3)

    def rotate(self, x):
        angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
        one, two = self.cut(x)
        return x * angles.cos() + torch.cat((-two, one), -1) * angles.sin()

    def repeat(self, x):
        batch, heads, length, size = x.shape
        x = x[:, :, None].expand(batch, heads, self.shared, length, size)
        return x.reshape(batch, heads * self.shared, length, size)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, 2).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        q, k, v = self.rotate(q), self.repeat(self.rotate(k)), self.repeat(v)
        y = (q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).reshape(batch, length, -1)
        x = x + self.mix(y)
        return self.out(x + self.down(F.silu(self.gate(x)) * self.up(x)))


@pytest.mark.parametrize("cut", [halves, chunks])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_shared_heads_and_rotary_positions(shared, cut):
    torch.manual_seed(0)
    net = Rotary(shared, cut).double()
    sets = leco.coupled(net, TOKENS)
    assert {name: s.params for name, s in sets.items()} == {
        "gate": ("gate.weight", "gate.bias", "up.weight", "up.bias")
    }
    reasons = uncoupled(net, TOKENS)
    assert set(reasons) == {"query", "key", "value", "mix", "down", "out"}
    assert reasons["out"] == "makes the net's outputs"
    with torch.no_grad():
        for name in sets["gate"].params:
            net.get_parameter(name)[:5].zero_()
    small = leco.narrow(net, TOKENS)
    assert (small.down.in_features, small.query.out_features) == (7, 8)
    assert torch.allclose(small(TOKENS), net(TOKENS), rtol=0, atol=1e-10)


def middle(layer, width):
    return nn.Sequential(
        nn.Conv2d(4, 8, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(width, 6, 1), nn.Conv2d(6, 2, 1)
    ).double()


@pytest.mark.parametrize(
    ("layer", "width"), [(nn.Conv2d(8, 8, 3, groups=2), 8), (nn.Conv2d(8, 16, 3, groups=8), 16)]
)
def test_convolutions_in_groups_are_left(layer, width):
    net = middle(layer, width)
    with torch.no_grad():  # zeros in one group
        for p in (net[0].weight, net[0].bias, net[2].weight, net[2].bias):
            p[:3].zero_()
        net[4].weight[:2].zero_()
        net[4].bias[:2].zero_()
    assert list(leco.coupled(net, IMAGE)) == ["4"]
    reasons = uncoupled(net, IMAGE)
    assert f"meet 2, a convolution in {layer.groups} groups" in reasons["0"]
    assert f"meet 2, a convolution in {layer.groups} groups" in reasons["2"]
    small = leco.narrow(net, IMAGE)
    assert (small[0].out_channels, small[2].out_channels, small[4].out_channels) == (8, width, 4)
    assert torch.allclose(small(IMAGE), net(IMAGE), rtol=0, atol=1e-10)


def test_the_reasons_are_those_of_each_layer():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (
                nn.Conv2d(4, 8, 1),
                nn.Conv2d(8, 8, 1),
                nn.Conv2d(2, 8, 1),
            )
            self.norm, self.unused = nn.GroupNorm(2, 8), nn.Linear(2, 2)
            self.flat, self.out = nn.Linear(8, 9), nn.Linear(9, 2)

        def forward(self, x):
            x = F.pixel_shuffle(self.second(self.first(x).sigmoid()), 2)
            return self.out(F.relu(self.flat(self.norm(self.third(x)).mean((2, 3)))))

    net = Mixed().double()
    assert list(leco.coupled(net, IMAGE)) == ["flat"]
    reasons = uncoupled(net, IMAGE)
    assert reasons["first"] == "a function with f(0) not 0 stands between it and second"
    assert reasons["third"] == "norm, a GroupNorm, averages over its channels"
    assert reasons["unused"].startswith("its channels are not followed")
    assert "third" in reasons["second"]  # where the pixel shuffle makes 2 channels of 8
    assert reasons["out"] == "makes the net's outputs"


def test_a_function_that_is_not_0_at_0_shows_far_from_the_outputs():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6), nn.Sigmoid()]
    for _ in range(30):  # each makes a difference smaller
        layers += [nn.Linear(6, 6), nn.Tanh()]
    net = nn.Sequential(*layers, nn.Linear(6, 2)).double()
    with torch.no_grad():
        for p in net.parameters():
            p *= 0.1
    x = torch.randn(3, 6, dtype=torch.float64)
    assert "0" not in leco.coupled(net, x)
    assert len(leco.coupled(net, x)) == 30


@pytest.mark.parametrize("wrong", [0, 1])
def test_the_number_of_passes_does_not_grow_with_the_net(wrong):
    def passes(length):
        layers = [
            m
            for i in range(length)
            for m in (nn.Linear(5, 5), nn.Sigmoid() if i < wrong else nn.ReLU())
        ]
        net, calls = nn.Sequential(*layers, nn.Linear(5, 2)).double(), []
        net.register_forward_hook(lambda *_: calls.append(1))
        assert len(leco.coupled(net, torch.randn(3, 5, dtype=torch.float64))) == length - wrong
        return len(calls)

    assert passes(40) == passes(10)

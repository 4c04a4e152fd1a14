"""Coupled channels, and narrow nets with the outputs of the masked ones, to float64 rounding."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import leco

pytest.importorskip("torch_pruning")


class Residual(nn.Module):
    """Two producers on one sum, batch norms, a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.back, self.back_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.last, self.flat_norm, self.out = (
            nn.Conv2d(8, 5, 1),
            nn.BatchNorm1d(20),
            nn.Linear(20, 4),
        )

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.back_norm(self.back(F.relu(self.inner_norm(self.inner(x))))))
        return self.out(F.relu(self.flat_norm(F.adaptive_avg_pool2d(self.last(x), 2).flatten(1))))


class Concatenated(nn.Module):
    """Branches of unequal widths; a second concatenation, through a norm, that no set can hold."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.join = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(10, 8, 1),
        )
        self.up, self.down, self.norm = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 5, 1), nn.BatchNorm2d(8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = F.relu(self.join(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)))
        return self.out(self.norm(torch.cat([self.up(x), self.down(x)], 1))).mean((2, 3))


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.depth, self.depth_norm = (
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
        )
        self.point, self.transposed, self.out = (
            nn.Conv2d(6, 7, 1),
            nn.ConvTranspose2d(7, 5, 2),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        x = F.relu6(self.depth_norm(self.depth(F.relu6(self.norm(self.first(x))))))
        return self.out(F.silu(self.transposed(F.hardswish(self.point(x)))).mean((2, 3)))


class Block(nn.Module):
    """Attention with heads of 4, and an MLP, both on a residual stream behind layer norms. Queries,
    keys and values apart or in one layer."""

    def __init__(self, fused=False):
        super().__init__()
        self.fused = fused
        self.embed, self.norm1, self.norm2 = nn.Linear(5, 12), nn.LayerNorm(12), nn.LayerNorm(12)
        if fused:
            self.qkv = nn.Linear(12, 36)
        else:
            self.query, self.key, self.value = (
                nn.Linear(12, 12),
                nn.Linear(12, 12),
                nn.Linear(12, 12),
            )
        self.mix, self.up, self.down, self.out = (
            nn.Linear(12, 12),
            nn.Linear(12, 16),
            nn.Linear(16, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x):
        x = self.embed(x)
        h = self.norm1(x)
        parts = (
            self.qkv(h).chunk(3, -1) if self.fused else (self.query(h), self.key(h), self.value(h))
        )
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in parts)
        x = x + self.mix((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).flatten(-2))
        return self.out(x + self.down(F.gelu(self.up(self.norm2(x)))))


IMAGE, TOKENS = (
    torch.randn(2, 3, 8, 8, dtype=torch.float64),
    torch.randn(2, 6, 5, dtype=torch.float64),
)
HALF = leco.GroupTopK(0.5)


def made(kind, *options):
    """A float64 net with random statistics, in evaluation mode."""
    torch.manual_seed(0)
    net = kind(*options).double().eval()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net


def masked(net, inputs, heads=None, compression=HALF):
    """The net at its direct compression, every set of channels by itself, and the sets."""
    sets = leco.coupled(net, inputs, heads)
    lc = leco.LC(net, {name: leco.Task(s.params, s.view, compression) for name, s in sets.items()})
    lc.mu = 1.0
    lc.project_()
    return sets


CASES = {
    "residual": (Residual, (), IMAGE, None, {"stem": 8, "inner": 6, "last": 5}),
    "concatenated": (Concatenated, (), IMAGE, None, {"left": 4, "right": 6, "join": 8}),
    "separable": (Separable, (), IMAGE, None, {"first": 6, "point": 7, "transposed": 5}),
    "block": (Block, (), TOKENS, {"query": 3}, {"query": 3, "up": 16}),
    "block, heads by another layer": (Block, (), TOKENS, {"value": 3}, {"query": 3, "up": 16}),
    "block, fused": (Block, (True,), TOKENS, {"qkv": 3}, {"qkv": 3, "up": 16}),
    "block without heads": (Block, (), TOKENS, None, {"up": 16}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_narrow_net_has_the_outputs_of_the_masked_one(case):
    kind, options, inputs, heads, groups = CASES[case]
    net = made(kind, *options)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    sets = leco.coupled(net, inputs, heads)
    assert {name: s.view.groups for name, s in sets.items()} == groups
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    names = [name for s in sets.values() for name in s.params]
    assert len(names) == len(set(names))
    masked(net, inputs, heads)
    small = leco.narrow(net, inputs, heads)
    fresh = torch.randn(3, *inputs.shape[1:], dtype=torch.float64)
    assert torch.allclose(small(fresh), net(fresh), rtol=0, atol=1e-10)
    saved = sum(s.parameters * (s.view.groups - round(s.view.groups / 2)) for s in sets.values())
    # an entry between two sets is saved once
    assert size(net) - saved <= size(small) < size(net) - 0.6 * saved
    assert [type(module) for module in small.modules()] == [
        type(module) for module in net.modules()
    ]
    for name, s in sets.items():
        p = small.get_parameter(s.params[0])
        dim, full = s.view.dims[0], net.get_parameter(s.params[0])
        assert p.shape[dim] == full.shape[dim] * round(s.view.groups / 2) // s.view.groups, name


def size(net):
    return sum(p.numel() for p in net.parameters())


def test_sets_hold_what_makes_the_channels():
    sets = leco.coupled(made(Residual), IMAGE)
    assert sets["stem"].params == (
        "stem.weight",
        *(f"{n}.{p}" for n in ("norm", "back", "back_norm") for p in ("weight", "bias")),
    )
    assert sets["last"].params == ("last.weight", "last.bias", "flat_norm.weight", "flat_norm.bias")
    assert sets["last"].view == leco.Channels(5, (0, 0, 0, 0))
    assert leco.coupled(made(Separable), IMAGE)["transposed"].view.dims == (1, 0)
    assert leco.coupled(made(Block, True), TOKENS, {"qkv": 3})["qkv"].view == leco.Channels(
        3, (0, 0), (3, 3)
    )


def test_savings_are_those_of_a_net_with_one_channel_less():
    net = made(Residual)
    sets = leco.coupled(net, IMAGE)
    for name, s in sets.items():
        less = made(Residual)
        with torch.no_grad():
            for p, dim in zip(s.params, s.view.dims, strict=True):
                run = less.get_parameter(p).shape[dim] // s.view.groups
                less.get_parameter(p).narrow(dim, run, run).zero_()
        small = leco.narrow(less, IMAGE)
        assert size(net) - size(small) == s.parameters, name
        counts = [sum(leco.multiply_adds(m, IMAGE).values()) for m in (net, small)]
        assert counts[0] - counts[1] == s.multiply_adds, name


def test_state_is_kept_and_the_narrow_net_trains():
    net = made(Residual).float().train()
    net.norm.eval()
    net.out.bias.requires_grad_(False)
    masked(net, IMAGE.float())
    small = leco.narrow(net, IMAGE.float())
    assert {n: m.training for n, m in small.named_modules()} == {
        n: m.training for n, m in net.named_modules()
    }
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in net.named_parameters()
    }
    assert all(p.dtype == torch.float32 and p.grad is None for p in small.parameters())
    small(IMAGE.float()).sum().backward()
    assert small.stem.weight.grad.shape == small.stem.weight.shape == (4, 3, 3, 3)


def test_a_narrow_net_goes_through_a_file(tmp_path):
    net = made(Residual)
    sets = leco.coupled(net, IMAGE)
    lc = leco.LC(net, {name: leco.Task(s.params, s.view, HALF) for name, s in sets.items()})
    lc.mu = 1.0
    leco.save(tmp_path / "net.safetensors", lc)
    lc.project_()
    small = leco.narrow(leco.load(tmp_path / "net.safetensors", made(Residual)), IMAGE)
    assert torch.allclose(small(IMAGE), net(IMAGE), atol=1e-10)
    torch.save(small, tmp_path / "small.pt")
    assert torch.equal(torch.load(tmp_path / "small.pt", weights_only=False)(IMAGE), small(IMAGE))


def test_a_bias_or_a_norm_that_is_not_0_keeps_its_channel():
    net = made(Residual)
    with torch.no_grad():
        net.inner.weight[:3].zero_()
        net.inner.bias[:3].zero_()
        net.inner_norm.weight[:3].zero_()
        net.inner_norm.bias[:2].zero_()
    assert leco.narrow(net, IMAGE).inner.out_channels == 4


def test_a_layer_keeps_its_first_channel_or_head():
    net = made(Residual)
    masked(net, IMAGE, compression=leco.GroupTopK(0))
    small = leco.narrow(net, IMAGE)
    assert (small.stem.out_channels, small.inner.out_channels, small.out.in_features) == (1, 1, 4)
    net = made(Block)
    masked(net, TOKENS, {"query": 3}, leco.GroupTopK(0))
    small = leco.narrow(net, TOKENS, {"query": 3})
    assert (small.query.out_features, small.mix.in_features) == (4, 4)
    assert torch.allclose(small(TOKENS), net(TOKENS), atol=1e-10)


def test_part_of_a_head_stays():
    net = made(Block)
    with torch.no_grad():
        for layer in (net.query, net.key, net.value):
            layer.weight[:6].zero_()
            layer.bias[:6].zero_()
    small = leco.narrow(net, TOKENS, {"query": 3})
    assert small.query.out_features == 8
    assert torch.allclose(small(TOKENS), net(TOKENS), atol=1e-10)
    with pytest.raises(ValueError, match=r"without the channels of \['query'\] that are 0"):
        leco.narrow(net, TOKENS)


def test_a_function_that_is_not_0_at_0_is_named():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)
    ).double()
    assert set(leco.coupled(net, TOKENS)) == {"2"}
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[:2].zero_()
            layer.bias[:2].zero_()
    with pytest.raises(
        ValueError, match=r"without the channels of \['0'\] that are 0, the outputs differ"
    ):
        leco.narrow(net, TOKENS)
    small = leco.narrow(net, TOKENS, keep=["0"])
    assert (small[0].out_features, small[2].out_features) == (6, 6)
    assert torch.allclose(small(TOKENS), net(TOKENS), atol=1e-10)


def test_channels_that_a_layer_norm_averages_over_are_named():
    net = made(Block)
    with torch.no_grad():
        for layer in (net.embed, net.mix, net.down, net.norm1, net.norm2):
            layer.weight[:2].zero_()
            layer.bias[:2].zero_()
    with pytest.raises(ValueError, match=r"without the channels of \['embed'\]"):
        leco.narrow(net, TOKENS)


def test_outputs_stay():
    net = made(Residual)
    with torch.no_grad():
        net.out.weight[:2].zero_()
        net.out.bias[:2].zero_()
    assert leco.narrow(net, IMAGE).out.out_features == 4


def test_a_norm_over_concatenated_channels_is_not_offered_but_zeros_go():
    net = made(Concatenated)
    with torch.no_grad():
        net.up.weight[1:].zero_()
        net.up.bias[1:].zero_()
        net.norm.weight[1:3].zero_()
        net.norm.bias[1:3].zero_()
    small = leco.narrow(net, IMAGE)
    assert (small.up.out_channels, small.down.out_channels, small.norm.num_features) == (1, 5, 6)


def test_several_inputs_and_a_parameter_of_the_model_itself():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.gain = (
                nn.Linear(5, 6),
                nn.Linear(4, 6),
                nn.Linear(6, 2),
                nn.Parameter(torch.ones(6)),
            )

        def forward(self, x, y):
            return self.c(self.gain * F.relu(self.a(x) + self.b(y)))

    net, inputs = made(Scaled), (TOKENS, TOKENS[..., :4])
    (only,) = leco.coupled(net, inputs).values()
    assert only.params == ("gain", "a.weight", "a.bias", "b.weight", "b.bias")
    masked(net, inputs)
    small = leco.narrow(net, inputs)
    assert small.gain.shape == (3,)
    assert torch.allclose(small(*inputs), net(*inputs), atol=1e-10)


def test_zeros_of_the_initialization_do_not_mislead():
    net = nn.Sequential(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 3)).double()
    nn.init.zeros_(net[2].weight)  # the outputs do not depend on the hidden units, now
    assert leco.coupled(net, TOKENS) == {}


def test_slopes_are_not_part_of_a_channel():
    net = made(
        lambda: nn.Sequential(
            nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 4), nn.PReLU(), nn.Linear(4, 3)
        )
    )
    inputs = TOKENS[0]
    sets = masked(net, inputs)
    assert [s.params for s in sets.values()] == [("0.weight", "0.bias"), ("2.weight", "2.bias")]
    small = leco.narrow(net, inputs)
    assert (small[0].out_features, small[1].weight.shape, small[3].weight.shape) == (3, (3,), (1,))
    assert torch.allclose(small(inputs), net(inputs), atol=1e-10)


class Torchs(nn.Module):
    """Layers of torch that have parameters of other names."""

    def __init__(self, kind):
        super().__init__()
        self.embed, self.out = (
            nn.Linear(5, 12),
            nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)),
        )
        self.inner = (
            nn.LSTM(12, 12, batch_first=True)
            if kind == "lstm"
            else nn.MultiheadAttention(12, 3, batch_first=True)
        )

    def forward(self, x):
        x = self.embed(x)
        return self.out(
            self.inner(x)[0]
            if isinstance(self.inner, nn.LSTM)
            else self.inner(x, x, x, need_weights=False)[0]
        )


@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_layers_that_no_rule_covers_stay_as_they_are(kind):
    net = made(Torchs, kind)
    sets = masked(net, TOKENS)
    assert list(sets) == ["out.0"]
    with torch.no_grad():
        for p in (
            net.embed.weight,
            net.embed.bias,
            *(p for p in net.inner.parameters(recurse=False)),
        ):
            p[:1].zero_()
    small = leco.narrow(net, TOKENS)
    assert (small.embed.out_features, small.out[0].out_features) == (12, 4)
    assert torch.allclose(small(TOKENS), net(TOKENS), atol=1e-10)


def test_names_that_do_not_exist_are_said():
    net = made(Block)
    with pytest.raises(ValueError, match=r"heads names \['q'\].*\['embed', 'query', 'up'\]"):
        leco.coupled(net, TOKENS, {"q": 3})
    with pytest.raises(
        ValueError, match="5 for 'query' must be at least 1 and divide its width, 12"
    ):
        leco.coupled(net, TOKENS, {"query": 5})
    with pytest.raises(ValueError, match=r"heads names \['q'\]"):
        leco.narrow(net, TOKENS, {"q": 3})
    with pytest.raises(ValueError, match=r"keep names \['fc'\]"):
        leco.narrow(net, TOKENS, keep=["fc"])


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r"pip install leco\[structured\]"):
        leco.narrow(nn.Linear(2, 2), torch.zeros(1, 2))

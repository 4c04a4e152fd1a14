"""What a layer had is kept where another one stands in its place; what stays dense is said."""

import copy
import warnings

import pytest
import torch
from conv1d import Tiny
from torch import nn
from torch.nn.utils import parametrizations, prune

import leco
from leco.layers.factorize import FactoredConv1D, unfactored
from leco.layers.packed import unpacked
from leco.layers.packed_layers import PackedConv1D

MAKERS = {
    "factorize": (leco.factorize, leco.Matrix(), leco.LowRank(2)),
    "pack": (leco.pack, leco.Rows(), leco.Binary()),
}


class Watched(nn.Module):
    """A net whose layers have hooks and attributes, some of which refer to the net."""

    def __init__(self):
        super().__init__()
        self.layer, self.conv = nn.Linear(8, 6), nn.Conv1d(1, 4, 3)
        self.seen = []
        for layer in (self.layer, self.conv):
            layer.register_forward_pre_hook(self.look)
            layer.register_forward_hook(lambda m, args, y: 2 * y)
            layer.register_forward_hook(lambda m, args, options, y: y + 1, with_kwargs=True)
            layer.register_full_backward_hook(lambda m, inputs, outputs: (3 * inputs[0],))
            layer.register_buffer("steps", torch.ones(2))
            layer.owner, layer.note = [self], {"name": "x"}

    def look(self, module, args):
        self.seen.append(args[0].shape)

    def forward(self, x):
        return self.conv(self.layer(x).unsqueeze(1))


@pytest.mark.parametrize("maker", MAKERS)
def test_hooks_buffers_and_attributes_are_kept(maker):
    make, view, compression = MAKERS[maker]
    model = Watched().double()
    lc = leco.LC(model, leco.each(["layer.weight", "conv.weight"], view, compression))
    lc.mu = 1.0
    net = make(model, lc)
    assert type(net.layer) is not nn.Linear
    assert type(net.conv) is not nn.Conv1d

    x = torch.randn(3, 8, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    with lc.compressed():
        expected = model(inputs[0])
        expected.sum().backward()
    assert model.seen
    model.seen.clear()
    found = net(inputs[1])
    found.sum().backward()
    assert torch.allclose(found, expected)
    assert torch.allclose(inputs[1].grad, inputs[0].grad)
    assert (len(net.seen), model.seen) == (2, [])  # the copy's hooks know the copy
    for layer, own in ((net.layer, model.layer), (net.conv, model.conv)):
        assert layer.owner[0] is net
        assert (layer.note, layer.note is own.note) == ({"name": "x"}, False)
        assert torch.equal(layer.steps, own.steps)
        assert layer.steps is not own.steps
        assert "steps" in dict(layer.named_buffers())
    copy.deepcopy(net)(x)


def test_what_a_sequence_would_lose_stays():
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 5))
    net[0].register_state_dict_post_hook(lambda *args: None)
    net[1].extra = nn.ReLU()
    lc = leco.LC(net, leco.each(["0.weight", "1.weight", "2.weight"], leco.Rows(), leco.LowRank(2)))
    lc.mu = 1.0
    made = leco.factorize(net, lc)
    assert [type(m) is nn.Linear for m in made] == [True, True, False]
    assert torch.equal(made[1].weight, lc.delta["1.weight"])
    reasons = unfactored(net, lc)
    assert set(reasons) == {"0.weight", "1.weight"}
    assert "with hooks of its state_dict" in reasons["0.weight"]
    assert reasons["1.weight"] == "is of a layer that holds other modules: extra"


def test_what_stays_dense_is_said():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
            self.tied, self.embed, self.e = nn.Linear(6, 6), nn.Embedding(9, 6), nn.Linear(6, 6)
            self.tied.weight, self.f = self.a.weight, nn.Linear(6, 6)

    net = Several()
    rank = leco.LowRank(2)
    tasks = {
        "tied": leco.Task("a.weight", leco.Matrix(), rank),
        "both": leco.Task(["b.weight", "c.weight"], leco.Matrix(), rank),
        "zero": leco.Task("d.weight", leco.Matrix(), leco.LowRank(0)),
        "embed": leco.Task("embed.weight", leco.Matrix(), rank),
        "view": leco.Task("e.weight", leco.Reshape((4, 9)), rank),
        "signs": leco.Task("f.weight", leco.Rows(), leco.Binary()),
    }
    lc = leco.LC(net, tasks)
    lc.mu = 1.0
    assert unfactored(net, lc) == {
        "a.weight": "is shared by 2 layers",
        "b.weight": "stands in one Factors with other parameters",
        "c.weight": "stands in one Factors with other parameters",
        "d.weight": "has rank 0",
        "embed.weight": "is the weight of a Embedding",
        "e.weight": "is a Factors seen through Reshape(sizes=(4, 9)), "
        "which no sequence of a Linear computes",
        "f.weight": "is a Scaled, which is no product of factors",
    }


TRANSPOSED = [
    leco.Matrix(),
    leco.Kernel(),
    leco.Matrix((1,)),
    leco.Rows(1),
    leco.Kernel((1, 0)),
]


@pytest.mark.parametrize("view", TRANSPOSED, ids=str)
def test_transposed_layers_become_linear_ones(view):
    net, x = Tiny().double(), torch.arange(12).view(3, 4)
    lc = leco.LC(net, leco.each(["up.weight", "down.weight"], view, leco.LowRank(3)))
    lc.mu = 1.0
    small = leco.factorize(net, lc)
    assert unfactored(net, lc) == {}
    assert isinstance(small.up, FactoredConv1D)
    assert [tuple(layer.weight.shape) for layer in small.up] == [(3, 16), (32, 3)]
    assert torch.allclose(small.up.weight, lc.delta["up.weight"])
    assert (small.up.nf, small.up.nx) == (32, 16)
    with lc.compressed():
        assert torch.allclose(small(x), net(x), rtol=0, atol=1e-12)


def test_other_forms_of_transposed_layers_stay_dense():
    net = Tiny().double()
    lc = leco.LC(net, leco.each(["up.weight"], leco.Kernel(), leco.CP(3)))
    lc.mu = 1.0
    assert "no sequence of a Conv1D" in unfactored(net, lc)["up.weight"]
    assert torch.equal(leco.factorize(net, lc).up.weight, lc.delta["up.weight"])


@pytest.mark.parametrize("cache", ["none", "keep"])
@pytest.mark.parametrize("view", [leco.Vector(), leco.Rows(1)], ids=str)
def test_transposed_layers_are_packed(view, cache):
    net, x = Tiny().double().eval(), torch.arange(12).view(3, 4)
    lc = leco.LC(net, leco.each(["up.weight", "down.weight"], view, leco.Ternary()))
    lc.mu = 1.0
    packed = leco.pack(net, lc, cache=cache)
    assert unpacked(net, lc) == {}
    assert isinstance(packed.up, PackedConv1D)
    assert torch.equal(packed.up.weight, lc.delta["up.weight"])
    with lc.compressed():
        assert torch.equal(packed(x), net(x))
    assert "PackedConv1D(" in repr(packed.up)
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer)


COMPUTED = {
    "weight norm": (old_weight_norm, r"remove_weight_norm\(module, 'weight'\)"),
    "spectral norm": (nn.utils.spectral_norm, r"remove_spectral_norm\(module, 'weight'\)"),
    "pruned": (lambda m: prune.random_unstructured(m, "weight", 0.5), r"prune.remove\(module, 'w"),
}


@pytest.mark.parametrize("change", COMPUTED)
@pytest.mark.parametrize(
    "verb", ["factorize", "pack", "narrow", "coupled", "torchao", "compressed_tensors", "onnx"]
)
def test_a_computed_weight_is_named_with_its_cure(verb, change, tmp_path):
    compute, cure = COMPUTED[change]
    net, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(2, 6)
    lc = leco.LC(net, leco.each(["2.weight"], leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    compute(net[0])
    net(x)
    verbs = {
        "factorize": lambda: leco.factorize(net, lc),
        "pack": lambda: leco.pack(net, lc),
        "narrow": lambda: leco.narrow(net, x),
        "coupled": lambda: leco.coupled(net, x),
        "torchao": lambda: leco.export_torchao(net, lc),
        "compressed_tensors": lambda: leco.export_compressed_tensors(tmp_path / "out", net, lc),
        "onnx": lambda: leco.export_onnx(tmp_path / "net.onnx", net, lc, x),
    }
    with pytest.raises(ValueError, match=rf"{verb}: '0.weight' is computed by .*{cure}"):
        verbs[verb]()
    assert not list(tmp_path.iterdir())


def test_a_parametrized_weight_is_copied():
    net, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(2, 6)
    parametrizations.weight_norm(net[0])
    lc = leco.LC(net, leco.each(["2.weight"], leco.Matrix(), leco.LowRank(1)))
    lc.mu = 1.0
    with lc.compressed():
        assert torch.allclose(leco.factorize(net, lc)(x), net(x), atol=1e-6)


def test_hooks_of_the_copy_are_its_own():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU()))
    lc = leco.LC(model, leco.each(["0.weight"], leco.Vector(), leco.Binary()))
    lc.mu = 1.0
    for module in leco.pack(model, lc).modules():
        module.register_forward_hook(lambda *_: None)
    assert not any(module._forward_hooks for module in model.modules())

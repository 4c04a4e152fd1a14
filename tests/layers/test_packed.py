"""Packed layers compute what the dense layer computes at Delta(Theta), from memory of the size of
Theta."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import leco
from leco.layers.factorize import FactoredLinear
from leco.layers.integers import Integers
from leco.layers.packed import PackedEmbedding, PackedLinear, unpacked

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
    "shifted grid": leco.Uniform(5, zero_point=True),
    "sparse": leco.TopK(30),
    "half": leco.TopK(0.3),
    "coded": leco.EntropyCodebook(1e-2, 16),
    "sparse, quantized": leco.Compose(leco.TopK(80), leco.Codebook(4)),
    "ball": leco.L1Ball(0.5),
    "sum": leco.Additive(
        (leco.Part(leco.Vector(), leco.Codebook(2)), leco.Part(leco.Vector(), leco.TopK(20)))
    ),
}
# all that decodes in ways of its own
GRAPHS = (
    "1 bit",
    "17 values",
    "signs",
    "shifted grid",
    "sparse",
    "half",
    "sparse, quantized",
    "sum",
)
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
    if form in GRAPHS:
        torch._dynamo.reset()
        assert torch.equal(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected)
        assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)


@pytest.mark.parametrize(
    "view",
    [leco.Rows(), leco.Rows(1), leco.Groups(32), leco.Tiles(4, 8), leco.Kernel((1, 0))],
    ids=str,
)
@pytest.mark.parametrize("form", ROWS)
def test_batches_and_orders(form, view):
    torch.manual_seed(0)
    packed_like(
        compressed(
            nn.Linear(64, 32).double(),
            view,
            FORMS[form] if form not in ("sparse",) else leco.TopK(4),
        )
    )


@pytest.mark.parametrize("form", FORMS)
def test_several_parameters(form):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(60, 20, bias=False)
    ).double()
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


def joint(*parts: leco.Part) -> leco.Additive:
    return leco.Additive(parts)


LINEAR = {
    "codewords": (leco.Groups(4), leco.VectorCodebook(7), "VectorCodes"),
    "product": (leco.Subvectors(4), leco.VectorCodebook(5), "VectorCodes"),
    "2 of 4": (leco.Groups(4), leco.NM(2, 4), "NMSparse"),
    "2 of 4, by rows": (leco.Rows(), leco.NM(2, 4), "NMSparse"),
    "columns": (leco.Rows(1), leco.GroupTopK(8), "GroupSparse"),
    "tiles": (leco.Tiles(4, 4), leco.GroupTopK(4), "GroupSparse"),
    "hashed": (leco.Vector(), leco.Hashed(50), "HashedValues"),
    "low rank + sparse": (
        leco.Kernel(),
        joint(leco.Part(leco.Matrix(), leco.LowRank(2)), leco.Part(leco.Vector(), leco.TopK(20))),
        "Sum",
    ),
    "low rank, transposed": (leco.Matrix((1,)), leco.LowRank(2), "Factors"),
    "quantized factors": (
        leco.Matrix((1,)),
        leco.Compose(leco.LowRank(4), leco.Uniform(8)),
        "Factors",
    ),
    "two codebooks": (
        leco.Vector(),
        joint(
            leco.Part(leco.Vector(), leco.Codebook(2)), leco.Part(leco.Groups(32), leco.Codebook(2))
        ),
        "Sum",
    ),
}


@pytest.mark.parametrize("form", LINEAR)
def test_other_forms(form):
    view, compression, name = LINEAR[form]
    torch.manual_seed(0)
    lc = compressed(nn.Linear(32, 40).double(), view, compression)
    net, x = packed_like(lc), torch.randn(3, 32, dtype=torch.float64)
    assert name in repr(net)
    expected = net(x)
    other = leco.pack(lc.model, lc)
    other.load_state_dict({key: torch.zeros_like(value) for key, value in net.state_dict().items()})
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)


@pytest.mark.parametrize(
    "form", ["codewords", "2 of 4", "2 of 4, by rows", "tiles", "two codebooks"]
)
def test_other_forms_of_several_parameters(form):
    view, compression, _ = LINEAR[form]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 40), nn.Linear(32, 36)).double()
    packed_like(
        compressed(model, view, compression, ("0.weight", "1.weight")), ("0.weight", "1.weight")
    )


@pytest.mark.parametrize("view", [leco.Rows(), leco.Groups(8)], ids=str)
@pytest.mark.parametrize("form", ["1 bit", "signs", "grid", "sparse"])
def test_rows_of_several_parameters(form, view):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 20), nn.Linear(64, 12)).double()
    compression = leco.TopK(2) if form == "sparse" else FORMS[form]
    packed_like(
        compressed(model, view, compression, ("0.weight", "1.weight")), ("0.weight", "1.weight")
    )


def test_blocks_of_several_kinds():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Linear(32, 20),
        nn.Linear(32, 20),
        nn.Linear(20, 20),
        nn.Linear(20, 20),
    ).double()
    names = [f"{i}.weight" for i in range(5)]
    parts = (
        leco.Part(leco.Vector(), leco.Codebook(2), (0, 1)),
        leco.Part(leco.Rows(), leco.Codebook(2), (2, 1)),
        leco.Part(leco.Vector(), leco.TopK(9), (1,)),
        leco.Part(leco.Matrix(), leco.LowRank(2), (3,)),
        leco.Part(leco.Vector(), leco.Binary(), (4,)),
    )
    lc = compressed(model, leco.Blocks(), leco.Additive(parts), names)
    task = leco.algorithm.compressed.compressed_tasks(lc)["all"]
    first, *others, _ = task.theta.terms
    # as a budget may have them
    task = task._replace(theta=task.theta._replace(terms=(first._replace(weight=2.0), *others)))
    assert unpacked(model, {"all": task}) == {"4.weight": "is in no term of the sum"}
    net = leco.pack(model, {"all": task})
    assert all(torch.equal(net[i].weight, delta) for i, delta in enumerate(task.deltas().values()))
    assert not torch.equal(net[0].weight, lc.delta["0.weight"])
    assert type(net[4]) is nn.Linear


class Words(nn.Module):
    """Tied weights, layers that no packed kind has, a bias in a task."""

    def __init__(self, kind=nn.Embedding, **options):
        super().__init__()
        self.words = kind(50, 16, **options)
        self.body = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.low = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 50)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.norm(self.low(self.body(self.words(x)))))


def words(compression=None, dtype=torch.float64) -> leco.LC:
    torch.manual_seed(0)
    model = Words().to(dtype).eval()
    tasks = {
        "words": leco.Task("words.weight", leco.Rows(), compression or leco.Uniform(4)),
        "body": leco.Task(
            ["body.linear1.weight", "body.linear2.weight", "body.self_attn.in_proj_weight"],
            leco.Vector(),
            leco.Ternary(),
        ),
        "bias": leco.Task(["head.bias", "body.norm1.weight"], leco.Vector(), leco.Codebook(4)),
        "low": leco.Task("low.weight", leco.Matrix(), leco.LowRank(2)),
    }
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return lc


@pytest.mark.parametrize(
    "compression",
    [None, leco.Codebook(2), leco.Ternary(), leco.TopK(2), leco.Binary(scale=False)],
    ids=str,
)
def test_a_net(compression):
    lc, x = words(compression), torch.randint(0, 50, (3, 7))
    before = copy.deepcopy(lc.model.state_dict())
    net = leco.pack(lc.model, lc)
    assert all(torch.equal(value, before[name]) for name, value in lc.model.state_dict().items())
    assert unpacked(lc.model, lc) == {
        "head.bias": "is the bias of a Linear",
        "body.norm1.weight": "is the weight of a LayerNorm",
    }
    with lc.compressed():
        expected = lc.model(x)
    # the low-rank pair multiplies in another order
    assert torch.allclose(net(x), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # torch's fast path reads the weights of the encoder layer
        assert torch.allclose(net(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(net.words(x), lc.delta["words.weight"][x])
    assert net.words.packed is net.head.packed
    assert [type(layer) for layer in (net.words, net.head, net.low)] == [
        PackedEmbedding,
        PackedLinear,
        FactoredLinear,
    ]
    assert not any(module.training for module in net.modules())


def test_max_norm_and_other_kinds_stay_dense():
    model = Words(max_norm=1.0)
    lc = leco.LC(model, {"words": leco.Task("words.weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    assert list(unpacked(model, lc)) == ["words.weight"]
    assert torch.equal(leco.pack(model, lc).words.weight, lc.delta["words.weight"])


@pytest.mark.parametrize(
    ("view", "compression", "reason"),
    [
        (leco.Vector(), leco.L2Ball(1.0), "takes 64.0 bits a weight as Dense, no less than dense"),
        (leco.Vector(), leco.Hashed(5), "stands in one HashedValues with other parameters"),
        (leco.Matrix(), leco.LowRank(2), "stands in one Factors with other parameters"),
    ],
    ids=str,
)
def test_what_cannot_be_packed_is_dense_and_said(view, compression, reason):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(16, 8)).double()
    lc = compressed(model, view, compression, ("0.weight", "1.weight"))
    model[1].weight.requires_grad_(False)
    assert unpacked(model, lc) == {"0.weight": reason, "1.weight": reason}
    net = leco.pack(model, lc)
    assert all(torch.equal(net.get_parameter(name), delta) for name, delta in lc.delta.items())
    assert [layer.weight.requires_grad for layer in net] == [True, False]


def test_what_is_replaced_is_not_copied():
    class Refuses(nn.Parameter):
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].weight, model[1].weight = Refuses(model[0].weight.data), Refuses(model[1].weight.data)
    lc = leco.LC(
        model,
        leco.each(["0.weight"], leco.Vector(), leco.Binary())
        | leco.each(["1.weight"], leco.Matrix(), leco.LowRank(1)),
    )
    lc.mu = 1.0
    leco.pack(model, lc)


def test_memory():
    bits = {
        "1 bit": 1,
        "3 values": 2,
        "5 values": 8 / 3,
        "16 values": 4,
        "17 values": 8,
        "grid": 4,
        "signs": 1,
        "ternary": 2,
    }
    torch.manual_seed(0)
    model = nn.Linear(128, 150, bias=False)
    for form, expected in bits.items():
        net = packed_like(compressed(model, leco.Vector(), FORMS[form]))
        assert not list(net.parameters())
        codes = [buffer for buffer in net.state_dict().values() if buffer.dtype == torch.uint8]
        assert sum(codes.nbytes for codes in codes) * 8 == pytest.approx(
            expected * model.weight.numel(),
            abs=8 * 150,  # whole bytes in each row
        )
        more = 8 * 150 + 32 * 18  # and values
        assert expected <= net.packed.bits() <= expected + more / model.weight.numel()
    for density, per_weight in ((0.3, 1), (0.05, 0.4), (0.01, 0.16)):
        net = packed_like(compressed(model, leco.Vector(), leco.TopK(density)))
        assert net.packed.bits() <= 32 * density + per_weight
        net = packed_like(
            compressed(model, leco.Vector(), leco.Compose(leco.TopK(density), leco.Codebook(16)))
        )
        assert net.packed.bits() <= 4 * density + per_weight + 32 * 17 / model.weight.numel()


def test_cache():
    lc = compressed(nn.Linear(64, 64), leco.Vector(), leco.Binary())
    x = torch.randn(2, 64)
    net = leco.pack(lc.model, lc, cache="keep")
    assert net.weight is not net.weight  # in training mode
    net.eval()
    with torch.inference_mode():
        expected = net(x)
    kept = net.weight
    assert net.weight is kept
    assert not kept.is_inference()
    assert set(net.state_dict()) == {
        "bias",
        "packed.content.indices.codes",
        "packed.content.values",
        "packed.content.affine.scale",
    }
    for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same.packed._kept is None
        assert torch.equal(same(x), expected)
    state = net.state_dict()
    state["packed.content.affine.scale"] = 2 * state["packed.content.affine.scale"]
    net.load_state_dict(state)
    assert torch.equal(net.weight, 2 * kept)
    net.train()
    assert net.packed._kept is None
    assert net.eval().double().weight.dtype == torch.float64
    assert leco.pack(lc.model, lc).eval().weight is not kept
    with pytest.raises(ValueError, match="cache = 'always' must be"):
        leco.pack(lc.model, lc, cache="always")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["1 bit", "17 values", "ternary", "shifted grid", "sparse", "sum"])
def test_half_precision(form, dtype):
    torch.manual_seed(0)
    lc = compressed(nn.Linear(64, 64), leco.Vector(), FORMS[form])
    net, x = leco.pack(lc.model, lc), torch.randn(3, 64)
    expected = net(x)
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype):
            assert net(x).dtype == dtype
            assert torch.equal(net(x), nn.functional.linear(x, lc.delta["weight"], lc.model.bias))
    net.to(dtype)
    assert net.weight.dtype == dtype
    assert any(buffer.dtype in (torch.uint8, torch.int8) for buffer in net.buffers())
    assert torch.allclose(net(x.to(dtype)).float(), expected, atol=0.05)


def test_state_dict_goes_to_a_file_and_back():
    lc = words(dtype=torch.float32)
    net, file = leco.pack(lc.model, lc), io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = leco.pack(lc.model, lc)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(torch.load(file))
    x = torch.randint(0, 50, (3, 7))
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 16, 17, 256, 257, 65536, 65537, 2**24 + 1])
def test_integers(count):
    torch.manual_seed(0)
    for length in (1, 7, 40):
        x = torch.randint(0, count, (3, length))
        x.view(-1)[-1] = count - 1
        flat = Integers(x.view(-1), count)
        assert torch.equal(flat().long(), x.view(-1))
        if count <= 256:
            rows = Integers(x, count)
            assert torch.equal(rows().long(), x)
            assert torch.equal(rows(torch.tensor([2, 0])).long(), x[[2, 0]])
            values = torch.randn(count, 2)
            assert torch.equal(rows.lookup(values), values[x])
            assert torch.equal(rows.lookup(values, torch.tensor([1])), values[x[[1]]])
    per_byte = {1: 8, 2: 8, 3: 4, 4: 4, 5: 3, 6: 3, 7: 2, 16: 2, 17: 1, 256: 1}
    assert flat.codes.nbytes == (
        -(-120 // per_byte[count])
        if count <= 256
        else 120 * {257: 2, 65536: 2}.get(count, 3 + (count > 2**24))
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("view", [leco.Rows(), leco.Vector()], ids=str)
def test_int8_kernel(view, bias, monkeypatch):
    torch.manual_seed(0)
    lc = compressed(nn.Linear(256, 64, bias=bias), view, leco.Uniform(8))
    net = leco.pack(lc.model, lc)
    assert "int8" not in repr(net)
    assert "int8" in repr(net.to(torch.bfloat16))
    assert "int8" not in repr(leco.pack(lc.model, lc, cache="keep").to(torch.bfloat16))
    x, kernel, calls = torch.randn(2, 4, 512).bfloat16()[..., ::2], torch._weight_int8pack_mm, []
    monkeypatch.setattr(
        torch, "_weight_int8pack_mm", lambda *args: calls.append(1) or kernel(*args)
    )
    with torch.no_grad():
        found = net(x)
        net(torch.randn(17, 256).bfloat16())
        net(torch.zeros(0, 256).bfloat16())
    assert len(calls) == 1
    assert net(x.clone().requires_grad_()).requires_grad
    assert len(calls) == 1
    assert torch.allclose(found.float(), net(x).float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_a_net_of_half_precision(form):
    torch.manual_seed(0)
    model = nn.Embedding(40, 64).bfloat16()
    lc = compressed(model, leco.Vector(), FORMS[form])
    net, x = packed_like(lc), torch.tensor([3, 0, 3])
    assert torch.equal(net(x), lc.delta["weight"][x])
    if form in ("sparse", "16 values", "ball"):
        assert all(value.dtype != torch.float32 for value in net.state_dict().values())

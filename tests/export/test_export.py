"""Exports: what other runtimes compute from the file is what torch computes at w = Delta(Theta)."""

import functools
import json
import os
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

import leco
from leco.algorithm.compressed import Compressed
from leco.export.codes import Grid, at_delta, grid_of, quantized
from leco.export.decoder import Decoder
from leco.theta import Sum, Term, VectorCodes


def digits(n: int = 24) -> torch.Tensor:
    return torch.tensor(load_digits().images[:n], dtype=torch.float32).unsqueeze(1) / 16 - 0.3


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.ReLU(),
        )
        self.fc = nn.Sequential(nn.Linear(108, 48), nn.ReLU(), nn.Linear(48, 10))

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class Block(nn.Module):
    """Rows of the image as tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.norm = nn.LayerNorm(32)
        # or the sum of what it gives is 0, and hides wrong zero points
        nn.init.uniform_(self.norm.bias)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)
        self.feed = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.embed(x.squeeze(1))
        q, k, v = (
            part.unflatten(-1, (4, 8)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        x = x + self.out(
            nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return self.head((x + self.feed(x)).mean(1))


NETS = {"lenet": LeNet, "block": Block}


def mixed(net: str, tasks: dict[str, tuple]) -> leco.LC:
    """The net with a compression for each of its weights."""
    torch.manual_seed(0)
    model = NETS[net]()
    model(digits())  # running statistics
    lc = leco.LC(
        model.eval(),
        {name: leco.Task(name, view, compression) for name, (view, compression) in tasks.items()},
    )
    lc.mu = 1.0
    return lc


def expected(lc: leco.LC, x: torch.Tensor) -> torch.Tensor:
    with lc.compressed(), torch.no_grad():
        return lc.model(x)


def session(path, **entries: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    options.optimized_model_filepath = f"{path}.optimized"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path, x: torch.Tensor, **entries: str) -> torch.Tensor:
    net = session(path, **entries)
    return torch.tensor(net.run(None, {net.get_inputs()[0].name: x.numpy()})[0])


def operators(path) -> set[str]:
    """What onnxruntime runs, after what it does when a session is made."""
    return {node.op_type for node in onnx.load(f"{path}.optimized").graph.node}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().abs().max() / wanted.abs().max())


FORMS = {
    "codebook": (leco.Vector(), leco.Codebook(3), "Gather, 2 bits"),
    "one bit": (leco.Vector(), leco.Codebook(2), "Gather, 1 bits"),
    "nine values": (leco.Vector(), leco.Codebook(9), "Gather, 4 bits"),
    "many values": (
        leco.Vector(),
        leco.FixedCodebook(tuple(i / 64 for i in range(-150, 150))),
        "Gather, 16 bits",
    ),
    "codebooks of rows": (leco.Rows(), leco.Codebook(2), "GatherElements, 1 bits"),
    "codebooks of groups": (leco.Groups(36), leco.Codebook(3), "GatherElements, 2 bits"),
    "binary": (leco.Rows(), leco.Binary(), "Gather, 1 bits"),
    "ternary": (leco.Vector(), leco.Ternary(scale=False), "Gather, 2 bits"),
    "ternary, groups": (leco.Groups(9), leco.Ternary(), "Gather, 2 bits"),
    "powers of two": (leco.Rows(), leco.PowersOfTwo(2, scale=True), "Gather, 4 bits"),
    "entropy": (leco.Vector(), leco.EntropyCodebook(1e-3, 8), "Gather, 4 bits"),
    "vectors": (leco.Groups(4), leco.VectorCodebook(16), "Gather, 4 bits"),
    "uniform": (leco.Vector(), leco.Uniform(3), "Cast, Mul, 4 bits"),
    "uniform, rows": (leco.Rows(), leco.Uniform(4, zero_point=True), "Cast, Mul, 4 bits"),
    "uniform, groups": (leco.Groups(18), leco.Uniform(8), "Cast, Mul, 8 bits"),
}


def decoded(
    name: str, shape: tuple[int, ...], path, weights: str, dtype: torch.dtype = torch.float32
) -> tuple[str, torch.Tensor, torch.Tensor]:
    """What was done with a weight, what onnxruntime makes of it, and Delta(Theta)."""
    torch.manual_seed(0)
    model = nn.ParameterDict({"w": torch.randn(shape, dtype=dtype)})
    view, compression, _ = FORMS[name]
    lc = leco.LC(model, {"all": leco.Task("w", view, compression)})
    lc.mu = 100.0
    tensor = ir.tensor(np.zeros(shape, torch.zeros((), dtype=dtype).numpy().dtype))
    weight = ir.Value(
        name="w", const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
    )
    end = ir.node("Identity", [weight])
    end.outputs[0].shape, end.outputs[0].type = weight.shape, weight.type
    graph = ir.Graph(
        [], end.outputs, nodes=[end], initializers=[weight], opset_imports={"": 21}, name="weight"
    )
    found = quantized(lc)["w"]
    assert not isinstance(found, str)
    how = Decoder(ir, graph, "w", weight, shape).replace(found, weights)
    ir.save(ir.Model(graph, ir_version=10), path)
    return how, torch.tensor(session(path).run(None, {})[0]), lc.delta["w"].detach()


@pytest.mark.parametrize("shape", [(54, 36), (36, 5, 3, 3)], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_decoded_weights_are_delta(name, shape, tmp_path):
    """To the bit; and they are computed once."""
    how, weight, delta = decoded(name, shape, tmp_path / "w.onnx", "codes")
    assert how == FORMS[name][2]
    assert torch.equal(weight, delta)
    assert operators(tmp_path / "w.onnx") <= {"Identity"}
    assert os.path.getsize(tmp_path / "w.onnx") < 4 * delta.numel()


@pytest.mark.parametrize("shape", [(54, 36), (36, 5, 3, 3)], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "binary",
        "ternary",
        "powers of two",
        "uniform",
        "uniform, rows",
        "uniform, groups",
        "codebook",
    ],
)
def test_dequantized_weights_are_delta(name, shape, tmp_path):
    how, weight, delta = decoded(name, shape, tmp_path / "w.onnx", "qdq")
    # no grid; runs of 18 in rows of 45
    if name == "codebook" or (name == "uniform, groups" and len(shape) == 4):
        assert not how.startswith("DequantizeLinear")
    else:
        assert how == f"DequantizeLinear, {8 if name == 'uniform, groups' else 4} bits"
    assert torch.equal(weight, delta)


def test_runs_over_several_dimensions_are_dequantized(tmp_path):
    """Runs of 18 in rows of 36, which are kernels of 4 channels."""
    how, weight, delta = decoded("uniform, groups", (36, 4, 3, 3), tmp_path / "w.onnx", "qdq")
    assert how == "DequantizeLinear, 8 bits"
    assert torch.equal(weight, delta)


def test_an_embedding_and_a_convolution_in_blocks(tmp_path):
    torch.manual_seed(0)
    kernel = nn.Conv1d(8, 6, 4)
    net = nn.Sequential(nn.Embedding(40, 16), nn.Conv1d(9, 12, 4), nn.Unflatten(1, (2, 6)))
    net = nn.Sequential(*net, nn.Flatten(1, 2), nn.Conv1d(12, 8, 3), kernel).eval()
    tasks = leco.each(["0.weight"], leco.Groups(8), leco.Uniform(4))
    tasks |= leco.each(["1.weight"], leco.Groups(12), leco.Uniform(4, zero_point=True))
    tasks |= leco.each(["5.weight"], leco.Groups(16), leco.Uniform(8))
    lc = leco.LC(net, tasks)
    lc.mu = 1.0
    tokens, path = torch.randint(40, (3, 9)), tmp_path / "net.onnx"
    held = leco.export_onnx(path, net, lc, tokens, weights="qdq")
    assert list(held.values()) == [f"DequantizeLinear, {bits} bits" for bits in (4, 4, 8)]
    assert relative(run(path, tokens), expected(lc, tokens)) <= 1e-5
    kept = {n.op_type for n in onnx.load(path).graph.node}
    assert "DequantizeLinear" in kept


def test_codes_that_are_not_smaller_stay_dense(tmp_path):
    how, weight, _ = decoded("codebooks of rows", (6, 3), tmp_path / "w.onnx", "codes")
    assert how == "dense (codes are not smaller)"
    assert torch.equal(weight, torch.zeros(6, 3))  # what stood in the graph
    assert [tensor.name for tensor in onnx.load(tmp_path / "w.onnx").graph.initializer] == ["w"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("name", ["binary", "codebooks of rows", "uniform, rows"])
def test_decoded_weights_have_the_dtype(name, dtype, tmp_path):
    for weights in ("codes", "qdq"):
        how, weight, delta = decoded(name, (54, 36), tmp_path / "w.onnx", weights, dtype)
        assert weight.dtype == dtype
        assert torch.equal(weight, delta)
        assert weights == "qdq" or operators(tmp_path / "w.onnx") <= {"Identity"}
        assert how.startswith("Dequantize") == (
            weights == "qdq" and dtype == torch.float16 and name != "codebooks of rows"
        )


LENET = {
    "conv.0.weight": (leco.Rows(), leco.Ternary()),
    "conv.3.weight": (leco.Rows(), leco.Uniform(4, zero_point=True)),
    "fc.0.weight": (leco.Vector(), leco.Codebook(2)),
    "fc.2.weight": (leco.Rows(), leco.Binary()),
}
BLOCK = {
    "embed.weight": (leco.Vector(), leco.TopK(0.5)),
    "qkv.weight": (leco.Rows(), leco.Uniform(4, zero_point=True)),
    "out.weight": (leco.Groups(16), leco.Uniform(8)),
    "feed.0.weight": (leco.Groups(64), leco.Ternary()),  # a scale for two rows
    "feed.2.weight": (leco.Vector(), leco.Uniform(3, zero_point=True)),
    "head.weight": (leco.Vector(), leco.Codebook(4)),
}
HELD = {
    ("lenet", "codes"): ["Gather, 2 bits", "Cast, Mul, 4 bits", "Gather, 1 bits", "Gather, 1 bits"],
    ("block", "codes"): [
        "dense (Sparse)",
        "Cast, Mul, 4 bits",
        "Cast, Mul, 8 bits",
        "Gather, 2 bits",
        "Cast, Mul, 4 bits",
        "Gather, 2 bits",
    ],
    ("lenet", "qdq"): [
        "DequantizeLinear, 4 bits",
        "DequantizeLinear, 4 bits",
        "Gather, 1 bits",
        "DequantizeLinear, 4 bits",
    ],
    ("block", "nbits"): [
        "dense (Sparse)",
        *(f"MatMulNBits, {bits} bits" for bits in (4, 8, 2, 4)),
        "Gather, 2 bits",
    ],
}


@pytest.mark.parametrize(("net", "weights"), HELD)
def test_nets(net, weights, tmp_path):
    """From the LC; batches of another size than the example's; batch norm folded, and weights
    computed, once."""
    lc, path = mixed(net, LENET if net == "lenet" else BLOCK), tmp_path / "net.onnx"
    before = {name: p.clone() for name, p in lc.model.state_dict().items()}
    lc.model.train()
    held = leco.export_onnx(path, lc.model, lc, digits(2), weights=weights)
    assert lc.model.training
    lc.model.eval()
    assert list(held.values()) == HELD[net, weights]
    assert list(held) == list(lc.params)
    for n in (1, 24):
        assert relative(run(path, digits(n)), expected(lc, digits(n))) <= 1e-5
    if weights != "qdq":  # which onnxruntime does not compute beforehand
        assert operators(path).isdisjoint(
            {
                "BitShift",
                "BitwiseAnd",
                "Cast",
                "GatherElements",
                "BatchNormalization",
                "DequantizeLinear",
            }
        )
    dense = sum(4 * p.numel() for p in lc.model.parameters())
    assert os.path.getsize(path) < 0.7 * dense
    assert all(torch.equal(before[name], p) for name, p in lc.model.state_dict().items())


def test_activations_of_8_bits(tmp_path):
    """MatMulNBits at level 4, which is what onnxruntime makes of DequantizeLinear and MatMul unless
    told otherwise: docs/export.md says so."""
    torch.manual_seed(0)
    tokens = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 16)), nn.Linear(16, 96))
    lc = leco.LC(
        tokens, {"all": leco.Task("2.weight", leco.Rows(), leco.Uniform(4, zero_point=True))}
    )
    lc.mu = 1.0
    path, wanted = tmp_path / "net.onnx", expected(lc, digits())
    leco.export_onnx(path, tokens, lc, digits(2), weights="nbits", accuracy_level=4)
    assert 1e-4 < relative(run(path, digits()), wanted) < 0.02
    leco.export_onnx(path, tokens, lc, digits(2), weights="qdq")
    assert 1e-4 < relative(run(path, digits()), wanted) < 0.02
    assert relative(run(path, digits(), qdq_matmulnbits_accuracy_level="1"), wanted) <= 1e-5


def test_factored_and_shared(tmp_path, monkeypatch):
    """Factorised layers are exported as they are; a tied weight stands once in the file; large
    files have their weights beside them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)
    )
    model[5].weight = model[3].weight
    lc = leco.LC(
        model,
        {
            "rank": leco.Task("1.weight", leco.Matrix(), leco.LowRank(4)),
            "tied": leco.Task("3.weight", leco.Vector(), leco.Binary()),
        },
    )
    lc.mu = 1.0
    path = tmp_path / "net.onnx"
    rest = {
        name: c
        for name, c in leco.algorithm.compressed.compressed_tasks(lc).items()
        if name == "tied"
    }
    held = leco.export_onnx(path, leco.factorize(model, lc), rest, digits(2))
    assert held == {"3.weight": "Gather, 1 bits"}
    assert relative(run(path, digits()), expected(lc, digits())) <= 1e-5
    assert 64 * 8 + 8 * 64 * 4 < os.path.getsize(path) < 64 * 64 * 4
    monkeypatch.setattr("leco.export.onnx.LARGEST", 1000)
    held = leco.export_onnx(path, leco.factorize(model, lc), rest, digits(2), weights="dense")
    assert held == {"3.weight": "dense"}
    assert sorted(file.name for file in tmp_path.glob("net.onnx*")) == [
        "net.onnx",
        "net.onnx.data",
        "net.onnx.optimized",
    ]
    assert relative(run(path, digits()), expected(lc, digits())) <= 1e-5


def test_onnx_refusals(tmp_path, monkeypatch):
    lc, path = mixed("lenet", LENET), tmp_path / "net.onnx"
    with pytest.raises(
        ValueError, match="weights = 'int4' must be 'codes', 'qdq', 'nbits' or 'dense'"
    ):
        leco.export_onnx(path, lc.model, lc, digits(2), weights="int4")
    with pytest.raises(ValueError, match="accuracy_level = 5 must be 0, 1, 2, 3 or 4"):
        leco.export_onnx(path, lc.model, lc, digits(2), accuracy_level=5)
    with pytest.raises(
        ValueError,
        match=r"task 'conv.0.weight' compresses 'conv.0.weight', which the model has not",
    ):
        leco.export_onnx(path, lc.model.fc, lc, digits(2))
    other = LeNet()
    other.conv[0] = nn.Conv2d(1, 8, 5, padding=2)
    with pytest.raises(
        ValueError,
        match=r"'conv.0.weight' of shape \(8, 1, 3, 3\), the model one of \(8, 1, 5, 5\)",
    ):
        leco.export_onnx(path, other, lc, digits(2))
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(ImportError, match=r"leco\[export\]"):
        leco.export_onnx(path, lc.model, lc, digits(2))
    assert not list(tmp_path.iterdir())


def test_terms_that_do_not_overlap_are_exported_each():
    """Of sums, and of budgets, whose terms may be weighted."""

    def held(compression) -> dict[str, str]:
        torch.manual_seed(0)
        lc = leco.LC(
            LeNet(),
            {
                "all": leco.Task(
                    ("fc.0.weight", "fc.2.weight", "conv.3.weight"), leco.Blocks(), compression
                )
            },
        )
        lc.mu = 1.0
        found = quantized(lc)
        for name, form in found.items():
            if not isinstance(form, str):
                torch.testing.assert_close(
                    form.weights().view(lc.delta[name].shape), lc.delta[name], rtol=1e-6, atol=0
                )
        return {
            name: form if isinstance(form, str) else type(form).__name__
            for name, form in found.items()
        }

    grid, codes = (
        leco.Part(leco.Rows(), leco.Uniform(4), at=(0,)),
        leco.Part(leco.Vector(), leco.Binary(), at=(1, 2)),
    )
    assert held(leco.Additive((grid, codes))) == {
        "fc.0.weight": "Grid",
        "fc.2.weight": "Coded",
        "conv.3.weight": "Coded",
    }
    overlap = held(leco.Additive((grid, codes, leco.Part(leco.Vector(), leco.TopK(3), at=(2,)))))
    assert overlap == {"fc.0.weight": "Grid", "fc.2.weight": "Sum", "conv.3.weight": "Sum"}
    entropy = leco.Part(
        leco.Vector(), leco.EntropyCodebook(0.0, 4), at=(0, 2), unit=1 / 8, weight=3.0
    )
    budget = leco.Budget(
        (entropy, leco.Part(leco.Vector(), leco.L0Penalty(0.0), at=(1,), unit=5)), limit=1500
    )
    assert held(budget) == {
        "fc.0.weight": "Coded",
        "fc.2.weight": "Sparse",
        "conv.3.weight": "Coded",
    }


GRIDS = {
    "conv.0.weight": (leco.Rows(), leco.Ternary()),
    "conv.3.weight": (leco.Rows(), leco.Uniform(4, zero_point=True)),
    "fc.0.weight": (leco.Groups(36), leco.PowersOfTwo(1, scale=True)),
    "fc.2.weight": (leco.Vector(), leco.Binary()),
}


def test_torchao(tmp_path):
    """Delta(Theta) to the bit, the same outputs; through state_dict and through torch.export."""
    lc = mixed("lenet", GRIDS)
    net, held = leco.export_torchao(lc.model, lc)
    assert list(held.values()) == ["int2", "int4", "int3", "int2"]
    for name, delta in lc.delta.items():
        assert torch.equal(net.get_parameter(name).dequantize(), delta)
    wanted = expected(lc, digits())
    with torch.no_grad():
        assert relative(net(digits()), wanted) <= 1e-6
        torch.save(net.state_dict(), tmp_path / "net.pt")
        fresh = LeNet().eval()
        fresh.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), assign=True)
        assert relative(fresh(digits()), wanted) <= 1e-6
        program = torch.export.export(
            net, (digits(2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        torch.export.save(program, tmp_path / "net.pt2")
        assert relative(torch.export.load(tmp_path / "net.pt2").module()(digits()), wanted) <= 1e-6
    assert os.path.getsize(tmp_path / "net.pt2") > 0


def test_torchao_holds_grids_only():
    lc = mixed("block", {**BLOCK, "qkv.weight": (leco.Groups(48), leco.Uniform(8))})
    net, held = leco.export_torchao(lc.model, lc)
    dense = [
        "dense (Sparse)",
        "dense (scales of runs that cross the rows)",
        "dense (codebook that is no grid)",
    ]
    assert list(held.values()) == [dense[0], dense[1], "int8", "int2", "int3", dense[2]]
    with torch.no_grad():
        assert relative(net(digits()), expected(lc, digits())) <= 1e-6
    lc = leco.LC(
        nn.Linear(8, 4).double(), {"all": leco.Task("weight", leco.Vector(), leco.Binary())}
    )
    lc.mu = 1.0
    assert leco.export_torchao(lc.model, lc)[1] == {"weight": "dense (torch.float64 of Linear)"}
    lc = leco.LC(nn.Conv1d(8, 4, 3), {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    assert leco.export_torchao(lc.model, lc)[1] == {"weight": "dense (torch.float32 of Conv1d)"}
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))
    tied[1].weight = tied[0].weight
    lc = leco.LC(tied, {"all": leco.Task("0.weight", leco.Vector(), leco.Ternary())})
    lc.mu = 1.0
    net, held = leco.export_torchao(tied, lc)
    assert (held, net[0].weight is net[1].weight) == ({"0.weight": "int2"}, True)


def test_compressed_tensors(tmp_path):
    """What its own decompression makes of the folder is Delta(Theta) to the bit; all else is as it
    was."""
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    lc = mixed("block", {**BLOCK, "head.weight": (leco.Rows(), leco.Ternary())})
    lc.model.tied = lc.model.norm
    held = leco.export_compressed_tensors(tmp_path / "out", lc.model, lc, {"model_type": "block"})
    described = [
        "int4, channel, zero point",
        "int8, group of 16",
        "int4, channel",
        "int4, channel",
        "int4, channel",
    ]
    assert list(held.values()) == ["dense (Sparse)", *described]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "block"
    parsed = QuantizationConfig.model_validate(config["quantization_config"])
    assert parsed.ignore == ["embed"]
    for scheme in parsed.config_groups.values():
        for module in scheme.targets:
            state = {
                name.removeprefix(f"{module}."): tensors.pop(name)
                for name in list(tensors)
                if name.startswith(f"{module}.weight")
            }
            assert torch.equal(
                PackedQuantizationCompressor.decompress(state, scheme)["weight"],
                lc.delta[f"{module}.weight"],
            )
            assert sum(x.nbytes for x in state.values()) < lc.delta[f"{module}.weight"].nbytes / 2
    assert torch.equal(tensors.pop("embed.weight"), lc.delta["embed.weight"])
    rest = {name: p for name, p in lc.model.state_dict().items() if not name.startswith("tied")}
    assert set(tensors) == {
        name for name in rest if name.endswith("bias") or name.startswith("norm")
    }
    assert all(torch.equal(x, rest[name]) for name, x in tensors.items())


def test_compressed_tensors_refusals(tmp_path, monkeypatch):
    lc = mixed(
        "lenet",
        {
            "conv.0.weight": (leco.Rows(), leco.Ternary()),
            "fc.0.weight": (leco.Vector(), leco.Codebook(2)),
        },
    )
    with pytest.raises(
        ValueError,
        match=r"'conv.0.weight': 'dense \(Conv2d\)', "
        r"'fc.0.weight': 'dense \(codebook that is no grid\)'",
    ):
        leco.export_compressed_tensors(tmp_path / "out", lc.model, lc)
    assert not list(tmp_path.iterdir())
    for package, export in (
        ("torchao", leco.export_torchao),
        ("compressed_tensors", lambda *args: leco.export_compressed_tensors("x", *args)),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)
        with pytest.raises(ImportError, match=r"pip install leco\[" + package.replace("_", "-")):
            export(lc.model, lc)


def test_codewords_that_cross_rows_in_another_order_stay_dense():
    lc = leco.LC(
        nn.Conv2d(4, 8, 3), {"all": leco.Task("weight", leco.Subvectors(9), leco.VectorCodebook(2))}
    )
    lc.mu = 1.0
    assert quantized(lc) == {"weight": "VectorCodes"}
    lc = leco.LC(
        nn.Linear(6, 4), {"all": leco.Task("weight", leco.Tiles(2, 2), leco.VectorCodebook(2))}
    )
    lc.mu = 1.0
    assert quantized(lc) == {"weight": "VectorCodes"}


def test_weighted_codewords():
    theta = VectorCodes(torch.tensor([0, 1, 1, 0]), torch.randn(2, 4))
    sums = Sum((Term(theta, leco.Groups(4), (0,), weight=3.0),), ((4, 4),), 0)
    task = Compressed({"w": torch.Size([4, 4])}, leco.Blocks(), sums)
    found = quantized({"all": task})["w"]
    assert not isinstance(found, str)
    assert torch.equal(found.weights(), task.deltas()["w"])


def test_grids_of_a_bit_more():
    """Signed integers where they are no longer than unsigned ones with a zero point; widening
    changes no weight."""
    for bits, zero_point, compression in (
        (4, False, leco.Uniform(4)),
        (2, False, leco.Ternary()),
        (2, False, leco.Binary()),
        (3, True, leco.Uniform(3, True)),
    ):
        lc = leco.LC(nn.Linear(32, 16), {"all": leco.Task("weight", leco.Rows(), compression)})
        with torch.no_grad():
            lc.model.weight.add_(0.1 * zero_point)
        lc.mu = 1.0
        grid = grid_of(quantized(lc)["weight"])
        assert isinstance(grid, Grid)
        assert (grid.bits, grid.symmetric) == (bits, not zero_point)
        for wide in (grid, grid.widened(4), grid.widened(8)):
            assert torch.equal(wide.weights(), lc.delta["weight"])
            assert wide.symmetric == grid.symmetric
            assert 0 <= int(wide.levels.min()) <= int(wide.levels.max()) < 2**wide.bits


@pytest.mark.parametrize("form", ["dense", "factorised", "packed"])
def test_torch_export(form, tmp_path):
    """torch.export needs nothing of ours: of the net at Delta(Theta), of factorised and of packed
    layers."""
    lc = mixed(
        "lenet",
        {
            **LENET,
            "fc.0.weight": (leco.Matrix(), leco.LowRank(3)),
            "conv.3.weight": (leco.Kernel(), leco.Tucker2((4, 3))),
        },
    )
    net = {
        "dense": functools.partial(at_delta, "test"),
        "factorised": leco.factorize,
        "packed": leco.pack,
    }[form](lc.model, lc).eval()
    program = torch.export.export(
        net, (digits(2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    found = torch.export.load(tmp_path / "net.pt2").module()(digits())
    assert relative(found, expected(lc, digits())) <= 1e-5

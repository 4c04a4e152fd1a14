"""Weights (in, out) of transformers' Conv1D in the files of other runtimes."""

import onnx
import onnxruntime
import pytest
import torch
from conv1d import Tiny

import leco

TOKENS = torch.arange(12).view(3, 4)
HELD = {
    ("rows", "codes"): ("Cast, Mul, 4 bits", "Transpose"),
    ("rows", "qdq"): ("DequantizeLinear, 4 bits", "Transpose"),
    ("rows", "nbits"): ("MatMulNBits, 4 bits", "MatMulNBits"),
    ("signs", "codes"): ("Gather, 1 bits", "Transpose"),
    ("book", "nbits"): ("Gather, 2 bits", "Gather"),
    ("inputs", "nbits"): ("Cast, Mul, 4 bits", "Mul"),
}
TASKS = {
    "rows": (leco.Rows(1), leco.Uniform(4)),
    "signs": (leco.Matrix((1,)), leco.Binary()),
    "book": (leco.Vector(), leco.Codebook(4)),
    "inputs": (leco.Kernel(), leco.Uniform(4)),  # a scale for each input
}


def compressed(task: str) -> leco.LC:
    lc = leco.LC(Tiny().eval(), leco.each(["up.weight", "down.weight"], *TASKS[task]))
    lc.mu = 1.0
    return lc


@pytest.mark.parametrize(("task", "weights"), HELD)
def test_onnx(task, weights, tmp_path):
    lc, path = compressed(task), str(tmp_path / "net.onnx")
    how, operator = HELD[task, weights]
    held = leco.export_onnx(path, lc.model, lc, TOKENS, weights=weights)
    assert held == {"up.weight": how, "down.weight": how}
    assert operator in {node.op_type for node in onnx.load(path).graph.node}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: TOKENS.numpy()})[0]
    with lc.compressed(), torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), lc.model(TOKENS), atol=1e-5)


def test_formats_with_other_layouts_say_so(tmp_path):
    lc = compressed("rows")
    assert leco.export_torchao(lc.model, lc)[1]["up.weight"] == "dense (torch.float32 of Conv1D)"
    with pytest.raises(ValueError, match=r"'up.weight': 'dense \(Conv1D\)'"):
        leco.export_compressed_tensors(tmp_path / "out", lc.model, lc)

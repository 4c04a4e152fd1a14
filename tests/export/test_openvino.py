"""OpenVINO: its outputs are those of Delta(Theta), and quantized weights stay integers."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import leco

openvino = pytest.importorskip("openvino")

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
FORMS = {
    "u4 in groups": ((leco.Groups(32), leco.Uniform(4, zero_point=True)), "u4"),
    "3 bits in groups": ((leco.Groups(32), leco.Uniform(3, zero_point=True)), "u4"),
    "u8 in rows": ((leco.Rows(), leco.Uniform(8)), "u8"),
    "binary": ((leco.Rows(), leco.Binary()), "u4"),
    "ternary": ((leco.Rows(), leco.Ternary()), "u4"),
    "a codebook of 4": ((leco.Rows(), leco.Codebook(4)), "f32"),
    "a codebook of 100": ((leco.Vector(), leco.Codebook(100)), "f32"),
    "half of the weights": ((leco.Vector(), leco.TopK(0.5)), "f32"),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32), nn.Tanh())


def compressed(how) -> tuple[leco.LC, np.ndarray]:
    lc = leco.LC(net(), leco.each(["0.weight", "2.weight"], *how))
    lc.mu = 1.0
    with lc.compressed(), torch.no_grad():
        return lc, lc.model(X).numpy()


def kinds(model) -> Counter:
    """How many elements the constants of each type have."""
    found = Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            found[node.get_element_type().get_type_name()] += int(np.prod(node.shape))
    return found


@pytest.mark.parametrize(("how", "kind"), FORMS.values(), ids=FORMS)
def test_outputs_and_types(how, kind: str, tmp_path):
    lc, wanted = compressed(how)
    held = leco.export_openvino(tmp_path / "net.xml", lc.model, lc, X)
    assert list(held) == ["0.weight", "2.weight"]
    assert all(text.startswith("dense") for text in held.values()) == (kind == "f32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    read = openvino.Core().read_model(tmp_path / "net.xml")
    assert kinds(read)[kind] >= 64 * 96 + 96 * 32
    size = (tmp_path / "net.bin").stat().st_size
    weights = 64 * 96 + 96 * 32
    assert size < {"u4": 0.8, "u8": 1.6, "f32": 5}[kind] * weights
    # the outputs, without options of the runtime
    run = openvino.compile_model(read, "CPU")
    assert np.abs(run(X.numpy())[0] - wanted).max() <= 2e-6 * np.abs(wanted).max()
    assert run(X[:1].numpy())[0].shape == (1, 32)  # any batch


def test_the_runtime_keeps_four_bits(tmp_path):
    lc, _ = compressed(FORMS["u4 in groups"][0])
    leco.export_openvino(tmp_path / "net.xml", lc.model, lc, X)
    run = openvino.compile_model(tmp_path / "net.xml", "CPU")
    held = Counter()
    for node in run.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].value == "Const":
            held[info["outputPrecisions"].value] += int(np.prod(node.output(0).shape))
    assert held["u4"] >= 64 * 96 + 96 * 32
    assert held["f32"] < 1000


def test_a_codebook_beside_a_grid(tmp_path):
    """What OpenVINO can't unpack is dense, and the other tasks stay integers."""
    model = net()
    tasks = {
        "0": leco.Task("0.weight", *FORMS["a codebook of 4"][0]),
        "2": leco.Task("2.weight", *FORMS["u4 in groups"][0]),
    }
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    held = leco.export_openvino(tmp_path / "net.xml", model, lc, X)
    assert held["0.weight"] == "dense (codes that OpenVINO can't unpack)"
    assert held["2.weight"] == "DequantizeLinear, 4 bits"
    with lc.compressed(), torch.no_grad():
        wanted = model(X).numpy()
    found = openvino.compile_model(tmp_path / "net.xml", "CPU")(X.numpy())[0]
    assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max()


def test_the_name_ends_in_xml(tmp_path):
    lc, _ = compressed(FORMS["binary"][0])
    with pytest.raises(ValueError, match=r"must end in \.xml"):
        leco.export_openvino(tmp_path / "net.onnx", lc.model, lc, X)
    assert list(tmp_path.iterdir()) == []

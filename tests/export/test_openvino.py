"""OpenVINO: its outputs are those of Delta(Theta), and quantized weights stay integers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leco

openvino = pytest.importorskip("openvino")

WIDE = 64
EXACT = {"EXECUTION_MODE_HINT": "ACCURACY"}  # float32 on processors with bfloat16 too
FORMS = {
    "0.weight": (leco.Groups(32), leco.Uniform(3, zero_point=True)),
    "1.weight": (leco.Rows(), leco.Uniform(8)),
    "2.weight": (leco.Rows(), leco.Ternary()),
    "3.weight": (leco.Rows(), leco.Codebook(4)),
    "4.weight": (leco.Vector(), leco.Codebook(100)),
    "5.weight": (leco.Vector(), leco.TopK(0.5)),
}
HELD = {
    "0.weight": "DequantizeLinear, 4 bits",
    "1.weight": "DequantizeLinear, 8 bits",
    "2.weight": "DequantizeLinear, 4 bits",
    "3.weight": "dense (codes that OpenVINO can't unpack)",
    "4.weight": "dense (codes that OpenVINO can't unpack)",
    "5.weight": "dense (Sparse)",
}
X = torch.randn(5, WIDE, generator=torch.Generator().manual_seed(3))


def compressed() -> leco.LC:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in FORMS), nn.Tanh())
    lc = leco.LC(model, {name: leco.Task(name, *how) for name, how in FORMS.items()})
    lc.mu = 1.0
    return lc


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The file of a net with a weight of each form, and how each is held."""
    path, lc = tmp_path_factory.mktemp("openvino") / "net.xml", compressed()
    return path, leco.export_openvino(path, lc.model, lc, X)


def test_the_files_hold_integers(written):
    path, held = written
    assert held == HELD
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.bin", "net.xml"]
    found = Counter()
    for node in openvino.Core().read_model(path).get_ops():
        if node.get_type_name() == "Constant":
            found[node.get_element_type().get_type_name()] += int(np.prod(node.shape))
    matrix = WIDE * WIDE
    assert 2 * matrix <= found["u4"] < 2.2 * matrix
    assert matrix <= found["u8"] < 1.1 * matrix
    assert found["f32"] < 3.3 * matrix
    assert path.with_suffix(".bin").stat().st_size < 15 * matrix  # 14 without scales


def test_the_runtime_keeps_them_and_computes_with_delta(written):
    run, lc = openvino.compile_model(written[0], "CPU", EXACT), compressed()
    with lc.compressed(), torch.no_grad():
        wanted = lc.model(X).numpy()
    assert np.abs(run(X.numpy())[0] - wanted).max() <= 2e-6 * np.abs(wanted).max()
    assert run(X[:1].numpy())[0].shape == (1, WIDE)  # any batch
    held = Counter()
    for node in run.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].value == "Const":
            held[info["outputPrecisions"].value] += int(np.prod(node.output(0).shape))
    assert held["u4"] >= 2 * WIDE * WIDE


def test_the_name_ends_in_xml(tmp_path):
    lc = compressed()
    with pytest.raises(ValueError, match=r"must end in \.xml"):
        leco.export_openvino(tmp_path / "net.onnx", lc.model, lc, X)
    assert list(tmp_path.iterdir()) == []

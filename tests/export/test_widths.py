"""Runtimes' grids in their files: each width of compressed-tensors, torchao and MatMulNBits, and
scales of half precision in nets of half precision."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from laws.case import raises
from safetensors.torch import load_file
from torch import nn

import leco


def problem(grid: leco.RuntimeGrid, dtype: torch.dtype = torch.float32) -> leco.LC:
    torch.manual_seed(0)
    lc = leco.LC(nn.Sequential(nn.Linear(64, 8)).to(dtype), leco.each(["0.weight"], *grid))
    lc.mu = 1.0
    return lc


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(2, torch.float32), (3, torch.bfloat16), (5, torch.float32), (8, torch.bfloat16)],
)
def test_compressed_tensors_of_each_width(bits, dtype, tmp_path):
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    half = None if dtype == torch.float32 else "bfloat16"
    lc = problem(leco.compressed_tensors_grid(bits, 32, scale_dtype=half), dtype)
    held = leco.export_compressed_tensors(tmp_path, lc.model, lc, widths=range(1, 9))
    assert held == {"0.weight": f"int{bits}, group of 32"}
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    (scheme,) = QuantizationConfig.model_validate(config).config_groups.values()
    tensors = load_file(tmp_path / "model.safetensors")
    state = {name.removeprefix("0."): own for name, own in tensors.items() if "bias" not in name}
    assert state["weight_packed"].nbytes == 64 * 8 * bits // 8
    found = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    assert torch.equal(found, lc.delta["0.weight"])


def test_widths_that_a_reader_does_not_take(tmp_path):
    lc = problem(leco.compressed_tensors_grid(8))
    for widths in ((), (4, 2), (0, 4), (9,)):
        raises(
            ValueError,
            lambda widths=widths: leco.export_compressed_tensors(
                tmp_path / "out", lc.model, lc, widths=widths
            ),
            "widths",
            "increasing order",
        )
    raises(
        ValueError,
        lambda: leco.export_compressed_tensors(tmp_path / "out", lc.model, lc, widths=[4]),
        "8 bits, above 4",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("bits", "group"), [(2, None), (5, 16), (8, 16)])
def test_torchao_of_each_width(bits, group):
    lc = problem(leco.torchao_grid(bits, group))
    net, held = leco.export_torchao(lc.model, lc)
    assert held == {"0.weight": f"int{bits}"}
    assert torch.equal(net[0].weight.dequantize(), lc.delta["0.weight"])


@pytest.mark.parametrize(("bits", "zero_point"), [(2, True), (4, False), (8, True)])
def test_onnx_of_each_width(bits, zero_point, tmp_path):
    lc, x = problem(leco.onnx_grid(bits, 16, zero_point)), torch.randn(5, 64)
    held = leco.export_onnx(
        tmp_path / "net.onnx", lc.model, lc, x, weights="nbits", accuracy_level=1
    )
    assert held == {"0.weight": f"MatMulNBits, {bits} bits"}
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with lc.compressed(), torch.no_grad():
        wanted = lc.model(x).numpy()
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()

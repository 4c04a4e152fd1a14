"""The comparison of GGUF types: LC below one C step, and that below ggml's own quantizer."""

import pytest
import torch

from benchmarks.serving import gguf_layers


@pytest.mark.parametrize("kind", ["Q2_0", "Q4_0"])
def test_methods_stand_in_their_order(kind):
    torch.manual_seed(0)
    x = torch.randn(256, 128) @ torch.randn(128, 128)
    problems = {"fits": (torch.randn(16, 128), x.T @ x / 256), "not": (torch.ones(4, 48),) * 2}
    rows = {row["method"]: row["errors"] for row in gguf_layers.measured(kind, problems)}
    assert all(list(errors) == ["fits"] for errors in rows.values())
    assert rows["LC"]["fits"] < 0.7 * rows["C step"]["fits"] < 0.7 * rows["ggml"]["fits"]

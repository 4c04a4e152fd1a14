"""The grids of runtimes: scales of half precision that the C step finds, and LC onto them."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from laws.case import raises
from torch import nn

import leco
from leco.compressions.grid_search import Grid
from leco.compressions.runtime_grids import GGUF
from leco.compressions.stored import beside, stored, stored_scales
from leco.theta import Shifted

HALF = "float16"


def halves(low: float, high: float, dtype: str = HALF) -> torch.Tensor:
    """All numbers of a type of 16 bits from `low` to `high`, in float64."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(getattr(torch, dtype)).double()
    return every[(every >= low) & (every <= high)]


def least(x: torch.Tensor, levels: torch.Tensor, scales: torch.Tensor, d: torch.Tensor) -> float:
    """The least error of all scales, each with the nearest levels."""
    grid = scales.view(-1, 1, 1) * levels
    gaps = (x.view(1, -1, 1) - grid).abs().amin(-1)
    return float((d * gaps.square()).sum(-1).min())


def error(x: torch.Tensor, theta: Any, d: torch.Tensor) -> float:
    return float((d * (x - theta.decompress()).square()).sum())


@pytest.mark.parametrize("dtype", [HALF, "bfloat16"])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(
    ("compression", "levels"), [(leco.Binary(), (-1, 1)), (leco.Ternary(), (-1, 0, 1))]
)
def test_signs_have_the_best_of_all_stored_scales(compression, levels, weighed, dtype):
    torch.manual_seed(0)
    own = replace(compression, scale_dtype=dtype)
    values, scales = torch.tensor(levels, dtype=torch.float64), halves(0, 4, dtype)
    for n in (1, 2, 7):
        x = torch.randn(n, dtype=torch.float64)
        d = torch.rand(n, dtype=torch.float64) + 0.1 if weighed else torch.ones_like(x)
        theta = own.compress(x, d if weighed and n > 1 else 1.0)
        assert torch.equal(theta.scale.to(getattr(torch, dtype)).double(), theta.scale)
        best = least(x, values, scales, d)
        assert error(x, theta, d) <= best * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(("bits", "slack"), [(2, 1.0), (4, 1.1)])
def test_uniform_is_near_the_best_of_all_stored_scales(bits, slack, weighed):
    torch.manual_seed(1)
    levels = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.float64)
    compression = leco.Uniform(bits, scale_dtype=HALF, either_sign=True)
    ours = best = 0.0
    for _ in range(20):
        x = torch.randn(12, dtype=torch.float64)
        d = torch.rand(12, dtype=torch.float64) + 0.1 if weighed else torch.ones_like(x)
        theta = compression.compress(x, d if weighed else 1.0)
        assert torch.equal(stored(theta.scale, HALF), theta.scale)
        ours += error(x, theta, d)
        best += least(x, levels, halves(-3, 3)[::4], d)
    assert ours <= best * slack


def test_a_shifted_grid_is_near_the_best_of_all_lines():
    torch.manual_seed(2)
    ours = best = 0.0
    for _ in range(5):
        x = torch.randn(8, dtype=torch.float64)
        ours += error(x, leco.UniformShift(2, HALF).compress(x, 1.0), torch.ones_like(x))
        # each assignment of sorted numbers to levels has a least-squares line
        x, found = x.sort().values, torch.inf
        for q in itertools.combinations_with_replacement(range(4), 8):
            levels = torch.tensor(q, dtype=torch.float64)
            line = torch.stack([levels, torch.ones_like(levels)], dim=1)
            delta = line @ torch.linalg.lstsq(line, x.unsqueeze(1), driver="gelsd").solution
            found = min(found, float((x - delta.squeeze(1)).square().sum()))
        best += found
    assert best * 0.999 <= ours <= best * 1.1


def test_numbers_beside_a_scale():
    for dtype, kind in ((HALF, torch.float16), ("bfloat16", torch.bfloat16)):
        scale = torch.rand(1000, dtype=torch.float64).square()
        near, other = beside(scale, dtype)
        assert torch.equal(near, scale.to(kind).double())
        assert bool((near.minimum(other) <= scale).all() and (scale <= near.maximum(other)).all())
        after = torch.nextafter(near.minimum(other).to(kind), torch.tensor(torch.inf, dtype=kind))
        assert torch.equal(after.double(), near.maximum(other))
    assert stored(torch.tensor([1e9, -1e9]), HALF).tolist() == [65504, -65504]
    assert beside(torch.tensor([1e9, 0.0]), HALF).tolist() == [[65504, 0], [65504, 0]]


@pytest.mark.parametrize("kind", GGUF)
def test_lc_and_calibration_end_on_the_grid(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 4))
    lc = leco.LC(net, leco.each(["0.weight"], *leco.gguf_grid(kind)))
    x = torch.randn(512, 256) @ torch.randn(256, 256)
    found = leco.calibrate(lc, [x], steps=8, progress=False).records[0]
    assert found.error < found.direct
    theta = lc.thetas["0.weight"]
    for own in (theta.scale, getattr(theta, "shift", theta.scale)):
        assert torch.equal(own.half().to(own), own)
    assert torch.equal(lc.tasks["0.weight"].compression.feasible(theta).scale, theta.scale)


def test_a_weight_of_conv1d_has_its_runs_along_the_inputs():
    view, _ = leco.gguf_grid("Q4_0", transposed=True)
    w = torch.arange(64 * 3).view(64, 3)
    blocks = view.forward([w])
    assert blocks.shape == (2, 3, 32)
    assert torch.equal(blocks[1, 2], w[32:, 2])
    assert torch.equal(view.backward(blocks, [w.shape])[0], w)


def test_options_that_do_not_fit_are_named():
    raises(ValueError, lambda: leco.gguf_grid("Q3_0"), "kind = 'Q3_0'", "Q4_0")
    raises(ValueError, lambda: leco.onnx_grid(3), "bits = 3", "2, 4 or 8")
    raises(ValueError, lambda: leco.onnx_grid(4, 24), "block = 24", "power of 2")
    raises(ValueError, lambda: leco.torchao_grid(1), "torchao_grid: bits = 1", "at least 2")
    raises(ValueError, lambda: leco.compressed_tensors_grid(9), "bits = 9", "at most 8")
    raises(ValueError, lambda: leco.Binary(False, HALF), "scale_dtype", "scale = True")
    raises(ValueError, lambda: leco.Uniform(4, scale_dtype="half"), "scale_dtype = 'half'")
    raises(ValueError, lambda: leco.Uniform(4, True, either_sign=True), "either_sign")
    raises(ValueError, lambda: leco.UniformShift(9), "bits = 9", "at most 8")
    assert str(leco.Uniform(4)) == "Uniform(bits=4, zero_point=False)"
    assert "scale_dtype='float16'" in str(leco.Uniform(4, scale_dtype=HALF))


def test_a_turned_line_is_a_warm_start():
    torch.manual_seed(0)
    x = torch.randn(5, 12, dtype=torch.float64)
    start = leco.UniformShift(3).compress(x, 1.0)
    # the same Delta, as retraining may leave it
    turned = start._replace(
        indices=7 - start.indices, scale=-start.scale, shift=start.shift + 7 * start.scale
    )
    torch.testing.assert_close(turned.decompress(), start.decompress())
    found = leco.UniformShift(3).compress(x, 1.0, turned)
    ones = torch.ones_like(x)
    assert error(x, found, ones) <= error(x, start, ones) * (1 + 1e-9)


def test_the_last_scale_stays_where_the_search_found_worse():
    x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)
    nearest, buffers = Grid(4, False).nearest, x.new_empty(3, 3)
    searched, last = (torch.tensor([0.3], dtype=torch.float64), None), (x.new_ones(1), None)
    assert stored_scales(x, None, nearest, searched, None, HALF, buffers)[0] < 0.9
    assert stored_scales(x, None, nearest, searched, last, HALF, buffers)[0] == 1


def test_the_best_line_of_all_stays_where_stored_numbers_are_coarse():
    torch.manual_seed(0)
    unit = 2.0**-24  # the least number above 0
    scales = unit * torch.arange(1, 16, dtype=torch.float64).view(-1, 1, 1, 1)
    shifts = unit * torch.arange(-24, 25, dtype=torch.float64).view(-1, 1, 1)
    x = 3e-7 * torch.randn(300, 8, dtype=torch.float64)
    codes = ((x - shifts) / scales).round().clamp(0, 7)
    errors = (x - scales * codes - shifts).square().sum(-1).flatten(0, 1)
    i, j = errors.argmin(0) // len(shifts), errors.argmin(0) % len(shifts)
    best = codes.flatten(0, 1)[errors.argmin(0), torch.arange(300)]
    start = Shifted(best.to(torch.uint8), scales[i].view(-1), shifts[j].view(-1), 7)
    found = leco.UniformShift(3, HALF).compress(x, 1.0, start)
    before, after = ((x - t.decompress()).square().sum(1) for t in (start, found))
    assert bool((after <= before * (1 + 1e-9)).all())

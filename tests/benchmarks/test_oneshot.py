"""The one-shot methods of others, each against a slow version or its defining property."""

from typing import Any

import pytest
import torch
from slow import layer, settled_one_by_one
from torch import Tensor

from benchmarks.baselines.oneshot import damped, inverse_factor, layer_error
from benchmarks.baselines.oneshot_alps import alps
from benchmarks.baselines.oneshot_awq import awq, clip
from benchmarks.baselines.oneshot_grids import Grid, fit, gptq, rtn
from benchmarks.baselines.oneshot_masks import magnitude, n_of_m, sparsegpt, wanda
from benchmarks.baselines.oneshot_ranks import whitened_svd


def test_the_factor_is_upper_and_its_square_the_inverse():
    _, h = layer(2, 9)
    factor = inverse_factor(h)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(h))
    assert torch.equal(factor, factor.triu())


def test_the_error_of_a_layer_is_that_of_its_outputs():
    w0, _ = layer(3, 5)
    x = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = w0 + 0.1
    share = ((w - w0) @ x).square().sum() / (w0 @ x).square().sum()
    assert layer_error(w, w0, x @ x.T / 40) == pytest.approx(float(share))


def test_damping_adds_a_share_of_the_mean_diagonal():
    _, h = layer(2, 4)
    added = damped(h, 0.5) - h
    torch.testing.assert_close(added, 0.5 * h.diagonal().mean() * torch.eye(4).double())


@pytest.mark.parametrize("zero_point", [True, False])
def test_the_whole_range_has_the_extreme_weights_on_the_grid(zero_point: bool):
    x = torch.tensor([[-1.0, 0.2, 2.5, 0.3]], dtype=torch.float64)
    found = fit(x, Grid(3, 4, zero_point, shrunk=False))
    low, high = (-1.0, 2.5) if zero_point else (-2.5, 2.5)
    assert float(found.scale) == pytest.approx((high - low) / 7)
    assert float(found.zero) == (2 if zero_point else 4)


@pytest.mark.parametrize("zero_point", [True, False])
def test_the_shrunk_range_is_the_best_of_eighty(zero_point: bool):
    w, _ = layer(6, 16)
    whole = fit(w, Grid(2, 16, zero_point, shrunk=False))
    found = fit(w, Grid(2, 16, zero_point))
    for k in range(len(w)):
        errors = []
        for share in (1 - i / 100 for i in range(80)):
            s, z = float(whole.scale[k] * share), float(whole.zero[k])
            q = [min(max(round(float(v) / s) + z, 0), 3) for v in w[k]]
            pairs = zip(q, w[k], strict=True)
            errors.append((sum(abs((q - z) * s - v) ** 2.4 for q, v in pairs), s))
        assert float(found.scale[k]) == pytest.approx(min(errors)[1])


def test_a_group_of_zeros_stays():
    assert torch.equal(rtn(torch.zeros(2, 8), Grid(2, 4)), torch.zeros(2, 8))


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("shrunk", [True, False])
def test_gptq_is_the_sequential_loop_by_inverses(static: bool, shrunk: bool):
    grid = Grid(3, 32, shrunk=shrunk)
    w0, h = layer(5, 160)  # more than a block
    order = h.diagonal().argsort(descending=True)
    assert not torch.equal(order, torch.arange(160))
    fixed = fit(w0.unflatten(1, (-1, 32)), grid)
    current: list[Any] = []

    def choose(i: int, w: Tensor, _: Tensor) -> Tensor:
        if i % 32 == 0:
            current[:] = [fit(w[:, i : i + 32], grid)]
        group = int(order[i]) // 32
        scale, zero = (part[:, group, 0] for part in fixed) if static else current[0]
        scale, zero = scale.flatten(), zero.flatten()
        return ((w[:, i] / scale).round().add(zero).clamp(0, 7) - zero) * scale

    slow = settled_one_by_one(w0[:, order], damped(h)[order][:, order], choose)
    torch.testing.assert_close(gptq(w0, h, grid, static=static)[:, order], slow)


def test_gptq_ends_on_the_grid_of_rtn_with_a_smaller_error():
    grid = Grid(2, 16)
    w0, h = layer(12, 64)
    scales = fit(w0.unflatten(1, (-1, 16)), grid)
    w = gptq(w0, h, grid)
    torch.testing.assert_close(scales.nearest(w.unflatten(1, (-1, 16)), 2).flatten(1), w)
    assert layer_error(w, w0, h) < 0.7 * layer_error(rtn(w0, grid), w0, h)


def test_awq_has_the_exponent_and_the_bounds_of_least_error():
    grid = Grid(2, 8, shrunk=False)
    w0, h = layer(6, 24)
    errors = []
    for p in (i / 20 for i in range(20)):
        a = [float(h[i, i]) ** (p / 2) for i in range(24)]
        s = torch.tensor([v / (max(a) * min(a)) ** 0.5 for v in a], dtype=torch.float64)
        errors.append((layer_error(rtn(w0 * s, grid) / s, w0, h), p, s))
    _, p, s = min(errors, key=lambda error: error[0])
    assert 0 < p < 0.95  # neither rounding alone nor the end of the search

    # each group of eight clipped by itself
    scaled, own = w0 * s, h / torch.outer(s, s)
    bounds = set()
    for k in range(0, 24, 8):
        for w in scaled[:, k : k + 8]:
            tried = []
            for share in (1 - i / 20 for i in range(10)):
                top = share * float(w.abs().max())
                change = rtn(w.clamp(-top, top)[None], grid)[0] - w
                tried.append((float(change @ own[k : k + 8, k : k + 8] @ change), share))
            share = min(tried)[1]
            bounds.add(share)
            w.clamp_(-share * w.abs().max(), share * w.abs().max())
    assert min(bounds) < 0.7
    torch.testing.assert_close(clip(w0 * s, own, grid), scaled)
    torch.testing.assert_close(awq(w0, h, 2, 8), rtn(scaled, grid) / s)


def test_the_whitened_svd_is_the_closed_form_and_the_best():
    w0, h = layer(7, 9)
    h = damped(h)
    values, vectors = torch.linalg.eigh(h)
    root = (vectors * values.sqrt()) @ vectors.T
    u, s, v = torch.linalg.svd(w0 @ root, full_matrices=False)
    best = (u[:, :3] * s[:3]) @ v[:3] @ torch.linalg.inv(root)
    found = whitened_svd(w0, h, 3, damping=0.0)
    torch.testing.assert_close(found, best)
    left = float(s[3:].square().sum() / s.square().sum())
    assert layer_error(found, w0, h) == pytest.approx(left)


@pytest.mark.parametrize(
    "method",
    [
        lambda w, h: rtn(w, Grid(3, 16)),
        lambda w, h: gptq(w, h, Grid(3, 16)),
        lambda w, h: awq(w, h, 3, 16),
        lambda w, h: magnitude(w, n_of_m(2, 4)),
        lambda w, h: wanda(w, h, n_of_m(2, 4)),
        lambda w, h: sparsegpt(w, h, n_of_m(2, 4)),
        lambda w, h: alps(w, h, n_of_m(2, 4)),
        lambda w, h: whitened_svd(w, h, 2),
    ],
)
def test_methods_keep_dtype_and_input_and_bear_a_singular_h(method: Any):
    w0, _ = layer(6, 32)
    w0 = w0.float()
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(2))  # fewer samples than inputs
    h = x @ x.T / 8
    before = w0.clone(), h.clone()
    found = method(w0, h)
    assert found.dtype == torch.float32
    assert found.shape == w0.shape
    assert found.isfinite().all()
    assert torch.equal(w0, before[0])
    assert torch.equal(h, before[1])

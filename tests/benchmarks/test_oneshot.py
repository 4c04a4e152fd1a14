"""The one-shot methods of others, each against a slow version or its defining property."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.oneshot import damped, inverse_factor, layer_error
from benchmarks.baselines.oneshot_alps import State, alps, conjugate_gradients, scheduled
from benchmarks.baselines.oneshot_grids import Grid, fit, gptq, rtn
from benchmarks.baselines.oneshot_masks import Kept, largest, magnitude, n_of_m, sparsegpt, wanda
from benchmarks.baselines.oneshot_ranks import whitened_svd


def layer(out: int, inner: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and the second moments of correlated inputs, one of them an outlier."""
    generator = torch.Generator().manual_seed(seed)
    draw: Any = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x = draw(inner, inner) @ draw(inner, 3 * inner) / inner**0.5
    x[inner // 2] *= 5
    return draw(out, inner), x @ x.T / x.shape[1]


def settled_one_by_one(w: Tensor, h: Tensor, choose: Any) -> Tensor:
    """Each column in order: the later ones take the least-squares change, by the inverse of what
    is left of H."""
    w = w.clone()
    for i in range(w.shape[1]):
        inverse = torch.linalg.inv(h[i:, i:])
        q = choose(i, w, inverse)
        w[:, i + 1 :] -= torch.outer((w[:, i] - q) / inverse[0, 0], inverse[0, 1:])
        w[:, i] = q
    return w


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


@pytest.mark.parametrize("kept", [Kept(0.3), Kept(0.5), n_of_m(2, 4), n_of_m(1, 8)])
def test_sparsegpt_is_the_sequential_loop_by_inverses(kept: Kept):
    w0, h = layer(5, 160)
    every, mask = kept.m or 128, torch.zeros(5, 160, dtype=torch.bool)
    factor, whole = inverse_factor(damped(h)).diagonal(), damped(h)

    def choose(i: int, w: Tensor, inverse: Tensor) -> Tensor:
        assert float(inverse[0, 0]) == pytest.approx(float(factor[i].square()))
        if i % every == 0:
            # the increase of the error by a weight that is dropped when its turn comes
            end = min(i + every, 160)
            turns = [torch.linalg.inv(whole[j:, j:])[0, 0] for j in range(i, end)]
            score = w[:, i:end].square() / torch.stack(turns)
            if kept.m:
                for row, values in enumerate(score):
                    mask[row, i + values.argsort(descending=True)[: kept.n]] = True
            else:
                count = round(kept.share * score.numel())
                mask[:, i:end] = score >= score.flatten().sort(descending=True).values[count - 1]
        return w[:, i] * mask[:, i]

    slow = settled_one_by_one(w0, whole, choose)
    found = sparsegpt(w0, h, kept)
    assert torch.equal(found != 0, mask)
    torch.testing.assert_close(found, slow)


def test_masks_keep_the_largest():
    score = torch.tensor([[1.0, 4.0, 3.0, 2.0], [8.0, 7.0, 6.0, 5.0]])
    masks = {
        "all": largest(score, Kept(0.5)),
        "rows": largest(score, Kept(0.5), rows=True),
        "1:2": largest(score, n_of_m(1, 2)),
    }
    assert masks["all"].tolist() == [[False] * 4, [True] * 4]
    assert masks["rows"].tolist() == [[False, True, True, False], [True, True, False, False]]
    assert masks["1:2"].tolist() == [[False, True, True, False], [True, False, True, False]]


@pytest.mark.parametrize("seed", range(6))
def test_magnitude_and_wanda_are_the_best_of_all_masks_in_their_metrics(seed: int):
    w0, h = layer(1, 6, seed)
    masks = [torch.tensor(bits) for bits in itertools.product((0.0, 1.0), repeat=6)]
    masks = [mask.double() for mask in masks if mask.sum() == 3]
    for found, d in ((magnitude(w0, Kept(0.5)), 1.0), (wanda(w0, h, Kept(0.5)), h.diagonal())):
        left = min(float(((w0 - w0 * mask).square() * d).sum()) for mask in masks)
        assert float(((w0 - found).square() * d).sum()) == pytest.approx(left)


def test_wanda_compares_in_rows():
    w0, h = layer(4, 10)
    w0[0] *= 100
    assert (wanda(w0, h, Kept(0.5)) != 0).sum(1).tolist() == [5] * 4


def test_conjugate_gradients_end_at_the_least_squares_on_the_support():
    w0, h = layer(3, 8)
    mask = largest(w0.abs(), Kept(0.5), rows=True)
    found = conjugate_gradients(h, w0 @ h, mask, w0 * mask)
    for row, kept in enumerate(mask):
        best = torch.linalg.solve(h[kept][:, kept], (w0 @ h)[row, kept])
        torch.testing.assert_close(found[row, kept], best)
        assert not found[row, ~kept].any()


@pytest.mark.parametrize("seed", range(5))
def test_alps_is_near_the_best_of_all_supports(seed: int):
    w0, h = layer(1, 10, seed)
    h = damped(h)
    errors = []
    for places in itertools.combinations(range(10), 4):
        w, at = torch.zeros_like(w0), list(places)
        w[0, at] = torch.linalg.solve(h[at][:, at], (w0 @ h)[0, at])
        errors.append(layer_error(w, w0, h))
    found = alps(w0, h, Kept(0.4), damping=0.0)
    assert int((found != 0).sum()) == 4
    error = layer_error(found, w0, h)
    assert error >= min(errors) * (1 - 1e-9)
    assert sum(e < error * (1 - 1e-9) for e in errors) <= 5  # of 210


@pytest.mark.parametrize("kept", [Kept(0.3), n_of_m(2, 4)])
def test_alps_is_feasible_and_better_than_sparsegpt(kept: Kept):
    w0, h = layer(16, 64)
    found, other = alps(w0, h, kept), sparsegpt(w0, h, kept)
    if kept.m:
        assert ((found != 0).unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert int((found != 0).sum()) == round(kept.share * w0.numel())
    assert layer_error(found, w0, h) < layer_error(other, w0, h)


def test_alps_with_independent_inputs_is_the_largest_in_the_metric():
    w0, h = layer(4, 12)
    h = h.diagonal().diag()
    d = damped(h).diagonal().sqrt()
    best = w0 * largest(w0.abs() * d, Kept(0.25))
    torch.testing.assert_close(alps(w0, h, Kept(0.25)), best)


def test_rho_follows_the_change_of_the_support():
    zero = torch.zeros(1)
    start = State(0.1, zero, zero, zero)
    moved = State(1.0, zero + 1, zero, zero)
    grown = moved._replace(grown=True)

    def rho(state: State, changed: int, share: float) -> float | None:
        after = scheduled(state, start, changed, share)
        return after and pytest.approx(after.rho)

    assert [rho(grown, 9, s) for s in (0.2, 0.05, 0.001)] == [1.3, 1.2, 1.1]
    assert [rho(moved, 9, s) for s in (0.2, 0.05, 0.001)] == [1.3, 1.2, 0.2]
    assert scheduled(moved, start, 9, 0.001) == start._replace(rho=0.2)  # from the start again
    assert scheduled(moved, start, 0, 0.0) == moved._replace(rho=0.2)
    assert scheduled(grown, start, 0, 0.0) is None


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

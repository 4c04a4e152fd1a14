"""Pruning without training, by the methods of others, against slow versions and brute force."""

import itertools

import pytest
import torch
from slow import layer, settled_one_by_one
from torch import Tensor

from benchmarks.baselines.oneshot import damped, inverse_factor, layer_error
from benchmarks.baselines.oneshot_alps import State, alps, conjugate_gradients, scheduled
from benchmarks.baselines.oneshot_masks import Kept, largest, magnitude, n_of_m, sparsegpt, wanda


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

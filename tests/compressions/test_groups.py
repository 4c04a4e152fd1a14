"""Structured pruning against brute force over all choices of groups and of places."""

import itertools
import math

import pytest
import torch

import leco
from leco.theta import NMSparse, Sparse, patterns

MU = 0.7
# three norms of 5
EDGES = torch.tensor(
    [[3.0, 4.0], [5.0, 0.0], [0.0, 0.0], [-4.0, 3.0], [1.0, 1.0]], dtype=torch.float64
)


def tries():
    torch.manual_seed(0)
    yield EDGES
    yield torch.zeros(5, 2, dtype=torch.float64)
    yield from (torch.randn(5, 2, dtype=torch.float64) * scale for scale in (0.1, 1.0, 1.0, 10.0))


def all_masks(groups):
    return torch.tensor(list(itertools.product([False, True], repeat=groups)))


@pytest.mark.parametrize("kappa", range(6))
def test_groups_kept_are_the_best_of_all_choices(kappa):
    for x in tries():
        masks = all_masks(5)
        lost = [float(x[~mask].square().sum()) for mask in masks[masks.sum(1) <= kappa]]
        theta = leco.GroupTopK(kappa).compress(x, MU)
        assert int(theta.mask.sum()) == kappa
        assert math.isclose(
            float((x - theta.decompress()).square().sum()), min(lost), abs_tol=1e-12
        )


def test_the_first_of_equal_groups_are_kept():
    assert leco.GroupTopK(2).compress(EDGES, MU).mask.tolist() == [True, True, False, False, False]
    assert leco.GroupTopK(0.4).compress(EDGES, MU).mask.tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("costs", [1.0, (1.0, 3.0, 0.5, 0.0, 2.0)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
def test_priced_groups_are_the_best_of_all_choices(alpha, costs):
    for x in tries():
        each = torch.tensor(costs, dtype=torch.float64).expand(5)
        best = min(
            float(MU / 2 * x[~mask].square().sum() + alpha * each[mask].sum())
            for mask in all_masks(5)
        )
        penalty = leco.GroupL0Penalty(alpha, costs)
        theta = penalty.compress(x, MU)
        assert math.isclose(
            MU / 2 * float((x - theta.decompress()).square().sum()) + penalty.price(theta),
            best,
            abs_tol=1e-12,
        )


def test_priced_groups_solve_the_knapsack_of_their_own_cost():
    costs = (1.0, 3.0, 0.5, 0.2, 2.0)
    each = torch.tensor(costs, dtype=torch.float64)
    for x in tries():
        solve = leco.GroupL0Penalty(1.0, costs).family(x, MU)
        for alpha in (0.05, 0.2, 0.7, 2.0, 9.0):
            kept = solve(alpha).mask
            within = [mask for mask in all_masks(5) if each[mask].sum() <= each[kept].sum() + 1e-12]
            assert (
                float(x[kept].square().sum())
                >= max(float(x[mask].square().sum()) for mask in within) - 1e-12
            )


@pytest.mark.parametrize("costs", [1.0, (1.0, 3.0, 0.5, 0.0, 2.0)])
def test_the_block_soft_threshold_satisfies_the_optimality_conditions(costs):
    """0 is in mu (theta_g - x_g) + alpha c_g d||theta_g||: a unit vector where theta_g is not 0,
    the unit ball where it is."""
    for x in tries():
        delta = leco.GroupL1Penalty(1.5, costs).compress(x, MU).decompress()
        each = torch.tensor(costs, dtype=torch.float64).expand(5)
        for d, pull, c in zip(delta, MU * (x - delta), each, strict=True):
            if d.any():
                assert torch.allclose(pull, 1.5 * c * d / d.norm(), atol=1e-12)
            else:
                assert pull.norm() <= 1.5 * c + 1e-12


@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (1, 2), (2, 4), (1, 4), (4, 4), (3, 8), (2, 9), (8, 16), (2, 17)]
)
def test_the_largest_of_each_block_are_kept_and_the_first_of_ties(n, m):
    torch.manual_seed(0)
    x = torch.cat(
        [torch.randn(20, 3 * m), torch.randint(-2, 3, (20, 3 * m)).float(), torch.ones(1, 3 * m)]
    )
    theta = leco.NM(n, m).compress(x, MU)
    delta = theta.decompress()
    for block, left in zip(x.reshape(-1, m).tolist(), delta.reshape(-1, m).tolist(), strict=True):
        kept = sorted(range(m), key=lambda j, block=block: (-abs(block[j]), j))[:n]
        assert left == [v if j in kept else 0.0 for j, v in enumerate(block)]
    assert isinstance(theta, NMSparse if m <= 16 else Sparse)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (3, 8), (5, 12)])
def test_patterns_are_numbered_by_their_bits_and_pack_well(n, m):
    places, numbers = patterns(n, m, torch.device("cpu"))
    assert len(places) == math.comb(m, n) == len({tuple(p) for p in places.tolist()})
    codes = [sum(1 << j for j in p) for p in places.tolist()]
    assert codes == sorted(codes)
    assert numbers[codes].tolist() == list(range(len(codes)))


def test_two_of_four_take_two_thirds_of_a_bit_a_weight_beside_the_values():
    theta = leco.NM(2, 4).compress(torch.randn(60, 1000), MU)
    assert theta.values.numel() == 30_000
    # 15,000 patterns of 6, three to a byte or better
    assert 0 < leco.bits(theta.pattern) <= 8 * 5_000


def test_chunks_meet_without_a_seam():
    torch.manual_seed(0)
    x = torch.randn(3 * leco.compressions.roots.CHUNK // 2 // 12 * 12)
    delta = leco.NM(2, 4).compress(x, MU).decompress().view(-1, 4)
    assert (delta.count_nonzero(1) == 2).all()
    assert torch.equal(delta.abs().sum(1), x.view(-1, 4).abs().topk(2).values.sum(1))


def test_gradients_reach_the_kept_values():
    pull = torch.arange(10.0, dtype=torch.float64).view(5, 2)
    for compression, reached in (
        (leco.GroupTopK(1), [0.0, 1.0]),
        (leco.NM(1, 2), [1.0, 2.0, 4.0, 6.0, 8.0]),
    ):
        theta = compression.compress(EDGES, MU)
        values = theta.values.clone().requires_grad_()
        (theta._replace(values=values).decompress() * pull).sum().backward()
        assert values.grad.reshape(-1).tolist() == reached

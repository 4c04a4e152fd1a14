"""Ranks that a cost forbids, and the size of the decompositions that find ranks."""

import math

import pytest
import torch

import leco


def forbids(*ranks: int):
    return lambda shape, rank: math.inf if rank in ranks else float(rank)


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 10.0])
def test_a_forbidden_rank_is_never_taken(alpha):
    x = torch.randn(5, 4, dtype=torch.float64)
    theta = leco.RankSelection(alpha, forbids(0, 4)).compress(x, 1.0)
    assert theta.u.shape[1] == (3 if alpha < 1 else 1)
    assert math.isfinite(leco.RankSelection(alpha, forbids(0, 4)).price(theta))


@pytest.mark.parametrize("alpha", [0.0, 1e-6])
def test_a_forbidden_dense_kernel_is_never_taken(alpha):
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    theta = leco.ConvRankSelection(alpha, forbids(4, 6, 8)).compress(x, 1.0)
    assert theta.u.shape[1] in (3, 5)


@pytest.mark.parametrize("alpha", [0.0, 1e-6])
def test_forbidden_tucker_ranks_are_never_taken(alpha):
    def cost(shape, ranks):
        return math.inf if ranks[0] == 4 else float(sum(ranks))

    selection = leco.TuckerSelection(alpha, cost)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    theta = selection.compress(x, 1.0)
    assert theta.core.shape[:2] == (3, 3)
    dense = leco.TuckerSelection(0.0).compress(x, 1.0)
    assert selection.compress(x, 1.0, dense).core.shape[:2] == (3, 3)
    forbidden = leco.Tucker2((4, 2)).compress(x, 1.0)
    assert selection.compress(x, 1.0, forbidden).core.shape[:2] == (3, 3)


def test_a_table_may_forbid_ranks():
    table = leco.Table([math.inf, 1.0, math.inf, 3.0, math.inf])
    theta = leco.RankSelection(0.0, table).compress(torch.randn(5, 4), 1.0)
    assert theta.u.shape[1] == 3


@pytest.mark.parametrize(
    ("compression", "shape"),
    [
        (leco.RankSelection(0.0, lambda shape, rank: math.inf), (5, 4)),
        (leco.ConvRankSelection(0.0, lambda shape, rank: math.nan), (4, 3, 2, 2)),
        (leco.TuckerSelection(0.0, lambda shape, ranks: math.inf), (4, 3, 2, 2)),
    ],
)
def test_a_cost_that_forbids_all_ranks_is_refused(compression, shape):
    with pytest.raises(ValueError, match=f"{type(compression).__name__}: cost = .* infinite"):
        compression.check(torch.Size(shape))


@pytest.mark.parametrize("shape", [(4, 500), (500, 4)])
def test_no_decomposition_is_larger_than_the_matrix(shape, monkeypatch):
    """A full U of 500 x 500 is refused here."""
    svd = torch.linalg.svd
    found = []

    def watched(matrix, full_matrices=True):
        found.append(svd(matrix, full_matrices=full_matrices))
        return found[-1]

    monkeypatch.setattr(torch.linalg, "svd", watched)
    x = torch.randn(*shape, 2, 1, dtype=torch.float64)
    leco.Tucker2((3, 3)).compress(x, 1.0)
    leco.TensorTrain((3, 2, 1)).compress(x, 1.0)
    leco.CP(3).compress(x, 1.0)
    leco.LowRank(2).compress(x.flatten(1), 1.0)
    assert found
    assert all(part.numel() <= x.numel() for parts in found for part in parts)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5)])
def test_a_decomposition_that_does_not_converge_is_an_svd_in_float64(shape, monkeypatch):
    svd, seen = torch.linalg.svd, []

    def fails(matrix):
        raise torch.linalg.LinAlgError("did not converge")

    def watched(matrix, full_matrices=True):
        seen.append(matrix.dtype)
        return svd(matrix, full_matrices=full_matrices)

    x = torch.randn(shape)
    expected = leco.LowRank(2).compress(x, 1.0).decompress()
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    monkeypatch.setattr(torch.linalg, "svd", watched)
    found = leco.LowRank(2).compress(x, 1.0).decompress()
    torch.testing.assert_close(found, expected)
    assert seen == [torch.float64]

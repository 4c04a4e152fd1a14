"""What no single case shows: warm starts that were retrained, and edges."""

import pytest
import torch
from labels import label

from laws.case import MU, objective
from laws.cases_of_values import codebook, scaled
from laws.sets import powers
from leco.compressions import (
    Binary,
    Codebook,
    L0Penalty,
    L1Ball,
    L2Ball,
    LowRank,
    PowersOfTwo,
    RankSelection,
    TopK,
)
from leco.theta import Codes, Scaled


@pytest.mark.parametrize("exact", [None, False])
def test_a_retrained_codebook_in_any_order_is_a_warm_start(exact):
    x = torch.randn(300, dtype=torch.float64)
    for _ in range(20):
        values = 2 * torch.randn(4, dtype=torch.float64)
        start = Codes((x.unsqueeze(-1) - values).abs().argmin(-1).to(torch.uint8), values)
        case = codebook("retrained", 4, exact=exact)
        assert objective(case, x, case.compress(x, start)) <= objective(case, x, start) * (1 + 1e-9)


def test_a_retrained_scale_below_0_is_a_warm_start():
    case = scaled("retrained", PowersOfTwo(2, scale=True), *powers(2), descent=True)
    for _ in range(20):
        x = torch.randn(30, dtype=torch.float64)
        start = case.compress(x + torch.randn_like(x))
        # the same Delta: the 7 values are symmetric
        start = Scaled(6 - start.indices, start.values, -start.scale)
        assert objective(case, x, case.compress(x, start)) <= objective(case, x, start) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("compression", "expected"),
    [
        (TopK(0), [0, 0, 0, 0]),
        (TopK(4), [3, -3, 0.5, 0]),
        (TopK(1), [3, 0, 0, 0]),
        (L1Ball(6.5), [3, -3, 0.5, 0]),
        (L1Ball(6.4999), None),
        (L1Ball(0), [0, 0, 0, 0]),
        (L2Ball(18.25**0.5 * (1 + 1e-15)), [3, -3, 0.5, 0]),
        (L2Ball(0), [0, 0, 0, 0]),
        (Codebook(4), [3, -3, 0.5, 0]),
        (Codebook(1), [0.125, 0.125, 0.125, 0.125]),
        (Binary(False), [1, -1, 1, 1]),
        (Binary(), [1.625, -1.625, 1.625, 1.625]),
        (L0Penalty(0), [3, -3, 0.5, 0]),
    ],
    ids=label,
)
def test_edge(compression, expected):
    x = torch.tensor([3, -3, 0.5, 0], dtype=torch.float64)
    delta = compression.compress(x, MU).decompress()
    assert (
        not torch.equal(delta, x)
        if expected is None
        else torch.equal(delta, x.new_tensor(expected))
    )


def test_ties_keep_exactly_kappa_and_the_first():
    x = torch.tensor([[1.0, -2, 2, 1, -1, 0], [-1, -1, -1, 1, 1, 1]])
    kept = TopK(3).compress(x, MU).mask
    assert kept.tolist() == [
        [True, True, True, False, False, False],
        [True, True, True, False, False, False],
    ]


def test_rank_full_is_the_matrix_itself():
    x = torch.randn(2, 3, 4)
    assert torch.equal(LowRank(3).compress(x, MU).decompress(), x)
    assert torch.equal(RankSelection(0.0).compress(x[0], MU).decompress(), x[0])
    assert LowRank(0).compress(x, MU).decompress().count_nonzero() == 0

"""A share above 0 keeps at least one of any number, and `leco.plan` shows the count."""

import pytest
import torch
from torch import nn

import leco
from leco.compressions.checks import share


@pytest.mark.parametrize(
    ("value", "n", "count"),
    [(0.05, 8, 1), (0.0, 8, 0), (1e-9, 1, 1), (0.05, 266, 13), (0.99, 100, 99), (3, 8, 3)],
)
def test_a_share_above_0_keeps_at_least_1(value, n, count):
    assert share(value, n) == count


def test_small_rows_and_few_channels_are_not_pruned_away():
    x = torch.randn(4, 8)
    assert (leco.TopK(0.05).compress(x, 1.0).decompress() != 0).sum(1).tolist() == [1] * 4
    kept = leco.GroupTopK(0.05).compress(torch.randn(8, 3), 1.0).decompress()
    assert int((kept != 0).any(1).sum()) == 1


def test_plan_shows_the_count():
    net = nn.Linear(8, 4)
    rows = leco.LC(net, {"t": leco.Task("weight", leco.Rows(), leco.TopK(0.05))})
    assert "1 of 8" in leco.plan(rows)
    channels = leco.LC(net, {"t": leco.Task("weight", leco.Matrix(), leco.GroupTopK(0.5))})
    assert "2 of 4" in leco.plan(channels)

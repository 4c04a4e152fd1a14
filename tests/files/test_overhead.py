"""A limit for the whole file."""

import pytest
import torch
from torch import nn

import leco


@pytest.mark.parametrize("limit", [1800, 2300, 2900])
def test_a_file_keeps_its_limit(tmp_path, limit):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 10))
    members = (
        leco.Part(leco.Vector(), leco.EntropyCodebook(0, k=8), (0,), 1 / 8),
        leco.Part(leco.Vector(), leco.L0Penalty(0), (1,), 5),
    )

    def made(limit: float) -> leco.LC:
        budget = leco.Budget(members, limit, leco.coded_bytes)
        lc = leco.LC(net, {"all": leco.Task(["0.weight", "2.weight"], leco.Blocks(), budget)})
        lc.mu = 1.0
        return lc

    overhead = leco.file_overhead(made(limit))
    lc = made(limit - overhead - 40)
    assert 0.9 * limit <= leco.save(tmp_path / "net", lc) <= limit

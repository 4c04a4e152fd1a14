"""Several processes that train one net find what one process finds."""

import pytest
import torch
from ranks.launch import run

from leco.algorithm.alike import checksum
from leco.algorithm.record import PART


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_find_what_one_process_finds(ranks, tmp_path):
    """`tests/ranks` has the cases: DistributedDataParallel, fully_shard, tensor parallelism."""
    assert run(ranks, tmp_path) == {}


def test_a_checksum_depends_on_the_order_of_all_entries():
    """Beyond the part of the tensor that is summed at once, too."""
    one, other = torch.zeros(PART + 1), torch.zeros(PART + 1)
    one[0] = other[PART] = 1.0
    assert checksum(one) != checksum(other)
    one[0], one[PART] = -0.0, 1.0
    assert checksum(one) != checksum(other)  # every bit

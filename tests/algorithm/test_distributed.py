"""Several processes that train one net find what one process finds."""

import pytest
from ranks.launch import run


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_find_what_one_process_finds(ranks, tmp_path):
    """`tests/ranks` has the cases: DistributedDataParallel, fully_shard, tensor parallelism."""
    assert run(ranks, tmp_path) == {}

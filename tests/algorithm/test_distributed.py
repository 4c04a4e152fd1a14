"""Several processes that train one net find what one process finds."""

import pytest
from ranks.launch import run


@pytest.mark.parametrize("ranks", [2, 4])
def test_replicated_parameters(ranks, tmp_path):
    """Under DistributedDataParallel: `tests/ranks/replicated.py` has the cases."""
    assert run("ranks.replicated", ranks, tmp_path) == {}


@pytest.mark.parametrize("ranks", [2, 4])
def test_sharded_parameters(ranks, tmp_path):
    """Under fully_shard and tensor parallelism: `tests/ranks/sharded.py` has the cases."""
    assert run("ranks.sharded", ranks, tmp_path) == {}

"""Every trainer under torchrun: two ranks find what one process finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import leco

pytest.importorskip("transformers")
pytest.importorskip("lightning.pytorch")


def test_two_ranks_equal_one_process(tmp_path):
    """In float64: weights, multipliers, losses and gaps of the Trainer with its best net, of
    accelerate with a checkpoint, and of Lightning; and their files."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    script = Path(__file__).with_name("two_ranks.py")
    root = str(Path(leco.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    found = []
    for start in ((), torchrun):
        folder = tmp_path / str(len(start))
        folder.mkdir()
        command = [sys.executable, *start, str(script), str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(torch.load(folder / "found.pt", weights_only=True))
    one, two = found
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-12)
    assert (folder / "net").exists()
    assert (folder / "pl").exists()

"""What every test starts from: the same random numbers, and one thread, so that sums have one
order."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)

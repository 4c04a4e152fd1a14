"""Files of earlier versions of the library: they load to the same bits."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

import leco
from leco.theta.tree import leaves

FILE = Path(__file__).parent / "data" / "version2.safetensors"
"""Format version 2, with tied weights, a pool and an entry of its own."""
DIGESTS = {
    "codebook": "b5b3620016198e8a",
    "topk": "1118f7d198d47eb8",
    "lowrank": "995e3ec650516428",
    "uniform": "7b98910d235ef999",
    "nm": "4479447e82c29c4d",
    "budget": "ccf5134d18ace56e",
}
REST = "71bc47032cd5fe74"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.a = nn.Linear(12, 9)
        self.b = nn.Linear(9, 20)
        self.c = nn.Linear(20, 16)
        self.d = nn.Linear(16, 8)
        self.head = nn.Linear(12, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("large", torch.zeros(1100))


def digest(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def test_a_file_of_version_2_gives_the_same_thetas():
    found = leco.thetas(FILE)
    assert {name: digest(leaves(task.theta)) for name, task in found.items()} == DIGESTS
    assert leco.describe(FILE)["version"] == 2
    assert leco.breakdown(FILE).bytes == FILE.stat().st_size == 6693


def test_a_file_of_version_2_fills_a_net():
    net = leco.load(FILE, Net())
    tasks = leco.thetas(FILE)
    for task in tasks.values():
        for name, delta in task.deltas().items():
            assert torch.equal(net.get_parameter(name), delta)
    params = {name for task in tasks.values() for name in task.shapes}
    state = net.state_dict().items()
    rest = (v for n, v in state if n not in params and n != "head.weight")
    assert digest(rest) == REST
    assert net.head.weight is net.embed.weight

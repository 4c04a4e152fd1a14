"""Files taken apart, changed, and put together again with right checksums; and small files with every form and coding."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

import leco
from leco.container import ENTRY, Payload, opened, write

KERNEL = leco.Reshape((3, 3, 4, 3))


class Parts(NamedTuple):
    """A file as its description and its tensors in order."""

    description: dict[str, Any]
    payloads: list[Payload]

    def write(self, path: Path) -> None:
        write(path, self.description, self.payloads)


def nodes(value: Any) -> list[dict[str, Any]]:
    """The tensors of a part of a description, in order."""
    if isinstance(value, dict) and "t" in value:
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [node for member in members for node in nodes(member)]


def take_apart(path: Path) -> Parts:
    """Any file that is not damaged; its checksums are not looked at."""
    with opened(path) as file:
        description = {name: value for name, value in file.description.items() if name != "version"}
        start = file.description_bytes
    tensors = [*nodes([task["theta"] for task in description["tasks"].values()]), *nodes(description["rest"])]
    start += 4 * (1 + len(tensors))
    payloads = []
    with safe_open(path, framework="pt") as file:
        content = file.get_tensor(ENTRY)
        for _, _, length, *coding in (node["t"] for node in tensors):
            if coding:
                payloads.append(Payload(content[start : start + length]))
                start += length
            else:
                payloads.append(Payload(file.get_tensor(length), length))
    assert start == len(content)
    return Parts(description, payloads)


class Net(nn.Module):
    """Small, with tied weights, a normalization and a large float buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.a = nn.Linear(12, 9)
        self.b = nn.Linear(9, 80)
        self.head = nn.Linear(12, 10, bias=False)
        self.head.weight = self.embed.weight
        self.large: torch.Tensor
        self.register_buffer("large", torch.randn(1100))


def problem(seed: int = 0) -> tuple[Net, leco.LC]:
    """Tasks whose tensors are coded in every way."""
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        net.b.weight[20:] *= 0.01
    kept = leco.Additive([(leco.Matrix(), leco.LowRank(1)), (leco.Rows(), leco.Ternary())])
    tasks = {
        "embed": leco.Task("embed.weight", leco.Groups(6), leco.Ternary()),
        "conv": leco.Task("conv.weight", leco.Kernel(), leco.ConvRankSelection(0.002)),
        "a": leco.Task("a.weight", leco.Matrix(), kept),
        "b": leco.Task("b.weight", leco.Matrix(), leco.EntropyMatrix(1e-3, 4)),
        "biases": leco.Task(("a.bias", "b.bias"), leco.Vector(), leco.Compose(leco.TopK(5), leco.Codebook(2))),
    }
    lc = leco.LC(net, tasks)
    lc.mu = 0.5
    return net, lc


def mutated(description: Any, rng: random.Random) -> Any:
    """A description with one to three of its nodes replaced, removed, doubled or exchanged."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(description)
        holder, key = rng.choice(places)
        what = rng.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1:
            other, place = rng.choice(places)
            holder[key] = _copy(other[place])
        elif what == 2 and isinstance(holder, list):
            holder.insert(key, _copy(holder[key]))
        elif what == 3 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += rng.choice((-1, 1, 2, 8, 255, 2**20, -(2**31)))
        else:
            holder[key] = rng.choice(ODD)()
    return description


ODD = [
    *(
        lambda value=value: value
        for value in (0, 1, 2, 7, -1, 10**15, 2**63 - 1, -(2**63), True, False, None, 0.5, -1.5, 1e300, "", "Sum", "raw", "a.v")
    ),
    *(
        lambda value=value: _copy(value)
        for value in ([], [[]], {}, [10**9, 10**9], [0, 10**15], {"t": ["uint8", [10**15], 0, {"name": "digits", "base": 1}]})
    ),
    lambda: {"Dense": [{"t": ["float32", [2**40], 4, {"name": "raw"}]}]},
    lambda: {"HashedValues": [{"t": ["float32", [1], 4, {"name": "raw"}]}, 10**15, 0]},
    lambda: {"v": ["Reshape", {"sizes": [2**31, 2**31]}]},
]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(member) for name, member in value.items()}
    return [_copy(member) for member in value] if isinstance(value, list) else value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All (holder, key) of a nested value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]

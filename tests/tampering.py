"""Files taken apart, changed, and put together again with right checksums; and small files with
every form and coding."""

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import leco
from leco.files.container import DTYPES, WORDS, Payload, write

KERNEL = leco.Reshape((3, 3, 4, 3))
COMPRESSIONS = {  # of a matrix 9 x 12, each kind at least once
    "codebook": (leco.Vector(), leco.Codebook(5)),
    "large codebook": (leco.Vector(), leco.Codebook(100)),
    "codebook per row": (leco.Rows(), leco.Codebook(3)),
    "fixed": (leco.Vector(), leco.FixedCodebook((-0.1, 0.2))),
    "binary": (leco.Rows(), leco.Binary()),
    "ternary": (leco.Vector(), leco.Ternary(scale=False)),
    "powers": (leco.Vector(), leco.PowersOfTwo(3, scale=True)),
    "uniform": (leco.Rows(), leco.Uniform(4, zero_point=True)),
    "shifted": (leco.Rows(), leco.UniformShift(3)),
    "sparse": (leco.Vector(), leco.TopK(0.05)),
    "nothing kept": (leco.Vector(), leco.TopK(0)),
    "ball": (leco.Vector(), leco.L2Ball(0.5)),
    "ranks": (leco.Matrix(), leco.RankSelection(1e-4)),
    "rank 0": (leco.Matrix(), leco.LowRank(0)),
    "full rank": (leco.Matrix(), leco.LowRank(9)),
    "codewords": (leco.Groups(4), leco.VectorCodebook(5)),
    "product": (leco.Subvectors(3), leco.VectorCodebook(2)),
    "hashed": (leco.Vector(), leco.Hashed(10)),
    "entropy": (leco.Vector(), leco.EntropyCodebook(1e-5, 4)),
    "entropy, rows": (leco.Rows(), leco.EntropyCodebook(1e-6, 4)),
    "entropy, all 0": (leco.Vector(), leco.EntropyCodebook(1e3)),
    "entropy, no 0": (leco.Vector(), leco.EntropyCodebook(1e-5, 4, zero=False)),
    "entropy, matrix": (leco.Matrix(), leco.EntropyMatrix(1e-5, 4)),
    "l1 ball": (leco.Vector(), leco.L1Ball(1.0)),
    "l0": (leco.Vector(), leco.L0Penalty(0.01)),
    "l1": (leco.Vector(), leco.L1Penalty(0.1)),
    "groups": (leco.Rows(), leco.GroupTopK(4)),
    "groups, l0": (leco.Groups(3), leco.GroupL0Penalty(0.03)),
    "groups, l1": (leco.Tiles(3, 3), leco.GroupL1Penalty(0.2)),
    "2:4": (leco.Rows(), leco.NM(2, 4)),
    "kernel": (KERNEL, leco.ConvRankSelection(0.01)),
    "tucker-2": (KERNEL, leco.Tucker2((2, 2))),
    "tucker": (KERNEL, leco.Tucker((2, 2, 3, 2))),
    "tucker ranks": (KERNEL, leco.TuckerSelection(0.01)),
    "cp": (KERNEL, leco.CP(2)),
    "train": (KERNEL, leco.TensorTrain((2, 3, 2))),
    "sum": (
        leco.Vector(),
        leco.Additive([(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(5))]),
    ),
    "sum with low rank": (
        leco.Matrix(),
        leco.Additive([(leco.Matrix(), leco.LowRank(1)), (leco.Rows(), leco.Ternary())]),
    ),
    "quantized kept weights": (leco.Vector(), leco.Compose(leco.TopK(0.3), leco.Codebook(4))),
    "quantized factors": (
        leco.Matrix(),
        leco.Compose(leco.LowRank(2), leco.Uniform(4), leco.Rows()),
    ),
    "budget": (
        leco.Blocks(),
        leco.Budget((leco.Part(leco.Matrix(), leco.RankSelection(0), (0,), 4),), 200),
    ),
    "choice": (
        leco.Blocks(),
        leco.Choice(1e-6, [(leco.Vector(), leco.Codebook(4)), (leco.Rows(), leco.Ternary())]),
    ),
    "choice of none": (
        leco.Kernel(),
        leco.Choice(0, [(leco.Vector(), leco.Codebook(4)), (leco.Kernel(), leco.Uncompressed())]),
    ),
    "uncompressed": (leco.Vector(), leco.Uncompressed()),
}


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
    members = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    return [node for member in members for node in nodes(member)]


class Place(NamedTuple):
    """Where the bytes of a tensor are in a file."""

    node: dict[str, Any]
    start: int
    length: int


def places(path: Path) -> tuple[dict[str, Any], list[Place]]:
    """The description of a file that is not damaged, and where its tensors are, from the format's
    definition."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = {
        name: [8 + length + at for at in entry["data_offsets"]]
        for name, entry in json.loads(data[8 : 8 + length]).items()
    }
    at, end = entries["leco.2"]
    (length,) = struct.unpack("<I", data[at : at + 4])
    description = json.loads(
        zlib.decompressobj(wbits=-15, zdict=WORDS).decompress(data[at + 4 : at + 4 + length])
    )
    tensors = [
        *nodes([task["theta"] for task in description["tasks"].values()]),
        *nodes(description["rest"]),
    ]
    at += 4 + length + 4 * (1 + len(tensors))
    found = []
    for node in tensors:
        _, _, where, *coding = node["t"]
        start, stop = (at, at + where) if coding else entries[where]
        at += where if coding else 0
        found.append(Place(node, start, stop - start))
    assert at == end
    return description, found


def take_apart(path: Path) -> Parts:
    """A file that is not damaged."""
    description, found = places(path)
    data = path.read_bytes()
    payloads = []
    for node, start, length in found:
        payload = torch.frombuffer(
            bytearray(data[start : start + length]) or bytearray(1), dtype=torch.uint8
        )[:length]
        dtype, shape, entry = node["t"][:3]
        own = len(node["t"]) == 3
        payloads.append(
            Payload(payload.view(DTYPES[dtype]).view(shape), entry) if own else Payload(payload)
        )
    return Parts(description, payloads)


def random_floats(*shape: int) -> torch.Tensor:
    """Of random bits: no coding makes them shorter."""
    return (
        torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)
        .view(torch.float32)
        .nan_to_num(0, 1, -1)
    )


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
    """Tasks whose tensors are coded in every way. `large` holds random bits, which no coding makes
    shorter."""
    torch.manual_seed(seed)
    net = Net()
    net.large.copy_(random_floats(1100))
    with torch.no_grad():
        net.b.weight[20:] *= 0.01
    kept = leco.Additive([(leco.Matrix(), leco.LowRank(1)), (leco.Rows(), leco.Ternary())])
    tasks = {
        "embed": leco.Task("embed.weight", leco.Groups(6), leco.Ternary()),
        "conv": leco.Task("conv.weight", leco.Kernel(), leco.ConvRankSelection(0.002)),
        "a": leco.Task("a.weight", leco.Matrix(), kept),
        "b": leco.Task("b.weight", leco.Matrix(), leco.EntropyMatrix(1e-3, 4)),
        "biases": leco.Task(
            ("a.bias", "b.bias"), leco.Vector(), leco.Compose(leco.TopK(5), leco.Codebook(2))
        ),
    }
    lc = leco.LC(net, tasks)
    lc.mu = 0.5
    return net, lc


def mutated(description: Any, rng: random.Random) -> Any:
    """A description with one to three of its nodes replaced, removed, doubled or exchanged."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = holders(description)
        holder, key = rng.choice(found)
        what = rng.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1:
            other, place = rng.choice(found)
            holder[key] = _copy(other[place])
        elif what == 2 and isinstance(holder, list):
            holder.insert(key, _copy(holder[key]))
        elif what == 3 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += rng.choice((-1, 1, 2, 8, 255, 2**20, -(2**31)))
        else:
            holder[key] = rng.choice(ODD)()
    return description


def fitted(description: Any, payloads: list[Payload]) -> list[Payload]:
    """Payloads of the lengths that a mutated description claims, cut or filled with zeros, so that
    decoding is reached."""
    found, rest = [], list(payloads)
    tasks, others = (
        description.get(part) if isinstance(description, dict) else None
        for part in ("tasks", "rest")
    )
    thetas = (
        [task.get("theta") for task in tasks.values() if isinstance(task, dict)]
        if isinstance(tasks, dict)
        else []
    )
    for node in [*nodes(thetas), *nodes(others)]:
        given = rest.pop(0) if rest else Payload(torch.zeros(0, dtype=torch.uint8))
        length = node["t"][2] if isinstance(node["t"], list) and len(node["t"]) == 4 else 0
        if not given.entry and isinstance(length, int) and 0 <= length < 2**20:
            given = Payload(
                torch.cat(
                    [
                        given.data[:length],
                        torch.zeros(max(0, length - len(given.data)), dtype=torch.uint8),
                    ]
                )
            )
        found.append(given)
    return found


ODD = [
    *(
        lambda value=value: value
        for value in (
            0,
            1,
            2,
            7,
            -1,
            10**15,
            2**63 - 1,
            -(2**63),
            True,
            False,
            None,
            0.5,
            -1.5,
            1e300,
            "",
            "Sum",
            "raw",
            "a.v",
        )
    ),
    *(
        lambda value=value: _copy(value)
        for value in (
            [],
            [[]],
            {},
            [10**9, 10**9],
            [0, 10**15],
            {"t": ["uint8", [10**15], 0, {"name": "digits", "base": 1}]},
        )
    ),
    lambda: {"Dense": [{"t": ["float32", [2**40], 4, {"name": "raw"}]}]},
    lambda: {"HashedValues": [{"t": ["float32", [1], 4, {"name": "raw"}]}, 10**15, 0]},
    lambda: {"v": ["Reshape", {"sizes": [2**31, 2**31]}]},
]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(member) for name, member in value.items()}
    return [_copy(member) for member in value] if isinstance(value, list) else value


def holders(value: Any) -> list[tuple[Any, Any]]:
    """All (holder, key) of a nested value."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    return [place for key in keys for place in ((value, key), *holders(value[key]))]


def risen(function: Callable[[], Any]) -> int:
    """How far the process's resident memory rises above its start while the function runs, in bytes
    (Linux)."""

    def status(key: str) -> int:
        return next(
            1024 * int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(key + ":")
        )

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    function()
    return status("VmHWM") - before

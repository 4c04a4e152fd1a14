"""Files damaged at random: bytes, descriptions and payloads, most with right checksums.

flips       one to eight bytes changed anywhere
cuts        the end, the start or a run of bytes missing
splices     the start of one file and the end of another
resigned    bytes of the payloads changed, with right checksums
mutated     nodes of the description replaced, removed, doubled or exchanged, likewise
fitted      the same, and the payloads cut or filled up to the lengths that are claimed then
text        bytes of the description's JSON changed, with right checksums
random      bytes of the deflated description changed, with the right checksum
"""

import json
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import leco
from leco.files.container import WORDS

# whose small files and mutations these are
sys.path.append(str(Path(__file__).parents[2] / "tests"))
import tampering

State = dict[str, torch.Tensor]
MEMORY = "/dev/shm" if Path("/dev/shm").exists() else None  # a write need not wait for a disk


class Seed(NamedTuple):
    """A file, its parts, its net, and what it loads to."""

    data: bytes
    parts: tampering.Parts
    architecture: Callable[[], nn.Module]
    right: State


def state(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def every_form() -> nn.Module:
    return nn.ModuleList(nn.Linear(12, 9) for _ in tampering.COMPRESSIONS)


def larger() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


def seeds(folder: Path) -> list[Seed]:
    """Two small files and a larger one, which have every form and coding."""
    torch.manual_seed(0)
    named = enumerate(tampering.COMPRESSIONS.items())
    tasks = {name: leco.Task(f"{n}.weight", *how) for n, (name, how) in named}
    net: Any = larger()
    with torch.no_grad():
        net[0].weight[:, ::3] = 0
    two = {
        "0": leco.Task("0.weight", leco.Matrix(), leco.EntropyMatrix(1e-6, 8)),
        "2": leco.Task("2.weight", leco.Vector(), leco.Codebook(4)),
    }
    problems = {
        tampering.Net: tampering.problem()[1],
        every_form: leco.LC(every_form(), tasks),
        larger: leco.LC(net, two),
    }
    found = []
    for architecture, lc in problems.items():
        if not lc.thetas:
            lc.mu = 1.0
        path = folder / "seed"
        leco.save(path, lc)
        right = state(leco.load(path, architecture()))
        found.append(Seed(path.read_bytes(), tampering.take_apart(path), architecture, right))
    return found


def changed(data: bytes, rng: random.Random, most: int) -> bytes:
    """One to `most` bytes changed: a bit flipped, or the byte replaced."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most) if out else 0):
        at, flip = rng.randrange(len(out)), rng.random() < 0.5
        other = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        out[at] = out[at] ^ 1 << rng.randrange(8) if flip else other
    return bytes(out)


def flips(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    return changed(seed.data, rng, 8)


def cuts(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    data = seed.data
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    without = data[:start] + data[stop:]
    return rng.choice((data[:start], data[start:], without, data + data[start:stop]))


def splices(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    at = rng.randrange(len(seed.data))
    place = at if rng.random() < 0.5 else rng.randrange(len(other.data))
    return seed.data[:at] + other.data[place:]


def signed(description: Any, payloads: list[Any]) -> bytes:
    """The file with right checksums."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "signed"
        tampering.Parts(description, payloads).write(path)
        return path.read_bytes()


def resigned(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    payloads = list(seed.parts.payloads)
    full = [n for n, payload in enumerate(payloads) if payload.data.numel()]
    for _ in range(rng.randint(1, 3)):
        number = rng.choice(full)
        data = payloads[number].data
        raw = changed(data.reshape(-1).view(torch.uint8).numpy().tobytes(), rng, 4)
        flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        payloads[number] = payloads[number]._replace(data=flat.view(data.dtype).view(data.shape))
    return signed(seed.parts.description, payloads)


def copied(seed: Seed) -> Any:
    return json.loads(json.dumps(seed.parts.description))


def mutated(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    return signed(tampering.mutated(copied(seed), rng), seed.parts.payloads)


def fitted(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    description = tampering.mutated(copied(seed), rng)
    return signed(description, tampering.fitted(description, seed.parts.payloads))


def with_head(seed: Seed, packed: bytes) -> bytes:
    """The file with another deflated description, with the right checksum and header."""
    (header,) = struct.unpack("<Q", seed.data[:8])
    entries = json.loads(seed.data[8 : 8 + header])
    at = 8 + header + entries["leco.2"]["data_offsets"][0]
    (length,) = struct.unpack("<I", seed.data[at : at + 4])
    head = struct.pack("<I", len(packed)) + packed
    longer = len(head) - 4 - length
    start = entries["leco.2"]["data_offsets"][0]
    for entry in entries.values():
        entry["data_offsets"] = [
            offset + longer * (offset > start) for offset in entry["data_offsets"]
        ]
    entries["leco.2"]["shape"] = [entries["leco.2"]["data_offsets"][1] - start]
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    checksum = struct.pack("<I", zlib.crc32(head))
    body = seed.data[8 + header : at] + head + checksum + seed.data[at + 8 + length :]
    return struct.pack("<Q", len(text)) + text + body


def deflated(text: bytes) -> bytes:
    engine = zlib.compressobj(9, wbits=-15, zdict=WORDS)
    return engine.compress(text) + engine.flush()


def text(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    description = json.dumps(seed.parts.description, separators=(",", ":")).encode()
    return with_head(seed, deflated(changed(description, rng, 3)))


def scrambled(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    return with_head(seed, changed(deflated(json.dumps(seed.parts.description).encode()), rng, 4))


KINDS: dict[str, Callable[[Seed, Seed, random.Random], bytes]] = {
    "flips": flips,
    "cuts": cuts,
    "splices": splices,
    "resigned": resigned,
    "mutated": mutated,
    "fitted": fitted,
    "text": text,
    "random": scrambled,
}
SIGNED = ("resigned", "mutated", "fitted", "text", "random")

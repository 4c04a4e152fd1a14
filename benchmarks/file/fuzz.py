"""Reading of damaged and hostile files, as many as there is time for: each must be refused with a
ValueError or load without doing harm.

    python benchmarks/fuzz.py [--seconds 300] [--record]

Kinds of input, in turn, from two small files and a larger one that have every form and coding:

    flips       one to eight bytes changed anywhere
    cuts        the end, the start or a run of bytes missing
    splices     the start of one file and the end of another
    resigned    bytes of the payloads changed, with right checksums
    mutated     nodes of the description replaced, removed, doubled or exchanged, with right
                checksums
    fitted      likewise, and the payloads cut or filled up to the lengths that the description
                claims then
    text        bytes of the description's JSON changed, with right checksums
    random      bytes of the deflated description changed, with the right checksum

A failure is any other exception; a model that a refused file has changed; a file without right
checksums that loads other weights; other shapes; more memory than 64 MB and twice the model's and
the file's; more than 2 seconds. The first of each is shown, and its file kept.
"""

import argparse
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import leco
from leco.files.container import WORDS
from leco.files.inventory import streams

# whose small files and mutations these are
sys.path.append(str(Path(__file__).parents[1] / "tests"))
import tampering

SECONDS, MEMORY = 2.0, 64 * 2**20
WEIGHTS = (8, 1, 1)  # of the files: the small one is read fastest


State = dict[str, torch.Tensor]


class Seed(NamedTuple):
    """A file, its net, and what it loads to."""

    data: bytes
    parts: tampering.Parts
    architecture: Callable[[], nn.Module]
    right: State


def state(model: nn.Module) -> State:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: State, other: State) -> bool:
    """To the bit: NaN equals itself."""
    return all(
        torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def every_form() -> nn.Module:
    return nn.ModuleList(nn.Linear(12, 9) for _ in tampering.COMPRESSIONS)


def larger() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


def seeds(folder: Path) -> list[Seed]:
    torch.manual_seed(0)
    tasks = {
        name: leco.Task(f"{n}.weight", *how)
        for n, (name, how) in enumerate(tampering.COMPRESSIONS.items())
    }
    problems = [tampering.problem()[1], leco.LC(every_form(), tasks)]
    net: Any = larger()
    with torch.no_grad():
        net[0].weight[:, ::3] = 0
    both = leco.EntropyMatrix(1e-6, 8), leco.Codebook(4)
    problems.append(
        leco.LC(
            net,
            {
                "0": leco.Task("0.weight", leco.Matrix(), both[0]),
                "2": leco.Task("2.weight", leco.Vector(), both[1]),
            },
        )
    )
    found = []
    for lc, architecture in zip(problems, (tampering.Net, every_form, larger), strict=True):
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
        at = rng.randrange(len(out))
        out[at] = (
            out[at] ^ 1 << rng.randrange(8)
            if rng.random() < 0.5
            else rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        )
    return bytes(out)


def flips(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    return changed(seed.data, rng, 8)


def cuts(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(seed.data) + 1) for _ in range(2))
    return rng.choice(
        (
            seed.data[:start],
            seed.data[start:],
            seed.data[:start] + seed.data[stop:],
            seed.data + seed.data[start:stop],
        )
    )


def splices(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    at = rng.randrange(len(seed.data))
    return (
        seed.data[:at] + other.data[at if rng.random() < 0.5 else rng.randrange(len(other.data)) :]
    )


def signed(description: Any, payloads: list[Any], path: Path) -> bytes:
    tampering.Parts(description, payloads).write(path)
    return path.read_bytes()


def resigned(seed: Seed, other: Seed, rng: random.Random, path: Path) -> bytes:
    payloads = list(seed.parts.payloads)
    for _ in range(rng.randint(1, 3)):
        number = rng.choice([n for n, payload in enumerate(payloads) if payload.data.numel()])
        data = payloads[number].data
        raw = changed(data.reshape(-1).view(torch.uint8).numpy().tobytes(), rng, 4)
        payloads[number] = payloads[number]._replace(
            data=torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            .view(data.dtype)
            .view(data.shape)
        )
    return signed(seed.parts.description, payloads, path)


def mutated(seed: Seed, other: Seed, rng: random.Random, path: Path) -> bytes:
    description = json.loads(json.dumps(seed.parts.description))
    return signed(tampering.mutated(description, rng), seed.parts.payloads, path)


def fitted(seed: Seed, other: Seed, rng: random.Random, path: Path) -> bytes:
    description = tampering.mutated(json.loads(json.dumps(seed.parts.description)), rng)
    return signed(description, tampering.fitted(description, seed.parts.payloads), path)


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
    body = (
        seed.data[8 + header : at]
        + head
        + struct.pack("<I", zlib.crc32(head))
        + seed.data[at + 8 + length :]
    )
    return struct.pack("<Q", len(text)) + text + body


def deflated(text: bytes) -> bytes:
    engine = zlib.compressobj(9, wbits=-15, zdict=WORDS)
    return engine.compress(text) + engine.flush()


def text(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    return with_head(
        seed,
        deflated(
            changed(json.dumps(seed.parts.description, separators=(",", ":")).encode(), rng, 3)
        ),
    )


def scrambled(seed: Seed, other: Seed, rng: random.Random) -> bytes:
    return with_head(seed, changed(deflated(json.dumps(seed.parts.description).encode()), rng, 4))


KINDS: dict[str, Callable[..., bytes]] = {
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


class Outcome(NamedTuple):
    name: str  # "refused", "loaded", "the same", or what failed
    seconds: float
    memory: int


def tried(path: Path, seed: Seed, model: nn.Module, is_signed: bool) -> Outcome:
    """Read a file in all ways. With the longest time and the most memory that one of them took."""
    before, names, seconds, memory = state(model), [], 0.0, 0
    for read in (lambda: leco.load(path, model), lambda: leco.thetas(path), lambda: streams(path)):
        start = time.perf_counter()
        memory = max(memory, common.peak_bytes(lambda read=read: names.append(result_of(read))))
        seconds = max(seconds, time.perf_counter() - start)
    return Outcome(
        verdict(
            names,
            before,
            state(model),
            seed,
            is_signed,
            seconds,
            memory - 2 * (len(seed.data) + leco.dense_bytes(model)),
        ),
        seconds,
        memory,
    )


def result_of(read: Callable[[], Any]) -> str:
    try:
        read()
    except ValueError:
        return "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of native code is no Exception
        return f"{type(error).__name__}: {error}"[:200]
    return "loaded"


def verdict(
    names: list[str],
    before: State,
    after: State,
    seed: Seed,
    is_signed: bool,
    seconds: float,
    memory: int,
) -> str:
    broken = [name for name in names if name not in ("refused", "loaded")]
    if broken:
        return broken[0]
    if seconds > SECONDS:
        return "slow"
    if memory > MEMORY:
        return "memory"
    if names[0] == "refused":
        return "refused" if same(before, after) else "a refused file changed the model"
    if any(after[name].shape != value.shape for name, value in before.items()):
        return "other shapes"
    if is_signed:
        return "loaded"
    return "the same" if same(after, seed.right) else "a damaged file loaded other weights"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-failures"), help="where the files of failures go"
    )
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/fuzz.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    slowest, largest = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    # where a write need not wait for a disk
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").exists() else None
    ) as folder:
        path = Path(folder) / "m"
        started = seeds(Path(folder))
        models = [seed.architecture() for seed in started]
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            for kind, make in KINDS.items():
                which = rng.choices(range(len(started)), WEIGHTS)[0]
                seed, other = started[which], rng.choice(started)
                made = (
                    make(seed, other, rng, path)
                    if make in (resigned, mutated, fitted)
                    else make(seed, other, rng)
                )
                path.unlink(missing_ok=True)
                path.write_bytes(made)
                found = tried(path, seed, models[which], kind in SIGNED)
                if found.name not in ("refused", "loaded", "the same"):
                    args.keep.mkdir(exist_ok=True)
                    shutil.copy(path, args.keep / f"{kind}-{sum(counts[kind].values())}")
                    if not counts[kind][found.name]:
                        print(f"{kind}-{sum(counts[kind].values())}: {found.name}", flush=True)
                counts[kind][found.name] += 1
                slowest[kind], largest[kind] = (
                    max(slowest[kind], found.seconds),
                    max(largest[kind], found.memory),
                )
    rows = [
        {
            "kind": kind,
            "inputs": sum(counts[kind].values()),
            **{
                name.replace(" ", "_"): counts[kind].pop(name, 0)
                for name in ("refused", "loaded", "the same")
            },
            "failures": dict(counts[kind]),
            "slowest_seconds": slowest[kind],
            "largest_bytes": largest[kind],
        }
        for kind in KINDS
    ]
    table = Table(
        "kind", "inputs", "refused", "loaded", "the same", "failures", "slowest, s", "memory, MB"
    )
    for row in rows:
        numbers = [str(row[name]) for name in ("inputs", "refused", "loaded", "the_same")]
        table.add_row(
            row["kind"],
            *numbers,
            str(sum(row["failures"].values())),
            f"{row['slowest_seconds']:.3f}",
            f"{row['largest_bytes'] / 2**20:.1f}",
        )
    Console(width=120).print(table)
    if args.record:
        sizes = [
            {"file_bytes": len(seed.data), "dense_bytes": leco.dense_bytes(model)}
            for seed, model in zip(started, models, strict=True)
        ]
        common.record("fuzz", rows, files=sizes, seconds=args.seconds, seed=args.seed)
    if any(row["failures"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

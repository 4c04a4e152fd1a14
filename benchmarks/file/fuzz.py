"""Read damaged and hostile files, as many as there is time for.

    python -m benchmarks.file.fuzz [--seconds 300] [--record]

The kinds of damage are in benchmarks/file/damage.py. Each file must be refused with a ValueError,
or load without doing harm. A failure is any other exception; a model that a refused file has
changed; a file without right checksums that loads other weights; other shapes; more memory than
64 MB and twice the model's and the file's; more than 2 seconds. The first of each is shown, and its
file kept.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import leco
from benchmarks import records, timing
from benchmarks.file.damage import KINDS, MEMORY, SIGNED, Seed, State, seeds, state
from leco.files.inventory import streams

SECONDS, BYTES = 2.0, 64 * 2**20
WEIGHTS = (8, 1, 1)  # of the files: the small one is read fastest
HARMLESS = ("refused", "loaded", "the same")


def same(one: State, other: State) -> bool:
    """To the bit: NaN equals itself."""
    return all(
        torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


class Outcome(NamedTuple):
    name: str
    """What is harmless, or what failed."""
    seconds: float
    memory: int


def tried(path: Path, seed: Seed, model: nn.Module, signed: bool) -> Outcome:
    """Read a file in all ways, with the longest time and the most memory that one of them took."""
    before, names, seconds, memory = state(model), [], 0.0, 0
    for read in (lambda: leco.load(path, model), lambda: leco.thetas(path), lambda: streams(path)):
        start = time.perf_counter()
        used = timing.peak_bytes(lambda read=read: names.append(result_of(read)))
        memory, seconds = max(memory, used), max(seconds, time.perf_counter() - start)
    over = memory - 2 * (len(seed.data) + leco.dense_bytes(model)) - BYTES
    broken = [name for name in names if name not in HARMLESS]
    if broken:
        name = broken[0]
    elif seconds > SECONDS or over > 0:
        name = "slow" if seconds > SECONDS else "memory"
    else:
        name = verdict(names[0], before, state(model), seed, signed)
    return Outcome(name, seconds, memory)


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


def verdict(name: str, before: State, after: State, seed: Seed, signed: bool) -> str:
    """Whether the model is as it was, or has the right weights or at least the right shapes."""
    if name == "refused":
        return "refused" if same(before, after) else "a refused file changed the model"
    if any(after[key].shape != value.shape for key, value in before.items()):
        return "other shapes"
    if signed:
        return "loaded"
    return "the same" if same(after, seed.right) else "a damaged file loaded other weights"


class Fuzz:
    """Damaged files of every kind in turn, and what came of them."""

    def __init__(self, folder: Path, seed: int, keep: Path):
        self.path, self.keep, self.rng = folder / "m", keep, random.Random(seed)
        self.seeds = seeds(folder)
        self.models = [seed.architecture() for seed in self.seeds]
        self.outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.slowest, self.largest = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)

    def once(self, kind: str) -> None:
        which = self.rng.choices(range(len(self.seeds)), WEIGHTS)[0]
        seed, other = self.seeds[which], self.rng.choice(self.seeds)
        data = KINDS[kind](seed, other, self.rng)
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(data)
        found = tried(self.path, seed, self.models[which], kind in SIGNED)
        counts = self.outcomes[kind]
        if found.name not in HARMLESS:
            self.keep.mkdir(exist_ok=True)
            kept = self.keep / f"{kind}-{counts.total()}"
            shutil.copy(self.path, kept)
            if not counts[found.name]:
                print(f"{kept.name}: {found.name}", flush=True)
        counts[found.name] += 1
        self.slowest[kind] = max(self.slowest[kind], found.seconds)
        self.largest[kind] = max(self.largest[kind], found.memory)

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for kind, counts in self.outcomes.items():
            row = {"kind": kind, "inputs": counts.total()}
            row |= {name.replace(" ", "_"): counts[name] for name in HARMLESS}
            row["failures"] = {n: count for n, count in counts.items() if n not in HARMLESS}
            row |= {"slowest_seconds": self.slowest[kind], "largest_bytes": self.largest[kind]}
            found.append(row)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, kept = parser.add_argument, Path("fuzz-failures")
    add("--seconds", type=float, default=60)
    add("--seed", type=int, default=0)
    add("--keep", type=Path, default=kept, help="where the files of failures go")
    add("--record", action="store_true", help="add a line to results/file.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        fuzz = Fuzz(Path(folder), args.seed, args.keep)
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            for kind in KINDS:
                fuzz.once(kind)
    rows = fuzz.rows()
    failures = [sum(row["failures"].values()) for row in rows]
    records.show(
        "damaged files", [r | {"failures": n} for r, n in zip(rows, failures, strict=True)]
    )
    if args.record:
        pairs = zip(fuzz.seeds, fuzz.models, strict=True)
        sizes = [{"file_bytes": len(s.data), "dense_bytes": leco.dense_bytes(m)} for s, m in pairs]
        records.append("file", "fuzz", rows=rows, files=sizes, seconds=args.seconds, seed=args.seed)
    raise SystemExit(any(failures))


if __name__ == "__main__":
    main()

"""A net that each method compresses in each format: the cells, their cache and their records."""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from benchmarks import records
from benchmarks.layerwise import methods
from benchmarks.layerwise.rows import Row
from benchmarks.layerwise.smollm2 import CACHE
from benchmarks.layerwise.stream import Batch
from leco.atomic import atomically

NAME = "layerwise"
Found = dict[str, Any]


class Subject(NamedTuple):
    """A net with its formats, its inputs and its judge.

    Args:
        kind: of its records in results/layerwise.jsonl.
        rows: the formats.
        net: a new copy of the net.
        blocks: of a net, in order, that a row compresses.
        batches: so many batches of named arguments, for calibration.
        judged: what is measured of a compressed net. It may calibrate batch norms.
    """

    kind: str
    rows: Mapping[str, Row]
    net: Callable[[], nn.Module]
    blocks: Callable[[Any, str], Sequence[nn.Module]]
    batches: Callable[[int], list[Batch]]
    judged: Callable[[nn.Module], dict[str, float]]

    def run(self, row: str, method: str, count: int, folder: Path | None) -> Found:
        """The cell of a row and a method with `count` batches.

        Args:
            folder: for checkpoints and for the table of sensitivities.
        """
        net, own = self.net(), self.rows[row]
        blocks, batches = self.blocks(net, row), self.batches(count)
        table = folder and folder / f"{self.kind}, {count}.json"
        kept = folder and folder / f"{self.kind}, {row}, {method}, {count}"
        shapes = [(len(p), p[0].numel()) for p in methods.matrices(net, blocks).values()]
        found = methods.run_(net, blocks, own, method, batches, kept, table)
        found = {**found, "bytes": sum(own.bits(shape) for shape in shapes) / 8}
        if own.mixed is not None:  # whose formats have no size but that in the file
            found.pop("bytes")
        if kept is not None:
            shutil.rmtree(kept, ignore_errors=True)
        return {**found, **self.judged(net)}


def cells(subject: Subject, args: argparse.Namespace) -> None:
    """Run the cells, and record each row once all its methods are there.

    With --record a cell that was run before comes from the user's cache, and one that is recorded
    is passed over.
    """
    folder = CACHE / "layerwise" if args.record else None
    done = {
        (run["row"], run["batches"], cell["method"])
        for run in records.read(NAME, subject.kind)
        for cell in run["cells"]
    }
    for row in args.rows:
        wanted = [m for m in args.methods if m in methods.of(subject.rows[row])]
        wanted = [m for m in wanted if not args.record or (row, args.batches, m) not in done]
        found = [_cell(subject, row, method, args.batches, folder) for method in wanted]
        if found and args.record:
            records.append(NAME, subject.kind, row=row, batches=args.batches, cells=found)


def _cell(subject: Subject, row: str, method: str, count: int, folder: Path | None) -> Found:
    """A cell of a record, from the cache where it is there."""
    kept = folder and folder / f"{subject.kind}, {row}, {method}, {count}.cell"
    if kept is not None and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    found = {"method": method, **rounded(subject.run(row, method, count, folder))}
    records.show(f"{subject.kind}, {row}, {method}", [found])
    if kept is not None:
        text = json.dumps(found)

        def write(path: str) -> None:
            Path(path).write_text(text, encoding="utf-8")

        kept.parent.mkdir(parents=True, exist_ok=True)
        atomically(kept, write)
    return found


def rounded(found: Found) -> Found:
    """Numbers to five digits, sizes and memory in whole bytes, the mean of the layers' errors."""
    errors = found.pop("errors").values()
    found = {**found, "error": sum(errors) / len(errors)} if errors else found
    lists = {key: found.pop(key) for key in [*found] if isinstance(found[key], list)}
    return lists | {
        key: round(value) if key.endswith("bytes") else float(f"{value:.5g}")
        for key, value in found.items()
    }


def parser(text: str | None, rows: Mapping[str, Row], batches: int) -> argparse.ArgumentParser:
    """Of a script's arguments."""
    found = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--data", type=Path, required=True, help="the folder that has the data")
    add("--rows", nargs="+", choices=rows, default=[*rows], metavar="ROW")
    add("--methods", nargs="+", required=True)
    add("--batches", type=int, default=batches, help="for calibration")
    add("--threads", type=int, default=1)
    add("--record", action="store_true", help="add a line a row to results/layerwise.jsonl")
    return found

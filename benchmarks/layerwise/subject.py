"""A net that each method compresses in each format: the cells and their records."""

import argparse
import itertools
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

NAME = "layerwise"
FOLDER = CACHE / "layerwise"
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

    def run(
        self, row: str, method: str, count: int, kept: Path | None = None, table: Path | None = None
    ) -> Found:
        """The cell of a row and a method with `count` batches.

        Args:
            kept: a folder for checkpoints.
            table: a file for the sensitivities of all matrices.
        """
        net, own = self.net(), self.rows[row]
        blocks, batches = self.blocks(net, row), self.batches(count)
        shapes = [(len(p), p[0].numel()) for p in methods.matrices(net, blocks).values()]
        found = methods.run_(net, blocks, own, method, batches, kept, table)
        if own.mixed is None:  # else the formats have no size but that in the file
            found["bytes"] = sum(own.bits(shape) for shape in shapes) / 8
        return {**found, **self.judged(net)}


def cells(subject: Subject, args: argparse.Namespace) -> None:
    """Run the cells. With --record each is recorded, one that is recorded is passed over, and one
    that was cut off goes on from its checkpoints in the user's cache."""
    kind, count = subject.kind, args.batches
    done = {(run["row"], run["method"], run["batches"]) for run in records.read(NAME, kind)}
    for row, method in itertools.product(args.rows, args.methods):
        recorded = args.record and (row, method, count) in done
        if recorded or method not in methods.of(subject.rows[row]):
            continue
        kept = FOLDER / f"{kind}, {row}, {method}, {count}" if args.record else None
        table = FOLDER / f"{kind}, {count}.json" if args.record else None
        found = rounded(subject.run(row, method, count, kept, table))
        records.show(f"{kind}, {row}, {method}", [found])
        if kept is not None:
            records.append(NAME, kind, row=row, method=method, batches=count, **found)
            shutil.rmtree(kept, ignore_errors=True)


def rounded(found: Found) -> Found:
    """Numbers to five digits, sizes and memory in whole bytes, the mean of the layers' errors."""
    errors = found.pop("errors").values()
    found = {**found, "error": sum(errors) / len(errors)} if errors else found
    return {
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
    add("--record", action="store_true", help="add a line a cell to results/layerwise.jsonl")
    return found

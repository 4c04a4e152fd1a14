"""Compress a language model without training by each method in each format, and judge it.

    python -m benchmarks.layerwise --data FOLDER --rows "3 bits" "2:4" --methods GPTQ SparseGPT \\
        --record

FOLDER has wikitext-2/valid.txt.xz, which calibrates, and test.txt.xz, which judges. A cell is a row
with a method and a number of calibration sequences. With --record a cell that is recorded already
is not run again, and LC goes on where it was cut off, from a checkpoint in the user's cache.
Methods that a row does not have are passed over.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import records
from benchmarks.layerwise import methods, smollm2
from benchmarks.layerwise.rows import ROWS, Row

NAME, KIND = "layerwise", "cell"
Found = dict[str, Any]
KEYS = ("model", "row", "method", "sequences")  # what makes a cell
FEW = 16  # test sequences of the second perplexity


def bits(net: Any, row: Row) -> float:
    """Of all compressed matrices in the row's format."""
    weights = methods.matrices(net, net.model.layers).values()
    return sum(row.bits((len(p), p[0].numel())) for p in weights)


def run_(net: Any, row: Row, method: str, calibration: Tensor, kept: Path | None) -> Found:
    """Compress the net in the format of a row; the seconds, errors and memory.

    LC keeps its checkpoint in the folder `kept`, and beside it the table of sensitivities that all
    budgets of as many sequences read.
    """
    table = kept and kept.with_name(f"smollm2-135m, {len(calibration)}.json")
    batches = smollm2.batches(calibration)
    found = methods.run_(net, list(net.model.layers), row, method, batches, kept, table)
    return {**found, "bytes": bits(net, row) / 8}


def judged(net: Any, test: Tensor) -> dict[str, float]:
    """Perplexity on all test sequences and on the first few."""
    losses = smollm2.losses(net, test)
    return {
        "perplexity": smollm2.perplexity(losses),
        "perplexity_16": smollm2.perplexity(losses[:FEW]),
    }


def folder(cell: dict[str, Any]) -> Path:
    """Of a cell's checkpoint."""
    return smollm2.CACHE / "layerwise" / ", ".join(map(str, cell.values()))


def done() -> set[tuple[Any, ...]]:
    """The cells that are recorded."""
    return {tuple(run[key] for key in KEYS) for run in records.read(NAME, KIND)}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    recorded = done() if args.record else set()
    test = smollm2.tokens(args.data, "test", args.test)
    for name in args.rows:
        for method in args.methods:
            values = "smollm2-135m", name, method, args.sequences
            cell: Found = dict(zip(KEYS, values, strict=True))
            if method not in methods.of(ROWS[name]) or tuple(cell.values()) in recorded:
                continue
            net = smollm2.model()
            calibration = smollm2.tokens(args.data, "valid", args.sequences)
            kept = folder(cell) if args.record else None
            found = run_(net, ROWS[name], method, calibration, kept)
            found |= judged(net, test)
            records.show(f"{name}, {method}", [found])
            if args.record:
                records.append(NAME, KIND, **cell, test=args.test, **found)
                shutil.rmtree(folder(cell), ignore_errors=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the folder that has wikitext-2")
    add("--rows", nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW")
    add("--methods", nargs="+", required=True)
    add("--sequences", type=int, default=32, help="of 512 tokens, for calibration")
    add("--test", type=int, default=32, help="sequences that judge")
    add("--threads", type=int, default=1)
    add("--record", action="store_true", help="add a line to results/layerwise.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()

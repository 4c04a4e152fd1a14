"""Compress SmolLM2-135M without training by each method in each format, and judge it.

    python -m benchmarks.layerwise --data FOLDER --rows "3 bits" "2:4" --methods GPTQ SparseGPT \\
        --record

FOLDER has wikitext-2/valid.txt.xz, which calibrates, a sequence of 512 tokens a batch, and
test.txt.xz, of which 32 sequences judge. The 210 matrices of the 30 blocks are compressed. With
--record a cell that is recorded already is not run again, and LC goes on where it was cut off.
Methods that a row does not have are passed over.
"""

import argparse
from typing import Any

import torch
from torch import nn

from benchmarks.layerwise import smollm2
from benchmarks.layerwise.rows import ROWS
from benchmarks.layerwise.stream import Batch
from benchmarks.layerwise.subject import Subject, cells, parser

KIND = "smollm2"
JUDGED = 32  # sequences
FEW = 16  # sequences of the second perplexity


def subject(args: argparse.Namespace) -> Subject:
    """SmolLM2, with text of the folder --data."""
    test = smollm2.tokens(args.data, "test", JUDGED)

    def batches(count: int) -> list[Batch]:
        return smollm2.batches(smollm2.tokens(args.data, "valid", count))

    def judged(net: nn.Module) -> dict[str, float]:
        losses = smollm2.losses(net, test)
        return {
            "perplexity": smollm2.perplexity(losses),
            "perplexity_16": smollm2.perplexity(losses[:FEW]),
        }

    return Subject(KIND, ROWS, smollm2.model, blocks, batches, judged)


def blocks(net: Any, row: str) -> list[nn.Module]:
    return list(net.model.layers)


def main() -> None:
    args = parser(__doc__, ROWS, 32).parse_args()
    torch.set_num_threads(args.threads)
    cells(subject(args), args)


if __name__ == "__main__":
    main()

"""Compress all-MiniLM-L6-v2 without training by each method in each format, and judge it.

    python -m benchmarks.layerwise.minilm --data FOLDER --rows "3 bits" "2:4" --methods GPTQ LC \\
        --record

FOLDER has wikitext-2/valid.txt.xz, whose sentences calibrate, 8 a batch, and test.txt.xz. Of 500
sentences of that one the embeddings of the compressed net are compared with those of the dense net.
The 36 matrices of the six blocks are compressed. With --record a cell that was run is not run
again, and LC goes on where it was cut off.
"""

import argparse
from typing import Any

import torch
from torch import nn

from benchmarks import nets
from benchmarks.layerwise.rows import ROWS
from benchmarks.layerwise.stream import Batch
from benchmarks.layerwise.subject import Subject, cells, parser
from benchmarks.trainers import sentences

KIND = "minilm"
SIZE = 8  # sentences of a batch
JUDGED = 500


def subject(args: argparse.Namespace) -> Subject:
    """MiniLM, with sentences of the folder --data."""
    test = sorted(sentences.tokens(args.data, "test")[:JUDGED], key=len)
    dense = sentences.embedded(nets.minilm(), test)

    def batches(count: int) -> list[Batch]:
        return sentences.batches(sentences.tokens(args.data, "valid")[: SIZE * count], SIZE)

    def judged(net: nn.Module) -> dict[str, float]:
        return sentences.likeness(sentences.embedded(net, test), dense)

    return Subject(KIND, ROWS, nets.minilm, blocks, batches, judged)


def blocks(net: Any, row: str) -> list[nn.Module]:
    return list(net.encoder.layer)


def main() -> None:
    args = parser(__doc__, ROWS, 32).parse_args()
    torch.set_num_threads(args.threads)
    cells(subject(args), args)


if __name__ == "__main__":
    main()

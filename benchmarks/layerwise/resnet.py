"""Compress ResNet-20 without training by each method in each format: the test error on CIFAR-10.

    python -m benchmarks.layerwise.resnet --data FOLDER --out FOLDER --rows "3 bits" "2:4" \\
        --methods GPTQ LC --record

`python -m benchmarks.proof.reference` trains the net first, into --out. 512 training images
calibrate, 32 a batch. Grids have a scale, and a zero point, for each output channel. The statistics
of the batch norms are found again for each compressed net, with the 512 images augmented. In 2:4
the first convolution stays as it is, as 4 does not divide its 27 inputs. With --record a cell that
was run is not run again.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leco
from benchmarks import data
from benchmarks.baselines.oneshot_masks import Kept, n_of_m
from benchmarks.layerwise.rows import Row, channels, coded, pruned
from benchmarks.layerwise.stream import Batch
from benchmarks.layerwise.subject import Subject, cells, parser
from benchmarks.proof import training
from benchmarks.proof.__main__ import reference

KIND, NET = "resnet20", "resnet20"
SIZE = 32  # images of a batch
STEM = 3  # modules: a convolution, its batch norm, ReLU
CPU = torch.device("cpu")
ROWS: dict[str, Row] = {
    **{f"{b} bits": channels(b) for b in (4, 3, 2)},
    "ternary": coded(1.6, 1, leco.Rows(), leco.Ternary()),
    "binary": coded(1.0, 1, leco.Rows(), leco.Binary()),
    "2:4": pruned(n_of_m(2, 4)),
    "50 %": pruned(Kept(0.5)),
    "30 %": pruned(Kept(0.3)),
}


def subject(args: argparse.Namespace) -> Subject:
    """ResNet-20 of the folder --out, with images of the folder --data."""
    images = data.load(NET, args.data, CPU)

    def net() -> nn.Module:
        return reference(NET, args.out, 0, CPU)

    def batches(count: int) -> list[Batch]:
        chosen = images.prepare(images.train[0][: SIZE * count])
        return [{"input": part} for part in chosen.split(SIZE)]

    def judged(model: nn.Module) -> dict[str, float]:
        leco.recalibrate_(model, training.calibration(images, SIZE * args.batches, 128))
        return {"test_error": training.evaluate(model, images, images.test)[1]}

    return Subject(KIND, ROWS, net, blocks, batches, judged)


def blocks(net: Any, row: str) -> list[nn.Module]:
    return list(net)[STEM * (row == "2:4") :]


def main() -> None:
    found = parser(__doc__, ROWS, 16)
    found.add_argument("--out", type=Path, default=Path("references"), help="has resnet20.pt")
    args = found.parse_args()
    torch.set_num_threads(args.threads)
    cells(subject(args), args)


if __name__ == "__main__":
    main()

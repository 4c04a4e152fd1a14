"""What the attached penalty adds to a training step of ResNet-20 at batch 128, in time and memory.

    python benchmarks/lstep.py [--record]

Whole steps (forward, backward, SGD with momentum) on random images; plain and penalised in turn,
the ratio pair by pair.
"""

import argparse
import copy

import common
import nets
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import leco


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30, help="pairs of steps")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/lstep.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    base = nets.resnet(20)
    rows = []
    for multipliers in (True, False):
        models = [copy.deepcopy(base), copy.deepcopy(base)]
        optimizers = [
            torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, nesterov=True) for m in models
        ]
        lc = leco.LC(
            models[0],
            leco.each(leco.match(models[0], nn.Conv2d, nn.Linear), leco.Vector(), leco.Binary()),
            multipliers=multipliers,
        )
        lc.attach(optimizers[0])
        lc.mu = 1e-3

        def step(which: int, models=models, optimizers=optimizers) -> None:
            optimizers[which].zero_grad()
            F.cross_entropy(models[which](x), y).backward()
            optimizers[which].step()

        penalised, plain, ratio = common.paired(
            lambda step=step: step(0), lambda step=step: step(1), args.steps
        )
        held = sum(
            t.untyped_storage().nbytes() for t in [*lc.delta.values(), *lc.multipliers.values()]
        )
        row = {
            "method": "augmented Lagrangian" if multipliers else "quadratic penalty",
            "penalised_seconds": penalised,
            "plain_seconds": plain,
            "ratio": ratio,
            "copies_of_the_compressed_weights": held / sum(p.nbytes for p in lc.params.values()),
        }
        rows.append(row)
        Console(width=120).print(row)
    if args.record:
        common.record("lstep", rows, steps=args.steps)


if __name__ == "__main__":
    main()

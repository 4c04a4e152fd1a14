"""What the attached penalty adds to a training step of ResNet-20, in time and memory.

    python -m benchmarks.csteps.lstep [--record]

Whole steps (forward, backward, SGD with momentum) on random images, plain and penalised in turn.
The ratio is the median over pairs.
"""

import argparse
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leco
from benchmarks import nets, records, timing


def row(base: nn.Module, batch: tuple[Tensor, Tensor], multipliers: bool, pairs: int) -> Any:
    """A penalised net beside a plain one."""
    models = [copy.deepcopy(base), copy.deepcopy(base)]
    how = {"lr": 0.01, "momentum": 0.9, "nesterov": True}
    optimizers = [torch.optim.SGD(model.parameters(), **how) for model in models]
    weights = leco.match(models[0], nn.Conv2d, nn.Linear)
    tasks = leco.each(weights, leco.Vector(), leco.Binary())
    lc = leco.LC(models[0], tasks, multipliers=multipliers)
    lc.attach(optimizers[0])
    lc.mu = 1e-3

    def step(which: int) -> None:
        optimizers[which].zero_grad()
        F.cross_entropy(models[which](batch[0]), batch[1]).backward()
        optimizers[which].step()

    penalised, plain, ratio = timing.paired(lambda: step(0), lambda: step(1), pairs)
    held = sum(t.untyped_storage().nbytes() for t in [*lc.delta.values(), *lc.multipliers.values()])
    return {
        "method": "augmented Lagrangian" if multipliers else "quadratic penalty",
        "penalised_seconds": penalised,
        "plain_seconds": plain,
        "ratio": ratio,
        "copies_of_the_compressed_weights": held / sum(p.nbytes for p in lc.params.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30, help="pairs of steps")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--record", action="store_true", help="add a line to results/csteps.jsonl")
    args = parser.parse_args()
    torch.manual_seed(0)
    batch = torch.randn(args.batch, 3, 32, 32), torch.randint(0, 10, (args.batch,))
    base = nets.resnet(20)
    rows = [row(base, batch, multipliers, args.steps) for multipliers in (True, False)]
    records.show(f"ResNet-20, batch {args.batch}", rows)
    if args.record:
        records.append("csteps", "lstep", steps=args.steps, batch=args.batch, rows=rows)


if __name__ == "__main__":
    main()

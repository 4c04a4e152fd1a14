"""Train a reference net: its weights, checkpoints after each epoch, and a record of its errors.

    python -m benchmarks.proof.reference --net resnet20 --epochs 30 --data FOLDER --out FOLDER

The folder of --data (or LECO_DATA) has CIFAR-10 (see benchmarks/cifar.py); for LeNets it has the
IDX files of MNIST, in it or in its folder mnist.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks import data, nets, records
from benchmarks.proof import training
from benchmarks.proof.trainer import Curve, Trainer, epochs
from leco.atomic import atomically


@dataclasses.dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum 0.9.

    The rate goes up in the first fifth of the epochs, then down to 0 by a cosine.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float


RECIPES = {
    "lenet300": Recipe(40, 256, 0.1, 0.0),
    "lenet300-relu": Recipe(30, 256, 0.1, 5e-4),
    "lenet5": Recipe(20, 256, 0.1, 1e-3),
    "resnet8": Recipe(12, 128, 0.2, 5e-4),
}
CIFAR = Recipe(30, 256, 0.4, 5e-4)


def train(
    net: str, recipe: Recipe, images: data.Data, seed: int, path: Path
) -> tuple[float, Curve]:
    """Train the net, or go on from the checkpoint beside `path`, and write its weights."""
    torch.manual_seed(seed)
    device, curve = images.train[0].device, Curve()
    model = nets.NETS[net]().to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = training.sgd(training.decayed(model, recipe.weight_decay), recipe.lr)
    how = {"batch": recipe.batch, "epochs": recipe.epochs, "lr": recipe.lr, "seed": seed}
    trainer = Trainer(images, **how, shape=training.one_cycle)
    stateful = {"model": model, "optimizer": optimizer}
    for _ in epochs(path.with_suffix(".checkpoint"), trainer, stateful, curve):
        loss = trainer.run(model, optimizer, trainer.left)
        error = training.evaluate(model, images, images.validation, True)[1]
        curve.append({"train_loss": loss, "validation_error": error})
        print(len(curve), curve[-1], flush=True)
    atomically(path, lambda temporary: torch.save(model.state_dict(), temporary))
    return training.evaluate(model, images, images.test)[1], curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, cuda = parser.add_argument, torch.cuda.is_available()
    add("--net", choices=list(nets.NETS), default="resnet20")
    add("--epochs", type=int)
    add("--batch", type=int)
    add("--lr", type=float, help="the greatest of the cycle")
    add("--weight-decay", type=float)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default="cuda" if cuda else "cpu")
    add("--data", type=Path, default=Path(os.environ.get("LECO_DATA", ".")))
    add("--out", type=Path, default=Path("references"), help="for NET.pt and NET.json")
    add("--record", action="store_true", help="add a line to results/references.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    fields = [f.name for f in dataclasses.fields(Recipe) if getattr(args, f.name) is not None]
    given = {name: getattr(args, name) for name in fields}
    recipe = dataclasses.replace(RECIPES.get(args.net, CIFAR), **given)
    images = data.load(args.net, args.data, torch.device(args.device))
    name = f"{args.net}-seed{args.seed}" if args.seed else args.net
    error, curve = train(args.net, recipe, images, args.seed, args.out / f"{name}.pt")

    found: dict[str, Any] = {"net": args.net, "data": images.name, **dataclasses.asdict(recipe)}
    found |= {"seed": args.seed, "test_error": error}
    found["bfloat16"] = training.multiplies_bfloat16(images.train[0].device)
    found["seconds"] = sum(row["seconds"] for row in curve)
    (args.out / f"{name}.json").write_text(json.dumps(records.origin() | found, indent=1) + "\n")
    if args.record:
        records.append("references", "reference", **found)
    print(f"{args.net} on {images.name}, {recipe.epochs} epochs: {error:.2f} % test error")


if __name__ == "__main__":
    main()

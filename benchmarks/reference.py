"""Train a reference net: checkpoints after each epoch, from which it goes on, the weights, and a
record of its errors.

    python benchmarks/reference.py --net resnet20 --epochs 30 --data FOLDER --out FOLDER

FOLDER of --data (or LECO_DATA): of CIFAR-10 see `cifar.load`; for LeNets the IDX files of MNIST, in
it or in its folder mnist.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import common
import nets
import torch
import training

from leco.atomic import atomically


@dataclasses.dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum 0.9; the rate goes up in the first fifth of the epochs, then down
    to 0 by a cosine."""

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=list(nets.NETS), default="resnet20")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float, help="the greatest of the cycle")
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LECO_DATA", ".")))
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("references"),
        help="folder for NET.pt (NET-seedN.pt), its record and the checkpoint",
    )
    parser.add_argument(
        "--record", action="store_true", help="put the record into benchmarks/results, too"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    given = {
        f.name: getattr(args, f.name)
        for f in dataclasses.fields(Recipe)
        if getattr(args, f.name) is not None
    }
    recipe = dataclasses.replace(RECIPES.get(args.net, CIFAR), **given)
    name = f"{args.net}-seed{args.seed}" if args.seed else args.net
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = nets.NETS[args.net]().to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    data, curve = training.load(args.net, args.data, device), list[dict[str, Any]]()
    trainer = training.Trainer(
        data,
        batch=recipe.batch,
        epochs=recipe.epochs,
        lr=recipe.lr,
        seed=args.seed,
        shape=training.one_cycle,
    )
    optimizer = training.sgd(training.decayed(model, recipe.weight_decay), recipe.lr)
    for _ in training.epochs(
        args.out / f"{name}.checkpoint", trainer, {"model": model, "optimizer": optimizer}, curve
    ):
        loss = trainer.run(model, optimizer, trainer.left)
        curve.append(
            {
                "train_loss": loss,
                "validation_error": training.evaluate(model, data, data.validation, True)[1],
            }
        )
        print(len(curve), curve[-1], flush=True)
    atomically(args.out / f"{name}.pt", lambda temporary: torch.save(model.state_dict(), temporary))
    error = training.evaluate(model, data, data.test)[1]
    found = {
        "net": args.net,
        "data": data.name,
        **dataclasses.asdict(recipe),
        "seed": args.seed,
        "test_error": error,
    }
    found["bfloat16"] = training.multiplies_bfloat16(device)
    content = {
        **common.origin(),
        **found,
        "seconds": sum(row["seconds"] for row in curve),
        "curve": curve,
    }
    common.write(args.out / f"{name}.json", content)
    if args.record:
        common.write(common.RESULTS / f"reference-{name}.json", content)
    print(f"{args.net} on {data.name}, {recipe.epochs} epochs: {error:.2f} % test error")


if __name__ == "__main__":
    main()

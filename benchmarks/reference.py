"""Train a reference net: checkpoints after each epoch, from which it goes on, the weights, and a record of the test error.

    python benchmarks/reference.py --net resnet20 --epochs 12 --data FOLDER --out FOLDER

FOLDER of --data (or LECO_DATA): of CIFAR-10 see `cifar.load`; for LeNets the IDX files of MNIST, in it or in its folder mnist.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar
import common
import mnist
import nets
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leco.run import atomically


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Up to the peak in the first fifth of the steps, then down to 0 by a cosine."""
    rise = 0.2 * steps
    return peak * (step / rise if step < rise else 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (steps - rise)))


def batches(data: cifar.Cifar, size: int) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """An epoch of augmented minibatches; the last, incomplete one is left out."""
    images, labels = data.train
    chosen = [c for c in torch.randperm(len(images)).split(size) if len(c) == size]
    return [lambda c=c: (cifar.floats(cifar.augmented(images[c])), labels[c]) for c in chosen]


@torch.no_grad()
def error(model: nn.Module, split: cifar.Split, batch: int = 500) -> float:
    """In %, in float32."""
    model.eval()
    wrong = [model(cifar.floats(x)).argmax(1) != y for x, y in zip(split[0].split(batch), split[1].split(batch), strict=True)]
    return 100 * float(torch.cat(wrong).double().mean())


def train(model: nn.Module, data: cifar.Cifar, checkpoint: Path, epochs: int, batch: int, peak: float, decay: float) -> list[dict[str, Any]]:
    """Epochs of SGD, from the checkpoint where there is one; what each gave."""
    decayed, free = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": free}]
    optimizer = torch.optim.SGD(groups, peak, momentum=0.9, nesterov=True)
    curve = list[dict[str, Any]]()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        curve = state["curve"]
    while len(curve) < epochs:
        start, total, epoch = time.perf_counter(), torch.zeros(()), batches(data, batch)
        model.train()
        for i, make in enumerate(epoch):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(len(curve) * len(epoch) + i, epochs * len(epoch), peak)
            x, y = make()
            with torch.autocast("cpu", torch.bfloat16):  # around each forward pass: it keeps the weights that it has cast
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        curve.append(
            {"train_loss": float(total) / len(epoch), "validation_error": error(model, data.validation), "seconds": time.perf_counter() - start}
        )
        print(len(curve), curve[-1], flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state(), "curve": curve}
        atomically(checkpoint, lambda temporary, state=state: torch.save(state, temporary))
    return curve


def lenet(name: str, model: nn.Module, folder: Path, epochs: int) -> tuple[str, float]:
    """As examples/mnist.py does, the learning rate decayed as far in fewer epochs."""
    data = mnist.load(folder / "mnist" if (folder / "mnist").is_dir() else folder)
    whole, lr, decay, batch, weight_decay = mnist.REFERENCES[name]
    mnist.compare.train_reference(model, data, epochs, lr, decay ** (whole / epochs), batch, weight_decay)
    return "MNIST", mnist.compare.evaluate(model, data.test)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=list(nets.NETS), default="resnet20")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.4, help="the greatest of the cycle")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LECO_DATA", ".")))
    parser.add_argument("--out", type=Path, default=Path("references"), help="folder for NET.pt, NET.json and the checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model, start = nets.NETS[args.net]().to(memory_format=torch.channels_last), time.perf_counter()  # pyright: ignore[reportCallIssue]
    curve = list[dict[str, Any]]()
    if args.net in nets.LENETS:
        data, test_error = lenet(args.net, model, args.data, args.epochs)
    else:
        images = cifar.load(args.data)
        curve = train(model, images, args.out / f"{args.net}.checkpoint", args.epochs, args.batch, args.lr, args.weight_decay)
        data, test_error = images.name, error(model, images.test)
    atomically(args.out / f"{args.net}.pt", lambda temporary: torch.save(model.state_dict(), temporary))
    seconds = sum(row["seconds"] for row in curve) or time.perf_counter() - start
    found = {"net": args.net, "data": data, "epochs": args.epochs, "seed": args.seed, "test_error": test_error, "seconds": seconds, "curve": curve}
    (args.out / f"{args.net}.json").write_text(json.dumps({**common.origin(), **found}, indent=1) + "\n")
    print(f"{args.net} on {data}, {args.epochs} epochs: {test_error:.2f} % test error")


if __name__ == "__main__":
    main()

"""LeNet300 and LeNet5 on MNIST, by the authors' settings: direct compression, DC + retraining, LC
and LC + retraining, to files and a record.

    python examples/mnist.py --data FOLDER --net lenet300 --compression codebook2 --seed 0 --record
    result.json

FOLDER holds the four IDX files of MNIST (train-images-idx3-ubyte.gz, ...). Nets train on all 60,000
images, as in the papers; the result of LC is its last net, and the test error is used for nothing
but the report. A run goes on from its checkpoint in --out.
"""

import argparse
import copy
import dataclasses
import gzip
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import compare
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import leco
from leco.views import View

AUTHORS = compare.Settings(
    mu=9e-5,
    factor=1.1,
    steps=40,
    epochs=20,
    first_epochs=40,
    lr=0.1,
    decay=0.98,
    batch=256,
    retrain_epochs=60,
    retrain_lr=1e-3,
)
# the authors' demonstration, for a ReLU net
FAST = dataclasses.replace(AUTHORS, steps=20, epochs=7, first_epochs=14, lr=0.7, batch=2048)
RANKS = dataclasses.replace(AUTHORS, mu=1e-3)
BYTES = dataclasses.replace(
    AUTHORS,
    mu=4e-4,
    factor=1.1,
    steps=42,
    epochs=5,
    first_epochs=10,
    batch=512,
    retrain_epochs=20,
    bfloat16=True,
    soft=True,
)
BYTES5 = dataclasses.replace(
    BYTES,
    mu=5e-4,
    factor=1.15,
    steps=40,
    epochs=3,
    first_epochs=6,
    lr=0.03,
    decay=0.975,
    retrain_epochs=6,
)
SHORT = dataclasses.replace(
    BYTES,
    mu=3e-4,
    factor=1.25,
    steps=30,
    epochs=4,
    first_epochs=8,
    decay=0.97,
    retrain_epochs=20,
    soft=False,
)
TENSORS = dataclasses.replace(
    BYTES5,
    mu=1e-3,
    batch=256,
    lr=0.02,
    retrain_epochs=5,
    factor=1.5,
    steps=24,
    epochs=1,
    first_epochs=2,
    decay=0.93,
    soft=False,
)

Names = tuple[str, ...]
Make = Callable[[nn.Module, Names], dict[str, leco.Task]]
PRESETS = {"authors": AUTHORS, "fast": FAST, "short": SHORT}
METHODS = [*compare.METHODS, "LC + retraining"]
# epochs, learning rate, its decay by epoch, batch, weight decay (the solver of Caffe's LeNet5 has
# 5e-4)
REFERENCES = {
    "lenet300": (100, 0.02, 0.99, 256, 0.0),
    "lenet300-relu": (24, 0.05, 0.83, 128, 5e-4),
    "lenet5": (16, 0.05, 0.75, 128, 1e-3),
}


def lenet300(activation: type[nn.Module]) -> nn.Module:
    """784-300-100-10: 266,200 weights."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        activation(),
        nn.Linear(300, 100),
        activation(),
        nn.Linear(100, 10),
    )


def lenet5() -> nn.Module:
    """Caffe's LeNet5: 20 and 50 filters of 5 x 5, 500 hidden units; 431,080 parameters."""
    return nn.Sequential(
        *(
            nn.Conv2d(1, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ),
        *(nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def xavier(module: nn.Module) -> None:
    """Larger weights than torch's default: twice, in the first layer of LeNet300."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(cast(Tensor, module.bias))


NETS = {
    "lenet300": lambda: lenet300(nn.Tanh),
    "lenet300-relu": lambda: lenet300(nn.ReLU),
    "lenet5": lenet5,
}


def tasks(compression: str, model: nn.Module) -> dict[str, leco.Task]:
    if compression.endswith(" bytes"):
        return within(float(compression.split()[0]), model)
    return COMPRESSIONS[compression](model, leco.match(model, "*.weight"))


def balance(model: nn.Module, weights: Names) -> list[float]:
    """Of each layer in a budget: one over the root of its weights' size, whose square weighs the
    distortion.

    Weights are small where a unit has many inputs; this keeps such layers alive.
    """
    return [
        round(float(model.get_parameter(name).detach().square().mean()) ** -0.25, 3)
        for name in weights
    ]


def within(limit: float, model: nn.Module) -> dict[str, leco.Task]:
    """Everything, biases too, entropy-coded within so many bytes: what each layer gets comes out by
    itself."""
    weights, biases = leco.match(model, "*.weight"), leco.match(model, "*.bias")
    sizes = balance(model, weights)
    layers = leco.each_part(
        leco.Matrix(), leco.EntropyMatrix(0, 8), range(len(weights)), 1 / 8, sizes
    )
    rest = leco.Part(
        leco.Vector(),
        leco.EntropyCodebook(0, 8),
        tuple(range(len(weights), len(weights) + len(biases))),
        1 / 8,
        max(sizes),
    )
    return {
        "all": leco.Task([*weights, *biases], leco.Blocks(), leco.Budget((*layers, rest), limit))
    }


def units(model: nn.Module, weights: Names) -> dict[str, leco.Task]:
    sets = leco.coupled(model, torch.zeros(1, 1, 28, 28))
    return {
        name: leco.Task(own.params, own.view, leco.GroupTopK(0.5)) for name, own in sets.items()
    }


def joint(compression: leco.Compression) -> Make:
    """One task for all layers."""
    return lambda model, weights: {"all": leco.Task(weights, leco.Vector(), compression)}


def layerwise(view: View, compression: leco.Compression) -> Make:
    return lambda model, weights: leco.each(weights, view, compression)


def parts(compression: leco.Compression) -> Make:
    """All layers as blocks."""
    return lambda model, weights: {"all": leco.Task(weights, leco.Blocks(), compression)}


CHOICE = leco.Choice(
    alpha=0,
    candidates=(
        (leco.Rows(), leco.Binary()),
        (leco.Vector(), leco.Codebook(4)),
        (leco.Vector(), leco.EntropyCodebook(0, 8)),
        leco.Part(leco.Matrix(), leco.RankSelection(0), unit=32),
    ),
)
COMPRESSIONS: dict[str, Make] = {
    "codebook2": layerwise(leco.Vector(), leco.Codebook(2)),
    "binary": layerwise(leco.Vector(), leco.Binary()),
    "prune5": joint(leco.TopK(0.05)),
    "ranks": layerwise(leco.Matrix(), leco.RankSelection(alpha=1e-6, cost=leco.storage)),
    "codebook2 + 1 %": joint(
        leco.Additive([(leco.Vector(), leco.Codebook(2)), (leco.Vector(), leco.TopK(0.01))])
    ),
    "binary + 1 %": joint(
        leco.Additive([(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(0.01))])
    ),
    "two codebooks": layerwise(
        leco.Kernel(),
        leco.Additive([(leco.Vector(), leco.Codebook(2)), (leco.Rows(), leco.Binary())]),
    ),
    "low rank + 3 %": layerwise(
        leco.Kernel(),
        leco.Additive([(leco.Matrix(), leco.LowRank(8)), (leco.Vector(), leco.TopK(0.03))]),
    ),
    "5 %, 4 values": joint(leco.Compose(leco.TopK(0.05), leco.Codebook(4))),
    "rank 8, 8 bits": layerwise(leco.Matrix(), leco.Compose(leco.LowRank(8), leco.Uniform(8))),
    "2:4": layerwise(leco.Matrix(), leco.NM(2, 4)),
    "units": units,
    "4 weights a codeword": layerwise(leco.Groups(4), leco.VectorCodebook(16)),
    "hashed": joint(leco.Hashed(8000)),
    "choice in 20 kB": parts(
        leco.Budget(leco.each_part(leco.Kernel(), CHOICE, range(3), unit=1 / 8), limit=20_000)
    ),
    # of LeNet5: the second convolution, 25,000 weights, by 1,500; the first Linear, 400,000, by
    # 6,342
    "tensors": lambda model, weights: {
        "conv": leco.Task("2.weight", leco.Kernel(), leco.Tucker2((8, 5))),
        "fc": leco.Task("5.weight", leco.Reshape((20, 25, 50, 16)), leco.TensorTrain((15, 6, 12))),
    },
}


def narrow(row: compare.Row, reference: nn.Module, data: compare.Data) -> None:
    """Say what the net of a file is without the units that are 0."""
    small = leco.narrow(leco.load(row.path, copy.deepcopy(reference)), data.test[0][:100])
    widths = [
        module.weight.shape[0]
        for module in small.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    print(
        f"{row.method}: {compare.evaluate(small, data.test)[1]:.2f} % test error as a net of widths {widths}, {leco.dense_bytes(small):,} bytes"
    )


def enlarged_digits() -> compare.Data:
    """scikit-learn's 8 x 8 digits as 28 x 28 images: for --smoke, where there is no MNIST."""
    images, labels = load_digits(return_X_y=True)
    x = (
        torch.nn.functional.interpolate(
            torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, 28
        )
        - 0.3
    )
    train, test = (x[:1297], torch.tensor(labels[:1297])), (x[1297:], torch.tensor(labels[1297:]))
    return compare.Data(train, train, test)


def load(folder: Path) -> compare.Data:
    """Pixels in [0, 1], less the training set's mean image."""

    def read(name: str, offset: int) -> np.ndarray:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    def split(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = (
            torch.from_numpy(
                read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy()
            ).float()
            / 255
        )
        labels = torch.from_numpy(read(f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int64))
        return images, labels

    train, test = split("train"), split("t10k")
    mean = train[0].mean(0)
    train, test = (train[0] - mean, train[1]), (test[0] - mean, test[1])
    return compare.Data(train, train, test)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder of the four IDX files")
    parser.add_argument("--net", choices=list(NETS), default="lenet300")
    parser.add_argument(
        "--init",
        choices=["torch", "xavier"],
        default="torch",
        help="of the reference: torch's default, or the authors'",
    )
    parser.add_argument(
        "--compression",
        choices=list(COMPRESSIONS),
        nargs="*",
        default=["codebook2", "prune5", "ranks"],
    )
    parser.add_argument(
        "--bytes",
        type=int,
        nargs="+",
        default=[],
        help="also: entropy-coded codebooks within so many bytes, one run for each",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="authors",
        help="fast and short: 154 and 124 epochs, for a ReLU net",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("mnist-out"),
        help="folder for files, checkpoints and reference weights",
    )
    parser.add_argument("--record", type=Path, help="write the result here, as JSON")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="two short steps, without --data on scikit-learn's digits: shows that it runs",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.data is None and not args.smoke:
        parser.error(
            "--data is needed: the folder of MNIST's four IDX files (or --smoke, on scikit-learn's digits)"
        )
    data = load(args.data) if args.data else enlarged_digits()
    folder = args.out / f"{args.net}-{args.init}-seed{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    reference = NETS[args.net]().to(memory_format=torch.channels_last)  # faster convolutions  # pyright: ignore[reportCallIssue]
    if args.init == "xavier":
        reference.apply(xavier)
    epochs, lr, decay, batch, weight_decay = REFERENCES[args.net]
    kept = folder / "reference.pt"
    if kept.exists():
        reference.load_state_dict(torch.load(kept, weights_only=True))
    else:
        compare.train_reference(
            reference,
            data,
            1 if args.smoke else epochs,
            lr,
            decay,
            batch,
            weight_decay,
            args.net == "lenet5",
        )
        torch.save(reference.state_dict(), kept)
    reference_loss, reference_error = (
        compare.evaluate(reference, data.train)[0],
        compare.evaluate(reference, data.test)[1],
    )
    dense = leco.dense_bytes(reference)
    print(f"reference: {reference_error:.2f} % test error, {dense:,} bytes")

    rows: list[compare.Row] = []
    curves, used, start = {}, {}, time.perf_counter()
    for compression in [*args.compression, *(f"{number} bytes" for number in args.bytes)]:
        settings = PRESETS[args.preset]
        if compression.endswith(" bytes"):
            settings = BYTES5 if args.net == "lenet5" else BYTES
        if args.preset == "authors":
            settings = {"ranks": RANKS, "tensors": TENSORS}.get(compression, settings)
        if args.smoke:
            settings = dataclasses.replace(
                settings, steps=2, factor=1e4, epochs=1, first_epochs=1, retrain_epochs=1
            )
        comparison = compare.Comparison(reference, data, settings, folder)
        torch.manual_seed(1000 + args.seed)
        rows += comparison.run(
            compression,
            tasks(compression, reference),
            tuple(args.methods),
            progress=sys.stderr.isatty(),
        )
        curves |= {
            name: [r._asdict() for r in records] for name, records in comparison.records.items()
        }
        used[compression] = dataclasses.asdict(settings)
        if compression == "units":
            for row in rows[-len(args.methods) :]:
                narrow(row, reference, data)
    title = f"{args.net} on {'MNIST' if args.data else 'digits'}, seed {args.seed}"
    compare.table(rows, title, reference_error, dense)
    compare.draw(rows, title, reference_error, dense, folder / "error-against-bytes.png")
    if args.record:
        found = {"test_error": reference_error, "train_loss": reference_loss, "bytes": dense}
        compare.record(
            args.record,
            args.seed,
            time.perf_counter() - start,
            found,
            rows,
            settings=used,
            curves=curves,
        )


if __name__ == "__main__":
    main()

"""LeNet300 and LeNet5, MNIST, and the settings of their training."""

import dataclasses
import gzip
from pathlib import Path
from typing import cast

import compare
import numpy as np
import torch
from torch import Tensor, nn

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
# the authors' demonstration for a ReLU net
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

PRESETS = {"authors": AUTHORS, "fast": FAST, "short": SHORT}
# epochs, learning rate, its decay by epoch, batch, weight decay (Caffe's solver of LeNet5: 5e-4)
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
    """Larger weights than torch's default; twice as large in the first layer of LeNet300."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(cast(Tensor, module.bias))


NETS = {
    "lenet300": lambda: lenet300(nn.Tanh),
    "lenet300-relu": lambda: lenet300(nn.ReLU),
    "lenet5": lenet5,
}


def enlarged_digits() -> compare.Data:
    """scikit-learn's 8 x 8 digits as 28 x 28 images: for --smoke without MNIST."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the examples need scikit-learn: pip install leco[examples]") from error
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    x, y = nn.functional.interpolate(x, 28) - 0.3, torch.tensor(labels)
    train, test = (x[:1297], y[:1297]), (x[1297:], y[1297:])
    return compare.Data(train, train, test)


def load(folder: Path) -> compare.Data:
    """MNIST of the four IDX files: pixels in [0, 1], minus the training set's mean image."""

    def read(name: str, offset: int) -> Tensor:
        with gzip.open(folder / name) as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=offset).copy())

    def split(name: str) -> tuple[Tensor, Tensor]:
        images = read(f"{name}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)
        return images.float() / 255, read(f"{name}-labels-idx1-ubyte.gz", 8).long()

    train, test = split("train"), split("t10k")
    mean = train[0].mean(0)
    train, test = (train[0] - mean, train[1]), (test[0] - mean, test[1])
    return compare.Data(train, train, test)

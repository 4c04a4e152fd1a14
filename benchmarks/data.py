"""MNIST and CIFAR-10 as tensors, with 5,000 training images held out for every choice."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import cifar, nets

HELD_OUT = 5000
Split = tuple[Tensor, Tensor]
"""Images as they are stored, and classes."""


class Data(NamedTuple):
    """Images to train on, to choose with and to report."""

    name: str
    train: Split
    validation: Split
    test: Split
    prepare: Callable[[Tensor], Tensor]
    """What a net takes, of stored images."""
    augment: Callable[[Tensor], Tensor]
    """Stored images as they are shown in training."""
    mirror: bool
    """Whether an image's mirror image is of its class."""


def load(net: str, folder: Path, device: torch.device) -> Data:
    """MNIST (in `folder`, or its folder mnist) for LeNets, CIFAR-10 for the others."""
    small = net in nets.LENETS
    if small:
        inner = folder / "mnist"
        name, (whole, test) = "MNIST", mnist(inner if inner.is_dir() else folder)
    else:
        name, whole, test = cifar.load(folder)

    # the same images are held out in every run
    order = torch.randperm(len(whole[0]), generator=torch.Generator().manual_seed(0))
    splits = [(whole[0][part], whole[1][part]) for part in (order[HELD_OUT:], order[:HELD_OUT])]
    train, held, test = ((x.to(device), y.to(device)) for x, y in (*splits, test))
    prepare, augment = (_same, _same) if small else (cifar.floats, cifar.augmented)
    return Data(name, train, held, test, prepare, augment, not small)


def _same(images: Tensor) -> Tensor:
    return images


def mnist(folder: Path) -> tuple[Split, Split]:
    """60,000 and 10,000 images: pixels in [0, 1], less the training set's mean image."""

    def read(name: str, offset: int) -> np.ndarray:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    def split(name: str) -> Split:
        pixels = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        labels = read(f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int64)
        return torch.from_numpy(pixels.copy()).float() / 255, torch.from_numpy(labels)

    train, test = split("train"), split("t10k")
    mean = train[0].mean(0)
    return (train[0] - mean, train[1]), (test[0] - mean, test[1])

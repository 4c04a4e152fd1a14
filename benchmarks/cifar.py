"""CIFAR-10 as tensors: the standard folder, or JPEG copies of its images; 5,000 training images
held out; augmentation."""

import functools
import io
import itertools
import lzma
import os
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from leco.atomic import atomically

JPEG, STANDARD = "cifar10-jpeg.npz.xz", "cifar-10-batches-py"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "leco"
# of the training images' colours
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
HELD_OUT, PAD = 5000, 4
Split = tuple[Tensor, Tensor]
"""Images (n, 32, 32, 3) uint8, and classes (n,)."""


class Cifar(NamedTuple):
    """Its name for reports, and 45,000 images to train on, 5,000 to choose with and 10,000 to
    report."""

    name: str
    train: Split
    validation: Split
    test: Split


def load(folder: str | os.PathLike[str] | None = None) -> Cifar:
    """From a folder (or LECO_DATA) that has cifar-10-batches-py, or cifar10-jpeg.npz.xz, which is
    decoded once into the user's cache."""
    root = Path(folder or os.environ.get("LECO_DATA", "."))
    if (root / STANDARD).is_dir():
        name, (train, test) = "CIFAR-10", _standard(root / STANDARD)
    elif (root / JPEG).is_file():
        name, (train, test) = "CIFAR-10 (JPEG)", _jpeg(root / JPEG)
    else:
        raise FileNotFoundError(
            f"neither {STANDARD} nor {JPEG} is in {root}; name their folder by --data or LECO_DATA"
        )
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(0))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    return Cifar(name, (train[0][rest], train[1][rest]), (train[0][held], train[1][held]), test)


def _standard(folder: Path) -> tuple[Split, Split]:
    def read(*names: str) -> Split:
        # the data set's own format
        parts = [pickle.loads((folder / name).read_bytes(), encoding="bytes") for name in names]
        images = (
            np.concatenate([part[b"data"] for part in parts])
            .reshape(-1, 3, 32, 32)
            .transpose(0, 2, 3, 1)
        )
        return torch.from_numpy(images.copy()), torch.tensor(
            [label for part in parts for label in part[b"labels"]]
        )

    return read(*(f"data_batch_{n}" for n in range(1, 6))), read("test_batch")


def _jpeg(path: Path) -> tuple[Split, Split]:
    cache = CACHE / f"cifar10-jpeg-{path.stat().st_size}.pt"
    if not cache.exists():
        with lzma.open(path) as file, np.load(io.BytesIO(file.read())) as archive:
            splits = {}
            for split in ("train", "test"):
                data, offsets = (
                    archive[f"{split}_jpeg"].tobytes(),
                    archive[f"{split}_offsets"].tolist(),
                )
                images = [
                    np.asarray(Image.open(io.BytesIO(data[a:b])))
                    for a, b in itertools.pairwise(offsets)
                ]
                splits[split] = (
                    torch.from_numpy(np.stack(images)),
                    torch.from_numpy(archive[f"{split}_labels"].astype(np.int64)),
                )
        CACHE.mkdir(parents=True, exist_ok=True)
        atomically(cache, lambda temporary: torch.save(splits, temporary))
    splits = torch.load(cache, weights_only=True)
    return splits["train"], splits["test"]


def floats(images: Tensor) -> Tensor:
    """Images (n, 32, 32, 3) as the nets take them: (n, 3, 32, 32) of mean 0 and variance 1,
    channels last in memory."""
    mean, deviation = _colours(images.device)
    return ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)


@functools.cache
def _colours(device: torch.device) -> Tensor:
    """There once, as each copy would make the host wait."""
    return torch.tensor([MEAN, DEVIATION], device=device)


def augmented(images: Tensor) -> Tensor:
    """Each image padded by 4 pixels, cropped to its size at a random place, and flipped or not."""
    n, size = len(images), images.shape[1]
    padded = F.pad(images, (0, 0, PAD, PAD, PAD, PAD))
    along = torch.arange(size, device=images.device)
    top, left = torch.randint(0, 2 * PAD + 1, (2, n, 1), device=images.device)
    columns = torch.where(torch.rand(n, 1, device=images.device) < 0.5, along, along.flip(0))
    each = torch.arange(n, device=images.device)[:, None, None]
    return padded[each, (top + along)[:, :, None], (left + columns)[:, None, :]]

"""CIFAR-10 as tensors: the standard folder, or JPEG copies of its images; augmentation."""

import functools
import io
import itertools
import lzma
import os
import pickle
from pathlib import Path

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
PAD = 4
Split = tuple[Tensor, Tensor]
"""Images (n, 32, 32, 3) uint8, and classes (n,)."""


def load(folder: Path) -> tuple[str, Split, Split]:
    """The name for reports, 50,000 images to train on and 10,000 to report.

    The folder has cifar-10-batches-py, or cifar10-jpeg.npz.xz, which is decoded once into the
    user's cache.
    """
    if (folder / STANDARD).is_dir():
        return "CIFAR-10", *_standard(folder / STANDARD)
    if (folder / JPEG).is_file():
        return "CIFAR-10 (JPEG)", *_jpeg(folder / JPEG)
    raise FileNotFoundError(
        f"neither {STANDARD} nor {JPEG} is in {folder}; name their folder by --data or LECO_DATA"
    )


def _standard(folder: Path) -> tuple[Split, Split]:
    def read(*names: str) -> Split:
        # the data set's own format
        parts = [pickle.loads((folder / name).read_bytes(), encoding="bytes") for name in names]
        flat = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
        labels = [label for part in parts for label in part[b"labels"]]
        return torch.from_numpy(flat.transpose(0, 2, 3, 1).copy()), torch.tensor(labels)

    return read(*(f"data_batch_{n}" for n in range(1, 6))), read("test_batch")


def _jpeg(path: Path) -> tuple[Split, Split]:
    cache = CACHE / f"cifar10-jpeg-{path.stat().st_size}.pt"
    if not cache.exists():
        with lzma.open(path) as file, np.load(io.BytesIO(file.read())) as archive:
            splits = {split: _decoded(archive, split) for split in ("train", "test")}
        CACHE.mkdir(parents=True, exist_ok=True)
        atomically(cache, lambda temporary: torch.save(splits, temporary))
    splits = torch.load(cache, weights_only=True)
    return splits["train"], splits["test"]


def _decoded(archive: np.lib.npyio.NpzFile, split: str) -> Split:
    data, offsets = archive[f"{split}_jpeg"].tobytes(), archive[f"{split}_offsets"].tolist()
    files = (data[a:b] for a, b in itertools.pairwise(offsets))
    images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    labels = archive[f"{split}_labels"].astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels)


def floats(images: Tensor) -> Tensor:
    """Images (n, 32, 32, 3) as the nets take them: (n, 3, 32, 32), channels last in memory.

    The colours have mean 0 and variance 1.
    """
    mean, deviation = _colours(images.device)
    return ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)


@functools.cache
def _colours(device: torch.device) -> Tensor:
    """There once, as each copy would make the host wait."""
    return torch.tensor([MEAN, DEVIATION], device=device)


def augmented(images: Tensor) -> Tensor:
    """Each image padded by 4 pixels, cropped to its size at a random place, and flipped or not."""
    n, size, device = len(images), images.shape[1], images.device
    padded = F.pad(images, (0, 0, PAD, PAD, PAD, PAD))
    along = torch.arange(size, device=device)
    top, left = torch.randint(0, 2 * PAD + 1, (2, n, 1), device=device)
    columns = torch.where(torch.rand(n, 1, device=device) < 0.5, along, along.flip(0))
    each = torch.arange(n, device=device)[:, None, None]
    return padded[each, (top + along)[:, :, None], (left + columns)[:, None, :]]

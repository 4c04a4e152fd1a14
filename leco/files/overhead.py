"""What a file takes beside the coded Thetas."""

import tempfile
from pathlib import Path

import torch

from leco.algorithm.lc import LC
from leco.coding.tensors import bits
from leco.files.save import save


def file_overhead(lc: LC, dtype: torch.dtype | None = None) -> int:
    """Return the bytes of `save(path, lc)` beside the coded Thetas: the description, the checksums
    and all weights and buffers in no task.

    Subtract it from the limit of a file to get the limit of a `leco.Budget` with
    `count=leco.coded_bytes`. The description changes by some bytes with the Thetas, as it holds
    their shapes: leave a margin of about 20 bytes for each Theta.

    Args:
        lc: with Thetas.
        dtype: as in `leco.save`.

    >>> import torch, leco
    >>> model = torch.nn.Linear(784, 300)
    >>> lc = leco.LC(model, {"fc": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> lc.mu = 1.0
    >>> 1200 < leco.file_overhead(lc) < 1800  # 300 biases in float32, and the description
    True
    """
    with tempfile.TemporaryDirectory() as folder:
        length = save(Path(folder) / "model.safetensors", lc, dtype=dtype)
    return length - sum(bits(theta) for theta in lc.thetas.values()) // 8

"""How long the file of a net is, without writing it, and what it takes beside the coded Thetas."""

import torch

from leco.algorithm.lc import LC
from leco.algorithm.record import Snapshot
from leco.coding.tensors import bits
from leco.files.length import Sizes, file_length
from leco.files.written import check_net, present, rest_of, written


def file_bytes(lc: LC, snapshot: Snapshot | None = None, dtype: torch.dtype | None = None) -> int:
    """Return the length in bytes of the file that `save(path, lc, snapshot, dtype)` writes, without
    writing it.

    Args:
        lc: with Thetas.
        snapshot: as in `leco.save`.
        dtype: as in `leco.save`.

    Raises:
        ValueError: as `leco.save`.

    >>> import tempfile, torch, leco
    >>> model = torch.nn.Linear(784, 300)
    >>> lc = leco.LC(model, {"fc": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     leco.save(f"{folder}/model.safetensors", lc) == leco.file_bytes(lc)
    True
    """
    call = "file_bytes(lc)"
    check_net(call, lc, snapshot, dtype)
    net = present(call, lc, snapshot)
    description, payloads = written(lc, net, rest_of(lc.model, net.rest).rounded(dtype))
    return file_length(description, Sizes.of(payloads))


def file_overhead(lc: LC, dtype: torch.dtype | None = None) -> int:
    """Return the bytes of `save(path, lc)` beside the coded Thetas: the description, the checksums
    and all weights and buffers in no task.

    The description changes by some bytes with the Thetas, as it holds their shapes.
    `leco.fit_to_file` takes account of that.

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
    return file_bytes(lc, dtype=dtype) - sum(bits(theta) for theta in lc.thetas.values()) // 8

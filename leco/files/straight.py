"""Delta(Theta) written straight into the memory of a parameter."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from leco.algorithm.compressed import Compressed
from leco.distributed import is_sharded
from leco.native.symbols import looked_up, on_grid
from leco.theta import Affine, Codes, Fixed, Scaled, ZeroCodes


@torch.no_grad()
def filled_(task: Compressed, values: Sequence[Tensor]) -> bool:
    """Write Delta(Theta), to the bit, into the one tensor of a task. False, with nothing written,
    where the compiled library does not do it.

    It does where each weight is looked up, or on a grid, and where the view of the tensor is the
    tensor's own memory in its own order.
    """
    if len(task.shapes) != 1 or len(values) != 1:
        return False
    theta, value = task.theta, values[0].detach()
    if not isinstance(theta, Affine | Codes | Fixed | Scaled | ZeroCodes) or is_sharded(value):
        return False
    # the memory
    if not (value.device.type == "cpu" and value.dtype == torch.float32 and value.is_contiguous()):
        return False
    out = task.view.forward([value])
    whole = isinstance(out, Tensor) and out.is_contiguous() and out.shape == theta.indices.shape
    if not whole or out.data_ptr() != value.data_ptr() or out.numel() != value.numel():
        return False
    # the weights
    if not _written(theta, out):
        return False
    increment_version(values[0])
    return True


def _written(theta: Affine | Codes | Fixed | Scaled | ZeroCodes, out: Tensor) -> bool:
    """Whether the library has written Delta(Theta) into `out`."""
    if isinstance(theta, Affine):
        return on_grid(theta.indices, theta.scale, theta.zero_point, out) is not None
    coded = theta.index_coded()
    books = coded.values
    if books is None or not theta.indices.dim():
        return False
    if coded.scale is not None:
        books = coded.scale.unsqueeze(-1) * books
    problems = theta.indices.shape[:-1].numel()
    if len(books) not in (1, problems):
        return False
    return looked_up(books, theta.indices.reshape(len(books), -1), out) is not None

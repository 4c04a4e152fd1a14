"""The cells of given codebooks: which entry is nearest to each weight."""

import numpy as np
import torch
from torch import Tensor

COUNTED = 31  # borders, up to which counting those below a value is faster than a search
CHUNK = 2**16  # weights compared with the borders in one go: they stay in cache
CHUNK_OF_DEVICE = 2**24  # the same on a GPU


def midpoints(codebook: Tensor) -> Tensor:
    """The borders of the nearest-value cells of an increasing codebook (..., K), (..., K-1)."""
    return (codebook[..., 1:] + codebook[..., :-1]) / 2


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest entry of the increasing `codebook` (..., K) or (K,), the lower of two at
    equal distance; uint8, or int32 for K > 256."""
    return cells_of(x, midpoints(codebook).to(x.dtype).expand(*x.shape[:-1], -1).contiguous())


def cells_of(x: Tensor, edges: Tensor) -> Tensor:
    """The number of increasing `edges` (..., K-1) below each x (..., n); uint8, or int32 for K >
    256."""
    if edges.shape[-1] > COUNTED:
        indices = torch.searchsorted(edges, x.contiguous(), out_int32=True)
        return indices.to(torch.uint8) if edges.shape[-1] <= 255 else indices
    indices = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    if not x.numel():
        return indices
    values, found = x.reshape(-1, x.shape[-1]), indices.view(-1, x.shape[-1])
    edges = edges.view(len(values), -1) if edges.numel() else edges.new_zeros(len(values), 0)

    # one codebook: any cut of the values will do
    size = CHUNK if x.device.type == "cpu" else CHUNK_OF_DEVICE
    if len(values) == 1:
        pieces = [
            (part, own, edges)
            for part, own in zip(values.split(size, -1), found.split(size, -1), strict=True)
        ]
    else:
        rows = max(1, size // x.shape[-1])
        pieces = list(zip(values.split(rows), found.split(rows), edges.split(rows), strict=True))
    for part, own, borders in pieces:
        _count_(own, part, borders)
    return indices


def _count_(found: Tensor, x: Tensor, edges: Tensor) -> None:
    """Add to `found` (rows, n) the number of `edges` (rows, K-1) below each x. On the CPU numpy
    does it: its comparisons are vectorised, unlike torch's."""
    if x.device.type != "cpu":
        for border in edges.unsqueeze(-2).unbind(-1):
            found += (x > border).view(torch.uint8)
        return
    values, counts, borders = x.numpy(), found.numpy(), edges.numpy()
    above = np.empty(values.shape, dtype=np.bool_)
    for j in range(borders.shape[-1]):
        np.greater(values, borders[:, j : j + 1], out=above)
        np.add(counts, above.view(np.uint8), out=counts)

"""A view of several tensors, cut along a dimension of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.views.protocol import Shapes


@dataclass(frozen=True)
class Channels:
    """Several tensors cut along a dimension of each: (groups, total size), where group g is the
    g-th part of every one of them.

    A part is an index, or a run of them where the dimension is a multiple of `groups`: the rows of
    an attention head, the flattened positions of a channel. `leco.coupled` finds which tensors of a
    net go together.

    Args:
        groups: how many there are: channels, hidden units, heads.
        dims: of each tensor, the dimension that is cut: 0 in what makes the channels (weight, bias,
            norm), 1 in what takes them (Linear, Conv).
        stacked: of each tensor, how many times its dimension runs through all groups: 3 for fused
            queries, keys and values (3 E, E).

    >>> import torch, leco
    >>> weight, bias = torch.arange(6).view(3, 2), torch.tensor([10, 11, 12])
    >>> leco.Channels(3, (0, 0)).forward([weight, bias])
    tensor([[ 0,  1, 10],
            [ 2,  3, 11],
            [ 4,  5, 12]])
    """

    groups: int
    dims: tuple[int, ...]
    stacked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "stacked", tuple(self.stacked) or (1,) * len(self.dims))
        if self.groups < 1 or min(self.stacked, default=1) < 1:
            raise ValueError(
                f"Channels: groups = {self.groups} and stacked = {self.stacked} must be at least 1"
            )
        if len(self.stacked) != len(self.dims):
            raise ValueError(
                f"Channels: stacked = {self.stacked} must have {len(self.dims)} numbers, "
                f"one for each of dims = {self.dims}"
            )

    def shape(self, shapes: Shapes) -> torch.Size:
        if len(shapes) != len(self.dims):
            raise ValueError(
                f"dims = {self.dims} must have {len(shapes)} numbers, one for each tensor"
            )
        for shape, dim, stacked in zip(shapes, self.dims, self.stacked, strict=True):
            if not 0 <= dim < len(shape) or not shape[dim] or shape[dim] % (stacked * self.groups):
                raise ValueError(
                    f"{self.groups} groups, {stacked} times, must divide dimension {dim} "
                    f"of a tensor of shape {tuple(shape)}"
                )
        return torch.Size([self.groups, sum(math.prod(shape) for shape in shapes) // self.groups])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        cut = zip(tensors, self.dims, self.stacked, strict=True)
        parts = [
            t.movedim(d, 0).reshape(n, self.groups, -1).transpose(0, 1).reshape(self.groups, -1)
            for t, d, n in cut
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        parts = x.split([math.prod(shape) // self.groups for shape in shapes], 1)
        found = []
        for part, shape, dim, stacked in zip(parts, shapes, self.dims, self.stacked, strict=True):
            moved = (shape[dim], *shape[:dim], *shape[dim + 1 :])
            found.append(
                part.reshape(self.groups, stacked, -1)
                .transpose(0, 1)
                .reshape(moved)
                .movedim(0, dim)
            )
        return found

"""Views that keep or cut the tensors as they are: one vector, rows, runs of equal length, one
tensor in a shape, blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.views.protocol import Shapes, only, split


@dataclass(frozen=True)
class Vector:
    """All entries of all tensors, as one vector (n,): one codebook, one sparsity, for all of them.

    >>> import torch, leco
    >>> leco.Vector().forward([torch.zeros(2, 3), torch.ones(4)])
    tensor([0., 0., 0., 0., 0., 0., 1., 1., 1., 1.])
    """

    def shape(self, shapes: Shapes) -> torch.Size:
        return torch.Size([sum(math.prod(s) for s in shapes)])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return (
            tensors[0].reshape(-1)
            if len(tensors) == 1
            else torch.cat([t.reshape(-1) for t in tensors])
        )

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return split(x, shapes, [math.prod(s) for s in shapes])


@dataclass(frozen=True)
class Rows:
    """A row for each index of dimension `dim`, (rows, length). The output channels of Linear and
    Conv are dimension 0, those of ConvTranspose and of transformers' Conv1D dimension 1.

    Several tensors are stacked and need equal row lengths; otherwise make a task for each of them
    with `leco.each`.
    """

    dim: int = 0

    def shape(self, shapes: Shapes) -> torch.Size:
        for shape in shapes:
            if not 0 <= self.dim < len(shape):
                raise ValueError(
                    f"dim = {self.dim} must be at least 0 and below {len(shape)}, "
                    f"the number of dimensions of {tuple(shape)}"
                )
        lengths = [
            math.prod(shape) // shape[self.dim] if shape[self.dim] else 0 for shape in shapes
        ]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"rows of lengths {lengths} can't be stacked; "
                "make a task for each parameter: leco.each(...)"
            )
        return torch.Size([sum(shape[self.dim] for shape in shapes), lengths[0]])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        rows = [t.movedim(self.dim, 0).reshape(t.shape[self.dim], -1) for t in tensors]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        moved = [torch.Size([s[self.dim], *s[: self.dim], *s[self.dim + 1 :]]) for s in shapes]
        return [t.movedim(0, self.dim) for t in split(x, moved, [s[0] for s in moved])]


@dataclass(frozen=True)
class Groups:
    """Runs of `size` neighbouring entries of each tensor (in row-major order), (groups, size).
    `size` must divide every tensor's length."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Groups: size = {self.size} must be at least 1")

    def shape(self, shapes: Shapes) -> torch.Size:
        for shape in shapes:
            if math.prod(shape) % self.size:
                raise ValueError(
                    f"size = {self.size} does not divide the {math.prod(shape)} entries "
                    f"of a tensor of shape {tuple(shape)}"
                )
        return torch.Size([sum(math.prod(s) for s in shapes) // self.size, self.size])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return Vector().forward(tensors).view(-1, self.size)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return Vector().backward(x.reshape(-1), shapes)


@dataclass(frozen=True)
class Kernel:
    """One tensor as it is, or with its dimensions in another order: for compressions of tensors,
    and for those that choose a layout themselves. The tensor has one dimension or more.

    `order=(0, 2, 3, 1)` is a kernel as out, height, width, in: a tensor train of it is a sequence
    of convolutions.
    """

    order: tuple[int, ...] = ()

    def shape(self, shapes: Shapes) -> torch.Size:
        shape = only(shapes)
        if not shape:
            raise ValueError("a tensor without dimensions can't be kept as it is; take Vector()")
        if self.order and sorted(self.order) != list(range(len(shape))):
            raise ValueError(
                f"order = {self.order} must be the {len(shape)} dimensions "
                f"of {tuple(shape)}, each once"
            )
        return torch.Size(shape[d] for d in self.order or range(len(shape)))

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].permute(self.order) if self.order else tensors[0]

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return [
            x.permute([self.order.index(d) for d in range(len(self.order))]) if self.order else x
        ]


@dataclass(frozen=True)
class Reshape:
    """One tensor's entries, in row-major order, as an array of another shape: a 256 x 784 matrix as
    (16, 16, 28, 28), for a tensor train.

    >>> import torch, leco
    >>> leco.Reshape((2, 2, 3)).forward([torch.zeros(4, 3)]).shape
    torch.Size([2, 2, 3])
    """

    sizes: tuple[int, ...]

    def shape(self, shapes: Shapes) -> torch.Size:
        shape = only(shapes)
        if min(self.sizes, default=0) < 1 or math.prod(self.sizes) != math.prod(shape):
            raise ValueError(
                f"sizes = {self.sizes} must be positive and have the product {math.prod(shape)}, "
                f"the entries of {tuple(shape)}"
            )
        return torch.Size(self.sizes)

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].reshape(self.sizes)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return [x.reshape(shapes[0])]


@dataclass(frozen=True)
class Blocks:
    """The tensors as they are, a tuple of blocks: for compressions whose parts have views of their
    own (`leco.Additive`, `leco.Budget`, ...).

    >>> import torch, leco
    >>> [tuple(block.shape) for block in leco.Blocks().forward([torch.zeros(2, 3), torch.ones(4)])]
    [(2, 3), (4,)]
    """

    def shape(self, shapes: Shapes) -> tuple[torch.Size, ...]:
        return tuple(torch.Size(shape) for shape in shapes)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensors)

    def backward(self, x: Sequence[Tensor], shapes: Shapes) -> list[Tensor]:
        return list(x)

"""Views of matrices: rows in runs of columns, tiles, a tensor as a matrix."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.views.basic import Rows
from leco.views.protocol import Shapes, split


@dataclass(frozen=True)
class Subvectors:
    """Rows cut in runs of `size` columns, (length / size, rows, size): one problem for each block
    of columns, as in product quantization.

    The matrix is that of `Rows(dim)`: out x (in height width) for dim 0. `size` must divide its row
    length, such as 9 for 3 x 3 kernels, or the height times width times some channels. Several
    tensors are stacked along the rows and need equal row lengths.

    >>> import torch, leco
    >>> leco.Subvectors(2).forward([torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])])
    tensor([[[1, 2],
             [5, 6]],
    <BLANKLINE>
            [[3, 4],
             [7, 8]]])
    """

    size: int
    dim: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Subvectors: size = {self.size} must be at least 1")

    def shape(self, shapes: Shapes) -> torch.Size:
        rows, length = Rows(self.dim).shape(shapes)
        if length % self.size:
            raise ValueError(f"size = {self.size} does not divide the rows' length {length}")
        return torch.Size([length // self.size, rows, self.size])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return Rows(self.dim).forward(tensors).unflatten(1, (-1, self.size)).transpose(0, 1)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return Rows(self.dim).backward(x.transpose(0, 1).flatten(1), shapes)


@dataclass(frozen=True)
class Tiles:
    """Blocks of height x width of each tensor's matrix, (tiles, height width), from left to right
    and down. The matrix has dimension 0 as its rows, and all others as its columns.

    >>> import torch, leco
    >>> leco.Tiles(1, 2).forward([torch.arange(8).view(2, 4)])
    tensor([[0, 1],
            [2, 3],
            [4, 5],
            [6, 7]])
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"Tiles: height = {self.height} and width = {self.width} must be at least 1"
            )

    def shape(self, shapes: Shapes) -> torch.Size:
        for shape in shapes:
            rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, 0)
            if not columns or rows % self.height or columns % self.width:
                raise ValueError(
                    f"height = {self.height}, width = {self.width} must divide "
                    f"the matrix {rows} x {columns} of {tuple(shape)}"
                )
        size = self.height * self.width
        return torch.Size([sum(math.prod(shape) for shape in shapes) // size, size])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        tiles = [
            t.reshape(t.shape[0] // self.height, self.height, -1, self.width)
            .transpose(1, 2)
            .flatten(2)
            .flatten(0, 1)
            for t in tensors
        ]
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        parts = x.split([math.prod(shape) // (self.height * self.width) for shape in shapes])
        tiles = [
            part.view(shape[0] // self.height, -1, self.height, self.width)
            for part, shape in zip(parts, shapes, strict=True)
        ]
        return [
            part.transpose(1, 2).reshape(shape) for part, shape in zip(tiles, shapes, strict=True)
        ]


@dataclass(frozen=True)
class Matrix:
    """A matrix whose rows run over the dimensions `rows` of a tensor, and whose columns run over
    the others.

    `rows=(0,)` is a Linear's own matrix and the convolution's scheme 1, out x (in height width);
    `rows=(0, 2)` is scheme 2, (out height) x (in width). Several tensors are stacked along the rows
    (a low rank then has its right factor in common).
    """

    rows: tuple[int, ...] = (0,)

    def _order(self, shape: torch.Size) -> tuple[int, ...]:
        return (*self.rows, *(d for d in range(len(shape)) if d not in self.rows))

    def _sides(self, shape: torch.Size) -> tuple[int, int]:
        return math.prod([shape[d] for d in self.rows]), math.prod(
            [n for d, n in enumerate(shape) if d not in self.rows]
        )

    def shape(self, shapes: Shapes) -> torch.Size:
        for shape in shapes:
            if (
                len(shape) < 2
                or len(set(self.rows)) != len(self.rows)
                or not all(0 <= d < len(shape) for d in self.rows)
            ):
                raise ValueError(
                    f"rows = {self.rows} must be distinct dimensions of {tuple(shape)}, "
                    "which needs at least 2"
                )
        sides = [self._sides(shape) for shape in shapes]
        if len({columns for _, columns in sides}) > 1:
            raise ValueError(
                f"matrices of shapes {sides} can't be stacked; "
                "make a task for each parameter: leco.each(...)"
            )
        return torch.Size([sum(rows for rows, _ in sides), sides[0][1]])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        matrices = [t.permute(self._order(t.shape)).reshape(self._sides(t.shape)) for t in tensors]
        return matrices[0] if len(matrices) == 1 else torch.cat(matrices)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        orders = [self._order(shape) for shape in shapes]
        permuted = [
            torch.Size([shape[d] for d in order])
            for shape, order in zip(shapes, orders, strict=True)
        ]
        parts = split(x, permuted, [self._sides(shape)[0] for shape in shapes])
        return [
            part.permute([order.index(d) for d in range(len(order))])
            for part, order in zip(parts, orders, strict=True)
        ]

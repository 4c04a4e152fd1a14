"""Views: bijections between a task's tensors and the one array that its compression works on. A
view decides *what is compressed jointly*.

The last dimension (the last two, for a matrix) is what a compression sees as one problem; leading
dimensions are a batch of separate ones. `Vector` gives one problem over all tensors, `Rows` one for
each output channel, `Groups` one for each run of `size` weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Shapes = Sequence[torch.Size]


class View(Protocol):
    """A frozen dataclass with options only. `backward(forward(tensors), shapes)` equals `tensors`,
    and the other way round."""

    def shape(self, shapes: Shapes) -> Any:
        """The array's shape for tensors of these shapes. Raises ValueError, with the reason, for
        tensors that the view can't take."""
        ...

    def forward(self, tensors: Sequence[Tensor]) -> Any:
        """The array. It may share memory with a single tensor."""
        ...

    def backward(self, x: Any, shapes: Shapes) -> list[Tensor]:
        """The tensors, as views of the array where strides allow."""
        ...


def _split(x: Tensor, shapes: Shapes, sizes: Sequence[int]) -> list[Tensor]:
    return [part.reshape(shape) for part, shape in zip(x.split(list(sizes)), shapes, strict=True)]


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
        return _split(x, shapes, [math.prod(s) for s in shapes])


@dataclass(frozen=True)
class Rows:
    """A row for each index of dimension `dim` (0: output channels of Linear and Conv; 1: of
    ConvTranspose), (rows, length).

    Several tensors are stacked and need equal row lengths; otherwise make a task for each of them
    with `leco.each`.
    """

    dim: int = 0

    def shape(self, shapes: Shapes) -> torch.Size:
        for shape in shapes:
            if not 0 <= self.dim < len(shape):
                raise ValueError(
                    f"dim = {self.dim} must be at least 0 and below {len(shape)}, the number of dimensions of {tuple(shape)}"
                )
        lengths = [
            math.prod(shape) // shape[self.dim] if shape[self.dim] else 0 for shape in shapes
        ]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"rows of lengths {lengths} can't be stacked; make a task for each parameter: leco.each(...)"
            )
        return torch.Size([sum(shape[self.dim] for shape in shapes), lengths[0]])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        rows = [t.movedim(self.dim, 0).reshape(t.shape[self.dim], -1) for t in tensors]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        moved = [torch.Size([s[self.dim], *s[: self.dim], *s[self.dim + 1 :]]) for s in shapes]
        return [t.movedim(0, self.dim) for t in _split(x, moved, [s[0] for s in moved])]


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
                    f"size = {self.size} does not divide the {math.prod(shape)} entries of a tensor of shape {tuple(shape)}"
                )
        return torch.Size([sum(math.prod(s) for s in shapes) // self.size, self.size])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return Vector().forward(tensors).view(-1, self.size)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return Vector().backward(x.reshape(-1), shapes)


@dataclass(frozen=True)
class Subvectors:
    """Rows cut in runs of `size` columns, (length / size, rows, size): one problem for each block
    of columns, as in product quantization.

    The matrix is out x (in height width), as of `Rows()`; `size` must divide its row length, such
    as 9 for 3 x 3 kernels, or the height times width times some channels. Several tensors are
    stacked along the rows and need equal row lengths.

    >>> import torch, leco
    >>> leco.Subvectors(2).forward([torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])])
    tensor([[[1, 2],
             [5, 6]],
    <BLANKLINE>
            [[3, 4],
             [7, 8]]])
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Subvectors: size = {self.size} must be at least 1")

    def shape(self, shapes: Shapes) -> torch.Size:
        rows, length = Rows().shape(shapes)
        if length % self.size:
            raise ValueError(f"size = {self.size} does not divide the rows' length {length}")
        return torch.Size([length // self.size, rows, self.size])

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        return Rows().forward(tensors).unflatten(1, (-1, self.size)).transpose(0, 1)

    def backward(self, x: Tensor, shapes: Shapes) -> list[Tensor]:
        return Rows().backward(x.transpose(0, 1).flatten(1), shapes)


@dataclass(frozen=True)
class Tiles:
    """Blocks of height x width of each tensor's matrix, dimension 0 against all others, (tiles,
    height width), from left to right and down.

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
                    f"height = {self.height}, width = {self.width} must divide the matrix {rows} x {columns} of {tuple(shape)}"
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
                f"Channels: stacked = {self.stacked} must have {len(self.dims)} numbers, one for each of dims = {self.dims}"
            )

    def shape(self, shapes: Shapes) -> torch.Size:
        if len(shapes) != len(self.dims):
            raise ValueError(
                f"dims = {self.dims} must have {len(shapes)} numbers, one for each tensor"
            )
        for shape, dim, stacked in zip(shapes, self.dims, self.stacked, strict=True):
            if not 0 <= dim < len(shape) or not shape[dim] or shape[dim] % (stacked * self.groups):
                raise ValueError(
                    f"{self.groups} groups, {stacked} times, must divide dimension {dim} of a tensor of shape {tuple(shape)}"
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
                    f"rows = {self.rows} must be distinct dimensions of {tuple(shape)}, which needs at least 2"
                )
        sides = [self._sides(shape) for shape in shapes]
        if len({columns for _, columns in sides}) > 1:
            raise ValueError(
                f"matrices of shapes {sides} can't be stacked; make a task for each parameter: leco.each(...)"
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
        parts = _split(x, permuted, [self._sides(shape)[0] for shape in shapes])
        return [
            part.permute([order.index(d) for d in range(len(order))])
            for part, order in zip(parts, orders, strict=True)
        ]


def _only(shapes: Shapes) -> torch.Size:
    if len(shapes) != 1:
        raise ValueError(
            f"takes one parameter, not {len(shapes)}; make a task for each: leco.each(...)"
        )
    return shapes[0]


@dataclass(frozen=True)
class Kernel:
    """One tensor as it is, or with its dimensions in another order: for compressions of tensors, or
    that choose a layout themselves.

    `order=(0, 2, 3, 1)` is a kernel as out, height, width, in: a tensor train of it is a sequence
    of convolutions.
    """

    order: tuple[int, ...] = ()

    def shape(self, shapes: Shapes) -> torch.Size:
        shape = _only(shapes)
        if self.order and sorted(self.order) != list(range(len(shape))):
            raise ValueError(
                f"order = {self.order} must be the {len(shape)} dimensions of {tuple(shape)}, each once"
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
        shape = _only(shapes)
        if min(self.sizes, default=1) < 1 or math.prod(self.sizes) != math.prod(shape):
            raise ValueError(
                f"sizes = {self.sizes} must be positive and have the product {math.prod(shape)}, the entries of {tuple(shape)}"
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


def array_shape(x: Tensor | Sequence[Tensor]) -> torch.Size | tuple[torch.Size, ...]:
    """The shape of a view's array: of one tensor, or of each block."""
    return x.shape if isinstance(x, Tensor) else tuple(block.shape for block in x)


def blocks(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The array as a tuple of tensors: itself, or its blocks."""
    return (x,) if isinstance(x, Tensor) else tuple(x)


VIEWS: tuple[type, ...] = (
    Vector,
    Rows,
    Groups,
    Tiles,
    Channels,
    Subvectors,
    Matrix,
    Kernel,
    Reshape,
    Blocks,
)
"""The views that a file may name."""

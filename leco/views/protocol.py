"""What a view is: a bijection between a task's tensors and the one array, or the blocks, that its
compression works on."""

from collections.abc import Sequence
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


def split(x: Tensor, shapes: Shapes, sizes: Sequence[int]) -> list[Tensor]:
    return [part.reshape(shape) for part, shape in zip(x.split(list(sizes)), shapes, strict=True)]


def only(shapes: Shapes) -> torch.Size:
    if len(shapes) != 1:
        raise ValueError(
            f"takes one parameter, not {len(shapes)}; make a task for each: leco.each(...)"
        )
    return shapes[0]


def array_shape(x: Tensor | Sequence[Tensor]) -> torch.Size | tuple[torch.Size, ...]:
    """The shape of a view's array: of one tensor, or of each block."""
    return x.shape if isinstance(x, Tensor) else tuple(block.shape for block in x)


def blocks(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The array as a tuple of tensors: itself, or its blocks."""
    return (x,) if isinstance(x, Tensor) else tuple(x)

"""What a Theta is, and the checks of shapes that all forms share."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Array = Tensor | tuple[Tensor, ...]
"""What a view gives and a compression takes: one tensor, or the blocks of `leco.Blocks`."""


@runtime_checkable
class Theta(Protocol):
    """What the algorithm and the file need of a compressed form. A new form is a NamedTuple with
    these two methods.

    A field is a tensor, an int, another Theta (quantized values of the kept weights), a view, or a
    tuple of these. `free` names the float fields that stay free once the discrete choices (indices,
    masks, ranks) are fixed: what retraining moves.

    The library's forms have two more, which yours may have: `scaled(c)`, the Theta of c Delta(Theta); and `shape()`, that of Delta(Theta),
    from the shapes of the fields alone. It raises ValueError where fields do not fit each other. A
    file's sizes are checked with it before any memory is taken.
    """

    _fields: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]: ...
    def _replace(self, **fields: Any) -> "Theta": ...
    def decompress(self) -> Any: ...
    def free(self) -> tuple[str, ...]: ...


def values(field: Any) -> Any:
    """The numbers of a field that is a tensor, or a Theta of it."""
    return field if isinstance(field, Tensor) else field.decompress()


def times(field: Any, c: float) -> Any:
    """c times a field that is a tensor, or a Theta of c times its Delta."""
    return c * field if isinstance(field, Tensor) else field.scaled(c)


def shape_of(field: Any) -> Any:
    """The shape of a field that is a tensor, or of a Theta of it."""
    return field.shape if isinstance(field, Tensor) else field.shape()


def require(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def integers(name: str, x: Tensor) -> torch.Size:
    require(
        not x.is_floating_point() and x.dim() > 0,
        f"{name} {tuple(x.shape)} of {x.dtype} must be integers, (..., n)",
    )
    return x.shape

"""What a Theta is, what a form may tell of itself, and the checks that all forms share."""

import math
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

    A form may have more methods. Each of them is used where it is there:

    - `scaled(c)`: the Theta of c Delta(Theta).
    - `shape()`: the shape of Delta(Theta), from the shapes of the fields alone; ValueError where
      the fields do not fit each other. `leco.load` checks sizes with it before it takes memory.
    - `check()`: ValueError where the integers of the fields name values that are not there.
    - `take(at)`: the Theta of Delta(Theta).flatten()[at], or None (`leco.theta.entries`).
    - `index_coded()`: the weights as indices into values (`leco.theta.index_coded`). `leco.pack`
      and the exports work from it.
    - `intermediate()`: how many entries `decompress` makes on the way to its result.

    The library's forms have the first two, and those of the others that they need.
    """

    _fields: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]: ...
    def _replace(self, **fields: Any) -> "Theta": ...
    def decompress(self) -> Any: ...
    def free(self) -> tuple[str, ...]: ...


@runtime_checkable
class Shaped(Protocol):
    """A form that tells the shape of its Delta."""

    def shape(self) -> Any: ...


@runtime_checkable
class Checked(Protocol):
    """A form whose integers can be wrong."""

    def check(self) -> None: ...


@runtime_checkable
class Intermediate(Protocol):
    """A form whose Delta is made of larger arrays than itself."""

    def intermediate(self) -> int: ...


def values(field: Any) -> Any:
    """The numbers of a field that is a tensor, or a Theta of it."""
    return field if isinstance(field, Tensor) else field.decompress()


def times(field: Any, c: float) -> Any:
    """c times a field that is a tensor, or a Theta of c times its Delta."""
    return c * field if isinstance(field, Tensor) else field.scaled(c)


def spread(c: float, count: int) -> float:
    """The power of 2 nearest below the `count`-th root of |c|: what each of `count` factors takes
    of a scale, so that none of them overflows."""
    return math.ldexp(1.0, math.frexp(c)[1] // count)


def shape_of(field: Any) -> Any:
    """The shape of a field that is a tensor, or of a Theta of it."""
    return field.shape if isinstance(field, Tensor) else field.shape()


def require(fits: bool, message: str) -> None:
    """Raise ValueError with `message` unless `fits`."""
    if not fits:
        raise ValueError(message)


def is_count(value: Any) -> bool:
    """Whether a field is an int of at least 0."""
    return type(value) is int and value >= 0


def integers(name: str, x: Tensor) -> torch.Size:
    """The shape of a tensor of integers (..., n). Raises ValueError for any other tensor."""
    require(
        not x.is_floating_point() and x.dim() > 0,
        f"{name} {tuple(x.shape)} of {x.dtype} must be integers, (..., n)",
    )
    return x.shape


def check_indices(name: str, indices: Tensor, count: int) -> None:
    """Raise ValueError where an index is below 0, or is `count` or more."""
    if indices.numel():
        low, high = int(indices.min()), int(indices.max())
        require(
            low >= 0 and high < count,
            f"{name} from {low} to {high} must be at least 0 and below {count}",
        )


def check_mask(mask: Tensor, kept: Any) -> None:
    """Raise ValueError unless a mask has as many True entries as `kept` has entries or rows."""
    ones, (count, *_) = int(mask.count_nonzero()), shape_of(kept)
    require(ones == count, f"a mask with {ones} True entries has {count} values")

"""Checks of a compression's options, and of the array that it is given."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain(value: Any) -> Any:
    """The option as a plain bool, int or float, where it is one number; a list or tuple as a tuple
    of such values; anything else as it is.

    Numpy numbers and tensors of no dimension become Python's numbers, and so does any integer that
    has `__index__`. Files and checkpoints hold plain numbers only.
    """
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0:
        return value.item()
    if type(value) in (list, tuple):
        return tuple(plain(member) for member in value)
    if isinstance(value, (bool, str, type)) or not hasattr(value, "__index__"):
        return value
    return value if isinstance(value, (np.ndarray, Tensor)) else operator.index(value)


def plain_options(options: Any) -> None:
    """Store the options of a frozen dataclass as `plain` gives them."""
    for field in dataclasses.fields(options):
        object.__setattr__(options, field.name, plain(getattr(options, field.name)))


def largest_magnitude(x: Sequence[Tensor]) -> float:
    """The largest absolute value in all tensors.

    One pass over memory.

    Raises:
        ValueError: a tensor holds NaN or infinity.
    """
    ends = [float(end) for block in x if block.numel() for end in torch.aminmax(block)]
    largest = max(map(abs, ends), default=0.0)
    if not largest < float("inf") or any(end != end for end in ends):
        raise ValueError(
            "the array to compress holds NaN or infinite entries; the L step diverged (lower its "
            "learning rate)"
        )
    return largest


def full_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that numbers of a floating-point type are computed in: float32 for half
    precision."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def check_floats(name: str, x: Sequence[Tensor]) -> None:
    """Raise TypeError where a tensor does not hold real floating-point numbers."""
    for block in x:
        if not block.is_floating_point():
            raise TypeError(f"{name}: takes floating-point numbers, not {block.dtype}")


def check_array(name: str, shape: Any) -> None:
    """Raise ValueError where a shape is that of several blocks, or of a single number."""
    if not isinstance(shape, torch.Size):
        raise ValueError(
            f"{name}: takes one array, not the {len(shape)} blocks of the view leco.Blocks(); use "
            "another view, such as leco.Vector()"
        )
    if not shape:
        raise ValueError(
            f"{name}: takes an array of at least one dimension, not a single number; use the view "
            "leco.Vector()"
        )


def check_count(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise where an option is not an integer from `low` to `high`."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} = {value!r} must be an integer")
    if number < low or (high is not None and number > high):
        raise ValueError(
            f"{name} = {value} must be at least {low}"
            + (f" and at most {high}" if high is not None else "")
        )


def check_number(name: str, value: float) -> None:
    """Raise where an option is not a finite number at or above 0."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} = {value!r} must be a number")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} = {value} must be finite and at least 0")


def check_share(name: str, value: int | float) -> None:
    """Raise where an option is neither a count (an integer at or above 0), nor a share (a float at
    or above 0 and below 1)."""
    if not isinstance(value, float):
        check_count(name, value, 0)
    elif not 0 <= value < 1:
        raise ValueError(
            f"{name} = {value} must be an integer count, or a share that is at least 0.0 and below "
            "1.0"
        )


def share(value: int | float, n: int) -> int:
    """The count of n that a checked count or share stands for: a share is rounded, and a share
    above 0 keeps at least 1."""
    if not isinstance(value, float):
        return value
    return max(round(value * n), int(value > 0))

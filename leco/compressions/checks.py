"""Checks of a compression's options, and of what it is given."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def largest_magnitude(x: Sequence[Tensor]) -> float:
    """The largest absolute value in all tensors. Raises ValueError where one holds NaN or infinity.

    One pass over memory, and one wait for each device.
    """
    ends = [end.double() for block in x if block.numel() for end in torch.aminmax(block.detach())]
    largest = max((abs(float(end)) for end in ends), default=0.0)
    if not largest < float("inf") or any(end.isnan() for end in ends):
        raise ValueError(
            "the array to compress holds NaN or infinite entries; the L step diverged (lower its "
            "learning rate)"
        )
    return largest


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
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} = {value!r} must be an integer")
    if value < low or (high is not None and value > high):
        raise ValueError(
            f"{name} = {value} must be at least {low}"
            + (f" and at most {high}" if high is not None else "")
        )


def check_number(name: str, value: float) -> None:
    """Raise where an option is not a finite number at or above 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} = {value!r} must be a number")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} = {value} must be finite and at least 0")


def check_share(name: str, value: int | float) -> None:
    """Raise where an option is neither a count at or above 0, nor a share (float) at or above 0 and
    below 1."""
    if not isinstance(value, float):
        check_count(name, value, 0)
    elif not 0 <= value < 1:
        raise ValueError(
            f"{name} = {value} must be an integer count, or a share that is at least 0.0 and below 1.0"
        )


def share(value: int | float, n: int) -> int:
    """The count of n that a checked count or share stands for."""
    return round(value * n) if isinstance(value, float) else value

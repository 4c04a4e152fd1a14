"""Checks of a compression's options, and of what it is given."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

import torch
from torch import Tensor

_known_finite = ContextVar("known_finite", default=False)


@contextmanager
def known_finite() -> Iterator[None]:
    """Inside, `check_finite` takes its arrays for finite: for who has looked at all of them at
    once, as each look makes the host wait."""
    token = _known_finite.set(True)
    try:
        yield
    finally:
        _known_finite.reset(token)


def check_finite(x: Tensor) -> None:
    """Raise ValueError where `x` has a NaN or an infinity: one pass over memory, no temporaries."""
    if _known_finite.get():
        return
    low, high = torch.aminmax(x)
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise ValueError(
            "the array to compress holds NaN or infinite entries; the L step diverged (lower its learning rate)"
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

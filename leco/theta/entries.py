"""Some entries of a Theta as a Theta of the same form: one parameter of a task with several."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Separable(Protocol):
    """A form that can give the Theta of some of its entries."""

    def take(self, at: Tensor) -> Any: ...


def take(theta: Any, at: Tensor) -> Any:
    """The Theta of Delta(theta).flatten()[at], its entries in row-major order.

    Args:
        at: (...) int64.

    Returns:
        A Theta of the same form; None where these entries have none.
    """
    return theta.take(at) if isinstance(theta, Separable) else None


def pick(field: Any, at: Tensor) -> Any:
    """The same of a field that is a tensor or a Theta."""
    return field.reshape(-1)[at] if isinstance(field, Tensor) else take(field, at)


def runs_of(at: Tensor, size: int) -> Tensor | None:
    """Which runs of `size` neighbours `at` consists of; None where it does not consist of whole
    runs."""
    if at.numel() % size:
        return None
    runs = at.reshape(-1, size)
    whole = bool((runs[:, 0] % size == 0).all()) and bool(
        (runs == runs[:, :1] + torch.arange(size, device=at.device)).all()
    )
    return runs[:, 0] // size if whole else None


def inside(runs: Tensor, size: int) -> Tensor:
    """The entries of runs of `size`: (runs, size)."""
    return runs.unsqueeze(1) * size + torch.arange(size, device=runs.device)


def replaced(theta: Any, **fields: Any) -> Any:
    """The Theta with other fields; None where one of them is None."""
    return None if any(field is None for field in fields.values()) else theta._replace(**fields)

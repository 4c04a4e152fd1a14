"""CP and tensor-train decompositions of a kernel or any array x (n_1, ..., n_N), the whole of it
one tensor; what all decompositions share.

Finding the best one is hard. The C steps are descent steps: from a good start, or from the last
Theta (which may have been retrained), alternating least squares until the error is flat. None of
them is ever worse than the last Theta.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.theta import Theta, values
from leco.theta.tree import free_leaves, leaves, with_free_leaves

SWEEPS = 100
FLAT = 1e-6  # a sweep that lowers the squared error by a smaller share is the last

T = TypeVar("T", bound=Theta)


def tuple_of_ranks(name: str, ranks: Any, modes: int | None = None) -> tuple[int, ...]:
    """The option `ranks`, checked as far as no shape is needed."""
    if not isinstance(ranks, tuple):
        raise TypeError(f"{name}: ranks = {ranks!r} must be a tuple of integers")
    if not ranks or (modes and len(ranks) != modes):
        raise ValueError(f"{name}: ranks = {tuple(ranks)} must be {modes or 'at least 1'} numbers")
    for k, rank in enumerate(ranks):
        check_count(f"{name}: ranks[{k}]", rank, 1)
    return ranks


def check_modes(name: str, ranks: tuple[int, ...], modes: int, shape: torch.Size) -> None:
    """Raise ValueError where there is not one rank for each of the modes."""
    if len(ranks) != modes:
        raise ValueError(
            f"{name}: ranks = {ranks} must be {modes} numbers for an array of shape {tuple(shape)}"
        )


def check_bounds(name: str, ranks: tuple[int, ...], bounds: Sequence[int]) -> None:
    """Raise ValueError where a rank is above its bound."""
    for k, (rank, bound) in enumerate(zip(ranks, bounds, strict=True)):
        check_count(f"{name}: ranks[{k}]", rank, 1, bound)


def sizes_of(tensors: Sequence[Any]) -> list[tuple[int, ...]]:
    """The shapes of tensors, or of the Thetas that stand for them."""
    return [tuple(values(tensor).shape) for tensor in tensors]


def squared_error(x: Tensor, theta: Theta, mu: float | Tensor = 1.0) -> Tensor:
    """||x - Delta(Theta)||^2, or the sum of mu_i (x_i - Delta_i)^2."""
    return (x - theta.decompress()).square().mul(mu).sum()


def no_worse(x: Tensor, found: T, last: Any, mu: float | Tensor = 1.0) -> T:
    """`found`; or a copy of the last Theta where that has the same sizes and, by rounding, a lower
    error, weighed by mu in a metric."""
    if (
        type(last) is not type(found)
        or sizes_of(leaves(last)) != sizes_of(leaves(found))
        or squared_error(x, found, mu) <= squared_error(x, last, mu)
    ):
        return found
    return with_free_leaves(last, [leaf.detach().clone() for leaf in free_leaves(last)])


def unfold(x: Tensor, mode: int) -> Tensor:
    """The matrix (n_mode, all others)."""
    return x.movedim(mode, 0).flatten(1)

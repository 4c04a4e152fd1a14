"""Costs C of a low rank r of a matrix: numbers to pass to `leco.RankSelection(alpha, cost)`; a cost
is any function of (shape, rank).

A cost knows that a dense layer is an alternative: C(r) = min(r(m + n), m n), so that full rank, at
zero distortion, is chosen where factors would not pay.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

RankCost = Callable[[torch.Size, int], float]
TuckerCost = Callable[[torch.Size, tuple[int, ...]], float]


def storage(shape: torch.Size, rank: int) -> float:
    """Parameters of a rank-r pair, r(m + n), or of the dense matrix (m, n) where that is less.

    >>> import torch, leco
    >>> leco.storage(torch.Size([300, 784]), 10), leco.storage(torch.Size([300, 784]), 300)
    (10840, 235200)
    """
    m, n = shape
    return min(rank * (m + n), m * n)


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds for one input: storage times the positions at which the layer is applied
    (Linear: 1; Conv: height x width of its output)."""

    positions: int = 1

    def __call__(self, shape: torch.Size, rank: int) -> float:
        return storage(shape, rank) * self.positions


def tucker_storage(shape: torch.Size, ranks: tuple[int, ...]) -> float:
    """Parameters of a core and factors for the first len(ranks) modes, or of the dense tensor where
    those are fewer.

    >>> import torch, leco
    >>> leco.tucker_storage(torch.Size([50, 20, 5, 5]), (10, 5)), 10 * 50 + 5 * 20 + 10 * 5 * 25
    (1850, 1850)
    """
    factors = sum(rank * n for rank, n in zip(ranks, shape, strict=False))
    return min(factors + math.prod(ranks) * math.prod(shape[len(ranks) :]), math.prod(shape))


@dataclass(frozen=True)
class TuckerMultiplyAdds:
    """Multiply-adds for one input of Tucker-2's three convolutions, or of the dense one where those
    are fewer.

    Args:
        positions: height x width of the output (1 for a Linear).
        inputs: height x width of the input, at which the first 1 x 1 convolution is applied; None
            for `positions` (stride 1, padding same).
    """

    positions: int = 1
    inputs: int | None = None

    def __call__(self, shape: torch.Size, ranks: tuple[int, ...]) -> float:
        (n_out, n_in, *size), (r_out, r_in) = shape, ranks
        dense = n_out * n_in * math.prod(size) * self.positions
        reduce = r_in * n_in * (self.positions if self.inputs is None else self.inputs)
        return min(
            reduce + (r_out * r_in * math.prod(size) + r_out * n_out) * self.positions, dense
        )


@dataclass(frozen=True)
class Table:
    """Measured costs, such as seconds: `values[r]` for rank r, from 0 to min(m, n). Any shape will
    do: steps, plateaus (ICIP 2021)."""

    values: Sequence[float]

    def __call__(self, shape: torch.Size, rank: int) -> float:
        if len(self.values) != min(shape) + 1:
            raise ValueError(
                f"Table: {len(self.values)} values must be {min(shape) + 1}, one for each rank "
                f"from 0 to {min(shape)}"
            )
        return self.values[rank]

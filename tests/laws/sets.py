"""Membership and costs, written from the definitions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laws.case import tensors
from leco.theta import Dense


def among(values: tuple[float, ...]) -> Callable[[Tensor], bool]:
    return lambda delta: bool(torch.isin(delta, torch.tensor(values, dtype=delta.dtype)).all())


def multiples(values: tuple[float, ...]) -> Callable[[Tensor], bool]:
    """Whether some s >= 0 gives Delta = s times values: s is seen from the largest |Delta_i|, which
    is |s v| for some v."""

    def member(delta: Tensor) -> bool:
        largest, allowed = delta.abs().max(), torch.tensor(values, dtype=delta.dtype)
        scales = [largest / abs(v) for v in values if v] + ([0.0] if largest == 0 else [])
        return any(
            bool((delta.unsqueeze(-1) - s * allowed).abs().amin(-1).max() <= 1e-9 * largest)
            for s in scales
        )

    return member


def stored_multiples(
    dtype: str, either_sign: bool, values: tuple[float, ...]
) -> Callable[[Tensor], bool]:
    """Whether Delta = s values[...] for a number s of a type: one of those whose multiple the
    largest |Delta_i| is."""
    kind = getattr(torch, dtype)

    def member(delta: Tensor) -> bool:
        largest, allowed = delta.abs().max(), torch.tensor(values, dtype=delta.dtype)
        scales = [largest / abs(v) for v in values if v] + ([delta.new_zeros(())])
        return any(
            bool(torch.isin(delta, sign * s.to(kind).to(delta) * allowed).all())
            for s in scales
            for sign in ((1, -1) if either_sign else (1,))
        )

    return member


def on_line(bits: int) -> Callable[[Tensor], bool]:
    """Whether some s > 0 and m make all (Delta - m)/s integers of a window of 2^bits."""

    def member(delta: Tensor) -> bool:
        gaps = (delta - delta.min()).unique()
        if len(gaps) == 1:
            return True
        for parts in range(1, 2**bits):
            q = gaps / (gaps.diff().min() / parts)
            if q.max() < 2**bits - 0.5 and (q - q.round()).abs().max() < 1e-6:
                return True
        return False

    return member


def on_grid(bits: int, zero_point: bool) -> Callable[[Tensor], bool]:
    """Whether some s > 0 makes all Delta/s integers, in a window of 2^bits integers: around 0 as
    signed integers lie, or anywhere with 0."""

    def member(delta: Tensor) -> bool:
        levels = torch.cat([delta, delta.new_zeros(1)]).unique()
        if len(levels) == 1:
            return True
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if not zero_point
            else (1 - 2**bits, 2**bits - 1)
        )
        for parts in range(1, 2**bits):
            q = levels / (levels.diff().min() / parts)
            inside = (
                q.min() > low - 0.5 and q.max() < high + 0.5 and q.max() - q.min() < 2**bits - 0.5
            )
            if inside and (q - q.round()).abs().max() < 1e-6:
                return True
        return False

    return member


def rank(matrix: Tensor) -> int:
    return (
        int(
            np.linalg.matrix_rank(matrix.numpy(), tol=1e-9 * max(1e-300, float(matrix.abs().max())))
        )
        if matrix.abs().max() > 0
        else 0
    )


def scheme(kernel: Tensor, number: int) -> Tensor:
    out, _, height, _ = kernel.shape
    return (
        kernel.reshape(out, -1) if number == 1 else kernel.movedim(2, 1).reshape(out * height, -1)
    )


def rank_cost(alpha: float, table: Callable[[int, int, int], float]) -> Callable[[Tensor], float]:
    """alpha times the least C(r) that writes Delta: a matrix of rank q is one of any rank r >= q
    too."""
    return lambda delta: (
        alpha * min(table(*delta.shape, r) for r in range(rank(delta), min(delta.shape) + 1))
    )


def storage(m: int, n: int, r: int) -> float:
    return min(r * (m + n), m * n)


def conv_cost(alpha: float, *schemes: int) -> Callable[[Tensor], float]:
    return lambda delta: min(rank_cost(alpha, storage)(scheme(delta, number)) for number in schemes)


def entropy_bits(values: list[float]) -> float:
    """n H(f)."""
    counts = [values.count(value) for value in set(values)]
    return sum(count * math.log2(len(values) / count) for count in counts)


def matrix_bits(delta: Tensor) -> float:
    """Positions by the model of `leco.coding.contexts`, values by their entropy, and 40 bits for
    each of them: entry by entry."""
    classes = [sum(value != 0 for value in row).bit_length() for row in delta.tolist()]
    bits, above = entropy_bits(classes), [0] * delta.shape[1]
    for row, b in zip(delta.tolist(), classes, strict=True):
        expected = (2 ** (b - 1) + 2**b - 1) / 2 if b else 0
        weights = [5 * count + 2 for count in above]
        for j, value in enumerate(row if b else []):
            p = min(max(expected * weights[j] / sum(weights), 2**-16), 61440 / 65536)
            bits -= math.log2(p if value else 1 - p)
            above[j] += value != 0
    kept = [value for value in delta.flatten().tolist() if value]
    return bits + entropy_bits(kept) + 40 * len(set(kept))


def hashed_cells(n: int, k: int, seed: int) -> Tensor:
    """`leco.theta.hashed_positions` in Python's integers."""

    def mix(y: int) -> int:
        for _ in range(2):
            y = ((y >> 16) ^ y) * 0x45D9F3B % 2**32
        return (y >> 16) ^ y

    return torch.tensor([mix((i + mix(seed + 1)) % 2**32) * k >> 32 for i in range(n)])


def one_value_a_cell(k: int, seed: int) -> Callable[[Tensor], bool]:
    def member(delta: Tensor) -> bool:
        cells = hashed_cells(len(delta), k, seed)
        return all(len(delta[cells == j].unique()) == 1 for j in cells.unique())

    return member


def groups_left(delta: Tensor) -> Tensor:
    return (delta != 0).any(1)


def unfold(x: Tensor, mode: int) -> Tensor:
    return x.movedim(mode, 0).flatten(1)


def multilinear_rank(*ranks: int) -> Callable[[Tensor], bool]:
    return lambda delta: all(rank(unfold(delta, k)) <= r for k, r in enumerate(ranks))


def train_rank(*ranks: int) -> Callable[[Tensor], bool]:
    return lambda delta: all(
        rank(delta.flatten(k + 1).flatten(0, k)) <= r for k, r in enumerate(ranks)
    )


def tucker_parameters(shape: tuple[int, ...], ranks: tuple[int, ...]) -> int:
    factors = sum(r * n for r, n in zip(ranks, shape, strict=False))
    return min(factors + math.prod(ranks) * math.prod(shape[len(ranks) :]), math.prod(shape))


def powers(c: int) -> tuple[float, ...]:
    return (0.0, *(sign * 2.0**-j for j in range(c + 1) for sign in (-1, 1)))


def but_for(kappa: int, *values: float) -> Callable[[Tensor], bool]:
    """All but kappa entries are one of the values, times one scale where none is given: the most
    frequent magnitude."""

    def member(delta: Tensor) -> bool:
        allowed = (
            delta.new_tensor(values)
            if values
            else delta.abs().mode().values * delta.new_tensor([-1, 1])
        )
        return int((~torch.isin(delta, allowed)).sum()) <= kappa

    return member


def entries(theta: Any) -> float:
    """2 for a float of a dense array, 1 for any other number."""
    return (
        2 * theta.values.numel()
        if isinstance(theta, Dense)
        else sum(field.numel() for field in tensors(theta).values())
    )

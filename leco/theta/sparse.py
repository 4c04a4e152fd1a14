"""Pruned weights: a mask and what it keeps, of single weights, of groups, and of n in each m."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from leco.theta.entries import inside, pick, replaced, runs_of
from leco.theta.protocol import (
    check_indices,
    check_mask,
    integers,
    is_count,
    require,
    shape_of,
    times,
    values,
)


class Sparse(NamedTuple):
    """w = 0 where `mask` is False, and `values` in order where it is True. `mask` (..., n) bool,
    `values` (number of True,)."""

    mask: Tensor
    values: Tensor

    def shape(self) -> torch.Size:
        kept, n = shape_of(self.values), self.mask.numel()
        require(
            len(kept) == 1 and kept[0] <= n,
            f"values {tuple(kept)} must be one for each True of {n} in the mask",
        )
        return _mask(self.mask)

    def decompress(self) -> Tensor:
        kept = values(self.values)
        return torch.zeros(
            self.mask.shape, dtype=kept.dtype, device=self.mask.device
        ).masked_scatter(self.mask, kept)

    def scaled(self, c: float) -> "Sparse":
        return self._replace(values=times(self.values, c))

    def free(self) -> tuple[str, ...]:
        return ("values",)

    def check(self) -> None:
        check_mask(self.mask, self.values)

    def take(self, at: Tensor) -> "Sparse | None":
        mask = self.mask.reshape(-1)
        order, kept = mask.cumsum(0) - 1, mask[at]
        return replaced(self, mask=kept, values=pick(self.values, order[at][kept]))


class GroupSparse(NamedTuple):
    """Whole groups: w_g = 0 where `mask` is False, and the rows of `values` in order where it is
    True.

    `mask` (..., groups) bool, `values` (number of True, size); w (..., groups, size).
    """

    mask: Tensor
    values: Tensor

    def shape(self) -> torch.Size:
        kept, groups = shape_of(self.values), self.mask.numel()
        require(
            len(kept) == 2 and kept[0] <= groups,
            f"values {tuple(kept)} must be a row for each True of {groups} in the mask",
        )
        return torch.Size([*_mask(self.mask), kept[1]])

    def decompress(self) -> Tensor:
        kept = values(self.values)
        x = torch.zeros(self.mask.numel(), kept.shape[-1], dtype=kept.dtype, device=kept.device)
        return x.index_copy(0, self.mask.view(-1).nonzero().squeeze(1), kept).view(
            *self.mask.shape, -1
        )

    def scaled(self, c: float) -> "GroupSparse":
        return self._replace(values=times(self.values, c))

    def free(self) -> tuple[str, ...]:
        return ("values",)

    def check(self) -> None:
        check_mask(self.mask, self.values)

    def take(self, at: Tensor) -> "GroupSparse | None":
        mask, size = self.mask.reshape(-1), shape_of(self.values)[-1]
        groups = runs_of(at, size)
        if groups is None:
            return None
        kept = mask[groups]
        rows = (mask.cumsum(0) - 1)[groups][kept]
        return replaced(self, mask=kept, values=pick(self.values, inside(rows, size)))


@functools.lru_cache(maxsize=8)
def patterns(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All ways to choose n of m <= 16 places: the places (C, n), int64, and the number of each by
    its bits (bit j for place j), (2^m,).

    Their order is that of the bits. Files depend on it: it must not change.
    """
    bits = [code for code in range(2**m) if code.bit_count() == n]
    numbers = torch.zeros(2**m, dtype=torch.uint8 if len(bits) <= 256 else torch.int32)
    numbers[bits] = torch.arange(len(bits)).to(numbers.dtype)
    places = torch.tensor([[j for j in range(m) if code >> j & 1] for code in bits])
    return places.to(device), numbers.to(device)


class NMSparse(NamedTuple):
    """n weights in each block of m neighbours, at the places of the block's pattern (`patterns`), 0
    elsewhere.

    `pattern` (..., k) integers below (m over n), `values` (..., k, n); w (..., k m).
    """

    pattern: Tensor
    values: Tensor
    m: int

    def shape(self) -> torch.Size:
        *blocks, n = shape_of(self.values)
        require(
            tuple(blocks) == self.pattern.shape,
            f"values ({blocks}, {n}) do not fit patterns {tuple(self.pattern.shape)}",
        )
        require(
            is_count(self.m) and 1 <= n <= self.m <= 16,
            f"{n} of m = {self.m} must be at least 1 of at most 16",
        )
        *batch, k = integers("pattern", self.pattern)
        return torch.Size([*batch, k * self.m])

    def decompress(self) -> Tensor:
        kept = values(self.values)
        places, _ = patterns(kept.shape[-1], self.m, kept.device)
        x = torch.zeros(*kept.shape[:-1], self.m, dtype=kept.dtype, device=kept.device)
        return x.scatter(
            -1, places.index_select(0, self.pattern.view(-1).int()).view(kept.shape), kept
        ).flatten(-2)

    def scaled(self, c: float) -> "NMSparse":
        return self._replace(values=times(self.values, c))

    def free(self) -> tuple[str, ...]:
        return ("values",)

    def check(self) -> None:
        check_indices("pattern", self.pattern, math.comb(self.m, shape_of(self.values)[-1]))

    def take(self, at: Tensor) -> "NMSparse | None":
        blocks = runs_of(at, self.m)
        if blocks is None:
            return None
        kept = pick(self.values, inside(blocks, shape_of(self.values)[-1]))
        return replaced(self, pattern=self.pattern.reshape(-1)[blocks], values=kept)


def _mask(x: Tensor) -> torch.Size:
    require(
        x.dtype == torch.bool and x.dim() > 0,
        f"a mask {tuple(x.shape)} of {x.dtype} must be bools, (..., n)",
    )
    return x.shape

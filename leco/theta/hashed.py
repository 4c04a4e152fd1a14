"""Weights that share values by their positions, as a hash function says."""

from typing import NamedTuple

import torch
from torch import Tensor

from leco.theta.protocol import is_count, require

PART = 2**17  # positions that are found at a time


def hashed_positions(
    k: int, seed: int, start: int, stop: int, device: torch.device | None = None
) -> Tensor:
    """h(i) for start <= i < stop, int64: (k mix(i + mix(seed + 1) mod 2^32)) >> 32. Files depend on
    it: it must not change.

    mix, on 32-bit integers: twice y <- ((y >> 16) xor y) 0x45d9f3b mod 2^32, then y <- (y >> 16)
    xor y. All products are below 2^63.
    """

    def mix(y: Tensor) -> Tensor:
        for _ in range(2):
            y = (y >> 16).bitwise_xor_(y).mul_(0x45D9F3B).bitwise_and_(0xFFFFFFFF)
        return (y >> 16).bitwise_xor_(y)

    offset = int(mix(torch.tensor(seed + 1)))
    places = torch.arange(start + offset, stop + offset, device=device).bitwise_and_(0xFFFFFFFF)
    return mix(places).mul_(k).bitwise_right_shift_(32)


class HashedValues(NamedTuple):
    """Values shared by position: w_i = values[h(i)], i = 0..length - 1. `values` (..., K) floats; h
    is `hashed_positions`, by `seed`."""

    values: Tensor
    length: int
    seed: int

    def shape(self) -> torch.Size:
        require(
            is_count(self.length) and type(self.seed) is int,
            f"length = {self.length} and seed = {self.seed} must be integers, the first >= 0",
        )
        return torch.Size([*self.values.shape[:-1], self.length])

    def decompress(self) -> Tensor:
        # in parts that stay in cache
        k, device, starts = self.values.shape[-1], self.values.device, range(0, self.length, PART)
        parts = [(start, min(start + PART, self.length)) for start in starts]
        indices = [hashed_positions(k, self.seed, *part, device).int() for part in parts]
        return self.values.index_select(-1, torch.cat(indices))

    def scaled(self, c: float) -> "HashedValues":
        return self._replace(values=c * self.values)

    def free(self) -> tuple[str, ...]:
        return ("values",)

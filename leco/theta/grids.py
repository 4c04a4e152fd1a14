"""Weights on uniform grids: integers with a scale, and a zero point or a least value."""

from typing import NamedTuple

import torch
from torch import Tensor

from leco.native.symbols import on_grid
from leco.theta.index_coded import IndexCoded, taken
from leco.theta.protocol import check_indices, integers, is_count, require

MOST_LEVELS = 256  # of a grid: its indices are bytes


class Affine(NamedTuple):
    """Uniform grid: w_i = scale * (indices_i - zero_point). `indices` (..., n) uint8, `scale` (...)
    float, `zero_point` (...) uint8."""

    indices: Tensor
    scale: Tensor
    zero_point: Tensor

    def shape(self) -> torch.Size:
        batch = self.indices.shape[:-1]
        require(
            self.scale.shape == batch == self.zero_point.shape,
            f"scale and zero_point must be {tuple(batch)}, as the indices are",
        )
        return integers("indices", self.indices)

    def decompress(self) -> Tensor:
        found = on_grid(self.indices, self.scale, self.zero_point)
        if found is not None:
            return found
        zero_point = self.zero_point.to(self.scale.dtype).unsqueeze(-1)
        levels = self.indices.to(self.scale.dtype, copy=True).sub_(zero_point)
        return levels.mul_(self.scale.unsqueeze(-1))

    def scaled(self, c: float) -> "Affine":
        return self._replace(scale=c * self.scale)

    def free(self) -> tuple[str, ...]:
        return ("scale",)

    def take(self, at: Tensor) -> "Affine | None":
        return taken(self, at, scale=0, zero_point=0)

    def index_coded(self) -> IndexCoded:
        return IndexCoded(self.indices, None, self.scale.reshape(-1), self.zero_point.reshape(-1))


class Shifted(NamedTuple):
    """Uniform grid anywhere on the line: w_i = scale * indices_i + shift. `indices` (..., n) uint8
    up to `top`, `scale` and `shift` (...) floats."""

    indices: Tensor
    scale: Tensor
    shift: Tensor
    top: int

    def shape(self) -> torch.Size:
        batch = self.indices.shape[:-1]
        require(
            self.scale.shape == batch == self.shift.shape,
            f"scale and shift must be {tuple(batch)}, as the indices are",
        )
        return integers("indices", self.indices)

    def decompress(self) -> Tensor:
        steps = self.scale.unsqueeze(-1) * self.indices.to(self.scale.dtype)
        return steps + self.shift.unsqueeze(-1)

    def scaled(self, c: float) -> "Shifted":
        return self._replace(scale=c * self.scale, shift=c * self.shift)

    def free(self) -> tuple[str, ...]:
        return ("scale", "shift")

    def check(self) -> None:
        require(
            is_count(self.top) and self.top < MOST_LEVELS,
            f"top = {self.top!r} must be at least 0 and below {MOST_LEVELS}",
        )
        check_indices("indices", self.indices, self.top + 1)

    def take(self, at: Tensor) -> "Shifted | None":
        return taken(self, at, scale=0, shift=0)

    def index_coded(self) -> IndexCoded:
        levels = torch.arange(self.top + 1, dtype=self.scale.dtype, device=self.scale.device)
        steps = self.scale.reshape(-1, 1) * levels
        return IndexCoded(self.indices, steps + self.shift.reshape(-1, 1))

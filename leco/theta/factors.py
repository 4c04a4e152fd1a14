"""Matrices and tensors as they are, or as products of smaller ones: low rank, Tucker, CP, tensor
train."""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.theta.entries import pick, replaced
from leco.theta.protocol import is_count, require, shape_of, spread, times, values


class Dense(NamedTuple):
    """w = values: no smaller form exists (an l2 ball, a full rank)."""

    values: Tensor

    def shape(self) -> torch.Size:
        return shape_of(self.values)

    def decompress(self) -> Tensor:
        return values(self.values)

    def scaled(self, c: float) -> "Dense":
        return self._replace(values=times(self.values, c))

    def free(self) -> tuple[str, ...]:
        return ("values",)

    def take(self, at: Tensor) -> "Dense | None":
        return replaced(self, values=pick(self.values, at))


class Factors(NamedTuple):
    """Low rank: W = u v. `u` (..., m, r), `v` (..., r, n); r = 0 is the zero matrix."""

    u: Tensor
    v: Tensor

    def shape(self) -> torch.Size:
        *batch, m, r = shape_of(self.u)
        *same, q, n = shape_of(self.v)
        require(
            batch == same and r == q <= min(m, n),
            f"factors {m} x {r} and {q} x {n} of batches {batch} and {same} do not fit",
        )
        return torch.Size([*batch, m, n])

    def decompress(self) -> Tensor:
        return values(self.u) @ values(self.v)

    def scaled(self, c: float) -> "Factors":
        return self._replace(u=times(self.u, c / spread(c, 2)), v=times(self.v, spread(c, 2)))

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


class ConvFactors(NamedTuple):
    """Low rank of a convolution kernel (out, in, height, width), as two smaller convolutions.

    scheme 1: the matrix out x (in height width); scheme 2: the matrix (out height) x (in width).
    `u` (rows, r), `v` (r, columns).
    """

    u: Tensor
    v: Tensor
    scheme: int
    height: int
    width: int

    def shape(self) -> torch.Size:
        rows, columns = Factors(self.u, self.v).shape()
        height, width = self.height, self.width
        down, along = (1, height * width) if self.scheme == 1 else (height, width)
        require(
            self.scheme in (1, 2) and is_count(height) and is_count(width) and down > 0 < along,
            f"scheme {self.scheme}, {height} x {width}",
        )
        require(
            rows % down == 0 == columns % along,
            f"a matrix {rows} x {columns} has no kernels of {height} x {width} "
            f"by scheme {self.scheme}",
        )
        return torch.Size([rows // down, columns // along, height, width])

    def decompress(self) -> Tensor:
        matrix = values(self.u) @ values(self.v)
        if self.scheme == 1:
            return matrix.unflatten(1, (-1, self.height, self.width))
        return matrix.unflatten(1, (-1, self.width)).unflatten(0, (-1, self.height)).transpose(1, 2)

    def scaled(self, c: float) -> "ConvFactors":
        return self._replace(u=times(self.u, c / spread(c, 2)), v=times(self.v, spread(c, 2)))

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


def mode_product(x: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """x with each of its fibres along `mode` (n,) multiplied by `matrix` (m, n)."""
    return torch.tensordot(matrix, x.movedim(mode, 0), 1).movedim(0, mode)


class TuckerFactors(NamedTuple):
    """Tucker: x = core x_1 U_1 ... x_K U_K over the first K modes. `core` (r_1, ..., r_K, n_{K+1},
    ..., n_N), `factors` of (n_k, r_k)."""

    core: Tensor
    factors: tuple[Tensor, ...]

    def shape(self) -> torch.Size:
        core, sides = shape_of(self.core), [shape_of(factor) for factor in self.factors]
        fit = len(sides) <= len(core) and all(
            len(side) == 2 and side[1] == r <= side[0] for side, r in zip(sides, core, strict=False)
        )
        require(fit, f"factors {[tuple(side) for side in sides]} do not fit a core {tuple(core)}")
        return torch.Size([*(n for n, _ in sides), *core[len(sides) :]])

    def decompress(self) -> Tensor:
        x = values(self.core)
        for mode, factor in enumerate(self.factors):
            x = mode_product(x, values(factor), mode)
        return x.contiguous()

    def scaled(self, c: float) -> "TuckerFactors":
        each = spread(c, 1 + len(self.factors))
        return self._replace(
            core=times(self.core, c / each ** len(self.factors)),
            factors=tuple(times(u, each) for u in self.factors),
        )

    def free(self) -> tuple[str, ...]:
        return ("core", "factors")


class CPFactors(NamedTuple):
    """CP: x = sum over r of the outer products of the r-th columns. `factors` of (n_k, rank), one
    for each mode."""

    factors: tuple[Tensor, ...]

    def shape(self) -> torch.Size:
        sides = [shape_of(factor) for factor in self.factors]
        fit = bool(sides) and all(len(side) == 2 and side[1] == sides[0][1] for side in sides)
        require(fit, f"factors {[tuple(side) for side in sides]} do not fit")
        shape = torch.Size(n for n, _ in sides)
        require(
            sides[0][1] * max(shape) <= shape.numel(),
            f"a tensor of shape {tuple(shape)} has no rank {sides[0][1]}",
        )
        return shape

    def halves(self) -> list[tuple[Any, ...]]:
        """The factors of the first modes, and those of the others: x as a matrix that is as square
        as it can be."""
        sizes = [shape_of(factor)[0] for factor in self.factors]
        cut = min(
            range(1, len(sizes) + 1), key=lambda k: math.prod(sizes[:k]) + math.prod(sizes[k:])
        )
        return [self.factors[:cut], self.factors[cut:]]

    def decompress(self) -> Tensor:
        left, right = ([values(factor) for factor in half] for half in self.halves())
        product = _khatri_rao(left) @ _khatri_rao(right).mT if right else _khatri_rao(left).sum(1)
        return product.view([len(factor) for factor in (*left, *right)])

    def scaled(self, c: float) -> "CPFactors":
        each = spread(c, len(self.factors))
        first = times(self.factors[0], c / each ** (len(self.factors) - 1))
        return self._replace(factors=(first, *(times(a, each) for a in self.factors[1:])))

    def free(self) -> tuple[str, ...]:
        return ("factors",)

    def intermediate(self) -> int:
        sides = (math.prod(shape_of(factor)[0] for factor in half) for half in self.halves())
        return shape_of(self.factors[0])[1] * sum(sides)


def _khatri_rao(factors: list[Tensor]) -> Tensor:
    return functools.reduce(
        lambda product, factor: (product.unsqueeze(1) * factor).flatten(0, 1), factors
    )


class TrainFactors(NamedTuple):
    """Tensor train: x[i_1, ..., i_N] = G_1[:, i_1] G_2[:, i_2] ... G_N[:, i_N]. `cores` of
    (r_{k-1}, n_k, r_k), r_0 = r_N = 1."""

    cores: tuple[Tensor, ...]

    def shape(self) -> torch.Size:
        sides = [shape_of(core) for core in self.cores]
        require(
            all(len(side) == 3 for side in sides),
            f"cores {[tuple(side) for side in sides]} must have three dimensions each",
        )
        left, right = [r for r, _, _ in sides], [r for _, _, r in sides]
        shape = torch.Size(n for _, n, _ in sides)
        require(
            left[0] == right[-1] == 1 and left[1:] == right[:-1],
            f"cores {[tuple(side) for side in sides]} do not fit",
        )
        for k, r in enumerate(right):
            require(
                r <= min(shape[: k + 1].numel(), shape[k + 1 :].numel()),
                f"a tensor of shape {tuple(shape)} has no rank {r} after mode {k + 1}",
            )
        return shape

    def decompress(self) -> Tensor:
        x = values(self.cores[0])
        for core in self.cores[1:]:
            x = torch.tensordot(x, values(core), 1)
        return x.squeeze(0).squeeze(-1)

    def scaled(self, c: float) -> "TrainFactors":
        each = spread(c, len(self.cores))
        first = times(self.cores[0], c / each ** (len(self.cores) - 1))
        return self._replace(cores=(first, *(times(a, each) for a in self.cores[1:])))

    def free(self) -> tuple[str, ...]:
        return ("cores",)

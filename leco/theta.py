"""The compressed forms Theta, each with its decompression Delta(Theta): every Delta of the library is on this page.

A Theta is a NamedTuple of tensors and ints. It knows nothing of how it was found: several compressions share one form, and a file
of Thetas loads without the compressions, options or costs that made them.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from leco.views import View

Array = Tensor | tuple[Tensor, ...]
"""What a view gives and a compression takes: one tensor, or the blocks of `leco.Blocks`."""


@runtime_checkable
class Theta(Protocol):
    """What the algorithm and the file need of a compressed form. A new form is a NamedTuple with these two methods.

    A field is a tensor, an int, another Theta (quantized values of the kept weights), a view, or a tuple of these. `free` names the float
    fields that stay free once the discrete choices (indices, masks, ranks) are fixed: what retraining moves.

    The library's forms have a third one, which yours may have: `shape()`, that of Delta(Theta), from the shapes of the fields alone. It raises
    ValueError where fields do not fit each other. A file's sizes are checked with it before any memory is taken.
    """

    _fields: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]: ...
    def _replace(self, **fields: Any) -> "Theta": ...
    def decompress(self) -> Any: ...
    def free(self) -> tuple[str, ...]: ...


def lookup(values: Tensor, indices: Tensor) -> Tensor:
    """values[..., indices]: `values` (..., K) or (K,), `indices` (..., n) integers below K, result (..., n); differentiable in `values`."""
    if values.shape[-1] == 2:  # one bit: a select is several times faster than a gather, and needs no wide indices
        values = values.expand(*indices.shape[:-1], 2)
        return torch.where(indices.bool(), values[..., 1:], values[..., :1])
    if values.dim() == 1:  # half the memory of a gather, whose indices are int64, and three times as fast
        return values.index_select(0, indices.reshape(-1).int()).view(indices.shape)
    values = values.expand(*indices.shape[:-1], values.shape[-1])
    return values.gather(-1, indices.long())


class Codes(NamedTuple):
    """Learned codebook: w_i = codebook[indices_i]. `indices` (..., n) integers, `codebook` (..., K) floats."""

    indices: Tensor
    codebook: Tensor

    def shape(self) -> torch.Size:
        return _looked_up(self.indices, self.codebook.shape[:-1])

    def decompress(self) -> Tensor:
        return lookup(self.codebook, self.indices)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)


class Fixed(NamedTuple):
    """Given codebook: w_i = values[indices_i]. `indices` (..., n) integers, `values` (K,) floats that nothing moves."""

    indices: Tensor
    values: Tensor

    def shape(self) -> torch.Size:
        return _looked_up(self.indices, self.values.shape[:-1])

    def decompress(self) -> Tensor:
        return lookup(self.values, self.indices)

    def free(self) -> tuple[str, ...]:
        return ()


class Scaled(NamedTuple):
    """Given codebook, learned scale: w_i = scale * values[indices_i]. `indices` (..., n), `values` (K,), `scale` (...)."""

    indices: Tensor
    values: Tensor
    scale: Tensor

    def shape(self) -> torch.Size:
        _require(self.values.dim() == 1, f"values must be (K,), not {tuple(self.values.shape)}")
        return _looked_up(self.indices, self.scale.shape)

    def decompress(self) -> Tensor:
        return lookup(self.scale.unsqueeze(-1) * self.values, self.indices)

    def free(self) -> tuple[str, ...]:
        return ("scale",)


class ZeroCodes(NamedTuple):
    """Learned values beside 0: w_i = 0 where indices_i = 0, else codebook[indices_i - 1]. `indices` (..., n), `codebook` (..., K) floats."""

    indices: Tensor
    codebook: Tensor

    def shape(self) -> torch.Size:
        return _looked_up(self.indices, self.codebook.shape[:-1])

    def decompress(self) -> Tensor:
        return lookup(torch.nn.functional.pad(self.codebook, (1, 0)), self.indices)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)


class VectorCodes(NamedTuple):
    """Learned codewords of d weights: w_i = codebook[indices_i]. `indices` (..., n) integers, `codebook` (..., K, d) floats; w (..., n, d)."""

    indices: Tensor
    codebook: Tensor

    def shape(self) -> torch.Size:
        *batch, _, d = self.codebook.shape
        _require(tuple(batch) == self.indices.shape[:-1], f"codewords {tuple(self.codebook.shape)} do not fit indices {tuple(self.indices.shape)}")
        return torch.Size([*_integers("indices", self.indices), d])

    def decompress(self) -> Tensor:
        first = self.codebook.shape[-2] * torch.arange(self.indices.shape[:-1].numel(), device=self.indices.device)
        rows = self.indices.long() + first.view(self.indices.shape[:-1]).unsqueeze(-1)
        return self.codebook.flatten(0, -2).index_select(0, rows.view(-1)).view(*self.indices.shape, -1)

    def free(self) -> tuple[str, ...]:
        return ("codebook",)


def hashed_positions(k: int, seed: int, start: int, stop: int, device: torch.device | None = None) -> Tensor:
    """h(i) for start <= i < stop, int64: (k mix(i + mix(seed + 1) mod 2^32)) >> 32. Files depend on it: it must not change.

    mix, on 32-bit integers: twice y <- ((y >> 16) xor y) 0x45d9f3b mod 2^32, then y <- (y >> 16) xor y. All products are below 2^63.
    """

    def mix(y: Tensor) -> Tensor:
        for _ in range(2):
            y = (y >> 16).bitwise_xor_(y).mul_(0x45D9F3B).bitwise_and_(0xFFFFFFFF)
        return (y >> 16).bitwise_xor_(y)

    offset = int(mix(torch.tensor(seed + 1)))
    return mix(torch.arange(start + offset, stop + offset, device=device).bitwise_and_(0xFFFFFFFF)).mul_(k).bitwise_right_shift_(32)


class HashedValues(NamedTuple):
    """Values shared by position: w_i = values[h(i)], i = 0..length - 1. `values` (..., K) floats; h is `hashed_positions`, by `seed`."""

    values: Tensor
    length: int
    seed: int

    def shape(self) -> torch.Size:
        _require(_is_count(self.length) and type(self.seed) is int, f"length = {self.length} and seed = {self.seed} must be integers, the first >= 0")
        return torch.Size([*self.values.shape[:-1], self.length])

    def decompress(self) -> Tensor:
        k, parts = self.values.shape[-1], [(first, min(first + 2**17, self.length)) for first in range(0, self.length, 2**17)]
        indices = [hashed_positions(k, self.seed, *part, self.values.device).int() for part in parts]  # a part stays in cache
        return self.values.index_select(-1, torch.cat(indices))

    def free(self) -> tuple[str, ...]:
        return ("values",)


class Affine(NamedTuple):
    """Uniform grid: w_i = scale * (indices_i - zero_point). `indices` (..., n) uint8, `scale` (...) float, `zero_point` (...) uint8."""

    indices: Tensor
    scale: Tensor
    zero_point: Tensor

    def shape(self) -> torch.Size:
        batch = self.indices.shape[:-1]
        _require(self.scale.shape == batch == self.zero_point.shape, f"scale and zero_point must be {tuple(batch)}, as the indices are")
        return _integers("indices", self.indices)

    def decompress(self) -> Tensor:
        levels = self.indices.to(self.scale.dtype) - self.zero_point.to(self.scale.dtype).unsqueeze(-1)
        return self.scale.unsqueeze(-1) * levels

    def free(self) -> tuple[str, ...]:
        return ("scale",)


class Sparse(NamedTuple):
    """w = 0 where `mask` is False, and `values` in order where it is True. `mask` (..., n) bool, `values` (number of True,)."""

    mask: Tensor
    values: Tensor

    def shape(self) -> torch.Size:
        kept, n = shape_of(self.values), self.mask.numel()
        _require(len(kept) == 1 and kept[0] <= n, f"values {tuple(kept)} must be one for each True of {n} in the mask")
        return _mask(self.mask)

    def decompress(self) -> Tensor:
        kept = values(self.values)
        return torch.zeros(self.mask.shape, dtype=kept.dtype, device=self.mask.device).masked_scatter(self.mask, kept)

    def free(self) -> tuple[str, ...]:
        return ("values",)


class GroupSparse(NamedTuple):
    """Whole groups: w_g = 0 where `mask` is False, and the rows of `values` in order where it is True.

    `mask` (..., groups) bool, `values` (number of True, size); w (..., groups, size).
    """

    mask: Tensor
    values: Tensor

    def shape(self) -> torch.Size:
        kept, groups = shape_of(self.values), self.mask.numel()
        _require(len(kept) == 2 and kept[0] <= groups, f"values {tuple(kept)} must be a row for each True of {groups} in the mask")
        return torch.Size([*_mask(self.mask), kept[1]])

    def decompress(self) -> Tensor:
        kept = values(self.values)
        x = torch.zeros(self.mask.numel(), kept.shape[-1], dtype=kept.dtype, device=kept.device)
        return x.index_copy(0, self.mask.view(-1).nonzero().squeeze(1), kept).view(*self.mask.shape, -1)

    def free(self) -> tuple[str, ...]:
        return ("values",)


@functools.lru_cache(maxsize=8)
def patterns(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All ways to choose n of m <= 16 places: the places (C, n), int64, and the number of each by its bits (bit j for place j), (2^m,).

    Their order is that of the bits. Files depend on it: it must not change.
    """
    bits = [code for code in range(2**m) if code.bit_count() == n]
    numbers = torch.zeros(2**m, dtype=torch.uint8 if len(bits) <= 256 else torch.int32)
    numbers[bits] = torch.arange(len(bits)).to(numbers.dtype)
    places = torch.tensor([[j for j in range(m) if code >> j & 1] for code in bits])
    return places.to(device), numbers.to(device)


class NMSparse(NamedTuple):
    """n weights in each block of m neighbours, at the places of the block's pattern (`patterns`), 0 elsewhere.

    `pattern` (..., k) integers below (m over n), `values` (..., k, n); w (..., k m).
    """

    pattern: Tensor
    values: Tensor
    m: int

    def shape(self) -> torch.Size:
        *blocks, n = shape_of(self.values)
        _require(tuple(blocks) == self.pattern.shape, f"values ({blocks}, {n}) do not fit patterns {tuple(self.pattern.shape)}")
        _require(_is_count(self.m) and 1 <= n <= self.m <= 16, f"{n} of m = {self.m} must be at least 1 of at most 16")
        *batch, k = _integers("pattern", self.pattern)
        return torch.Size([*batch, k * self.m])

    def decompress(self) -> Tensor:
        kept = values(self.values)
        places, _ = patterns(kept.shape[-1], self.m, kept.device)
        x = torch.zeros(*kept.shape[:-1], self.m, dtype=kept.dtype, device=kept.device)
        return x.scatter(-1, places.index_select(0, self.pattern.view(-1).int()).view(kept.shape), kept).flatten(-2)

    def free(self) -> tuple[str, ...]:
        return ("values",)


class Dense(NamedTuple):
    """w = values: no smaller form exists (an l2 ball, a full rank)."""

    values: Tensor

    def shape(self) -> torch.Size:
        return shape_of(self.values)

    def decompress(self) -> Tensor:
        return values(self.values)

    def free(self) -> tuple[str, ...]:
        return ("values",)


class Factors(NamedTuple):
    """Low rank: W = u v. `u` (..., m, r), `v` (..., r, n); r = 0 is the zero matrix."""

    u: Tensor
    v: Tensor

    def shape(self) -> torch.Size:
        *batch, m, r = shape_of(self.u)
        *same, q, n = shape_of(self.v)
        _require(batch == same and r == q <= min(m, n), f"factors {m} x {r} and {q} x {n} of batches {batch} and {same} do not fit")
        return torch.Size([*batch, m, n])

    def decompress(self) -> Tensor:
        return values(self.u) @ values(self.v)

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


class ConvFactors(NamedTuple):
    """Low rank of a convolution kernel (out, in, height, width), as two smaller convolutions.

    scheme 1: the matrix out x (in height width); scheme 2: the matrix (out height) x (in width). `u` (rows, r), `v` (r, columns).
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
        _require(self.scheme in (1, 2) and _is_count(height) and _is_count(width) and down > 0 < along, f"scheme {self.scheme}, {height} x {width}")
        _require(rows % down == 0 == columns % along, f"a matrix {rows} x {columns} has no kernels of {height} x {width} by scheme {self.scheme}")
        return torch.Size([rows // down, columns // along, height, width])

    def decompress(self) -> Tensor:
        matrix = values(self.u) @ values(self.v)
        if self.scheme == 1:
            return matrix.unflatten(1, (-1, self.height, self.width))
        return matrix.unflatten(1, (-1, self.width)).unflatten(0, (-1, self.height)).transpose(1, 2)

    def free(self) -> tuple[str, ...]:
        return ("u", "v")


def mode_product(x: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """x with each of its fibres along `mode` (n,) multiplied by `matrix` (m, n)."""
    return torch.tensordot(matrix, x.movedim(mode, 0), 1).movedim(0, mode)


class TuckerFactors(NamedTuple):
    """Tucker: x = core x_1 U_1 ... x_K U_K over the first K modes. `core` (r_1, ..., r_K, n_{K+1}, ..., n_N), `factors` of (n_k, r_k)."""

    core: Tensor
    factors: tuple[Tensor, ...]

    def shape(self) -> torch.Size:
        core, sides = shape_of(self.core), [shape_of(factor) for factor in self.factors]
        fit = len(sides) <= len(core) and all(len(side) == 2 and side[1] == r <= side[0] for side, r in zip(sides, core, strict=False))
        _require(fit, f"factors {[tuple(side) for side in sides]} do not fit a core {tuple(core)}")
        return torch.Size([*(n for n, _ in sides), *core[len(sides) :]])

    def decompress(self) -> Tensor:
        x = values(self.core)
        for mode, factor in enumerate(self.factors):
            x = mode_product(x, values(factor), mode)
        return x.contiguous()

    def free(self) -> tuple[str, ...]:
        return ("core", "factors")


class CPFactors(NamedTuple):
    """CP: x = sum over r of the outer products of the r-th columns. `factors` of (n_k, rank), one for each mode."""

    factors: tuple[Tensor, ...]

    def shape(self) -> torch.Size:
        sides = [shape_of(factor) for factor in self.factors]
        fit = bool(sides) and all(len(side) == 2 and side[1] == sides[0][1] for side in sides)
        _require(fit, f"factors {[tuple(side) for side in sides]} do not fit")
        shape = torch.Size(n for n, _ in sides)
        _require(sides[0][1] * max(shape) <= shape.numel(), f"a tensor of shape {tuple(shape)} has no rank {sides[0][1]}")
        return shape

    def halves(self) -> list[tuple[Any, ...]]:
        """x as a matrix of its first modes against the others, as even as it can be: their factors."""
        sizes = [shape_of(factor)[0] for factor in self.factors]
        cut = min(range(1, len(sizes) + 1), key=lambda k: math.prod(sizes[:k]) + math.prod(sizes[k:]))
        return [self.factors[:cut], self.factors[cut:]]

    def decompress(self) -> Tensor:
        left, right = ([values(factor) for factor in half] for half in self.halves())
        product = _khatri_rao(left) @ _khatri_rao(right).mT if right else _khatri_rao(left).sum(1)
        return product.view([len(factor) for factor in (*left, *right)])

    def free(self) -> tuple[str, ...]:
        return ("factors",)


def _khatri_rao(factors: list[Tensor]) -> Tensor:
    return functools.reduce(lambda product, factor: (product.unsqueeze(1) * factor).flatten(0, 1), factors)


class TrainFactors(NamedTuple):
    """Tensor train: x[i_1, ..., i_N] = G_1[:, i_1] G_2[:, i_2] ... G_N[:, i_N]. `cores` of (r_{k-1}, n_k, r_k), r_0 = r_N = 1."""

    cores: tuple[Tensor, ...]

    def shape(self) -> torch.Size:
        sides = [shape_of(core) for core in self.cores]
        _require(all(len(side) == 3 for side in sides), f"cores {[tuple(side) for side in sides]} must have three dimensions each")
        left, right = [r for r, _, _ in sides], [r for _, _, r in sides]
        shape = torch.Size(n for _, n, _ in sides)
        _require(left[0] == right[-1] == 1 and left[1:] == right[:-1], f"cores {[tuple(side) for side in sides]} do not fit")
        for k, r in enumerate(right):
            _require(r <= min(shape[: k + 1].numel(), shape[k + 1 :].numel()), f"a tensor of shape {tuple(shape)} has no rank {r} after mode {k + 1}")
        return shape

    def decompress(self) -> Tensor:
        x = values(self.cores[0])
        for core in self.cores[1:]:
            x = torch.tensordot(x, values(core), 1)
        return x.squeeze(0).squeeze(-1)

    def free(self) -> tuple[str, ...]:
        return ("cores",)


class Term(NamedTuple):
    """A Theta seen through `view`, over `weight`: Delta of the blocks `at`, of the shapes that the `Sum` it stands in lists.

    `candidate` says which one of a `leco.Choice` it is.
    """

    theta: Theta
    view: View
    at: tuple[int, ...]
    candidate: int = 0
    weight: float = 1.0

    def shape(self) -> Any:
        return shape_of(self.theta)

    def decompress(self) -> Any:
        return self.theta.decompress()

    def free(self) -> tuple[str, ...]:
        return ("theta",)


class Sum(NamedTuple):
    """Block b is the sum of the terms that have b among their blocks; 0 where none has. `single`: 1 for one tensor, 0 for a tuple of blocks."""

    terms: tuple[Term, ...]
    shapes: tuple[tuple[int, ...], ...]
    single: int

    def shape(self) -> Any:
        shapes = tuple(torch.Size(shape) for shape in self.shapes)
        _require(any(term.at for term in self.terms) and self.single in (0, 1) and (len(shapes) == 1 or not self.single), "a sum of no blocks")
        for t, term in enumerate(self.terms):
            places = all(_is_count(b) and b < len(shapes) for b in term.at) and len(set(term.at)) == len(term.at)
            _require(places and 0 < term.weight < math.inf, f"term {t} is at {term.at} of {len(shapes)} blocks, with weight {term.weight}")
            expected, got = term.view.shape([shapes[b] for b in term.at]), term.shape()
            _require(expected == got, f"term {t} needs the shape {expected} and has {got}")
        return shapes[0] if self.single else shapes

    def blocks(self) -> tuple[Tensor, ...]:
        found: dict[int, Tensor] = {}
        for term in self.terms:
            parts = term.view.backward(term.decompress(), [torch.Size(self.shapes[b]) for b in term.at])
            for b, part in zip(term.at, parts, strict=True):
                part = part if term.weight == 1 else part / term.weight
                found[b] = found[b] + part if b in found else part
        like = next(iter(found.values()))
        return tuple(found[b] if b in found else like.new_zeros(shape) for b, shape in enumerate(self.shapes))

    def decompress(self) -> Array:
        blocks = self.blocks()
        return blocks[0] if self.single else blocks

    def free(self) -> tuple[str, ...]:
        return ("terms",)


THETAS: tuple[type, ...] = (
    Codes,
    Fixed,
    Scaled,
    ZeroCodes,
    VectorCodes,
    HashedValues,
    Affine,
    Sparse,
    GroupSparse,
    NMSparse,
    Dense,
    Factors,
    ConvFactors,
    TuckerFactors,
    CPFactors,
    TrainFactors,
    Term,
    Sum,
)
"""The forms that a file may name."""


def values(field: Any) -> Any:
    """The numbers of a field that is a tensor, or a Theta of it."""
    return field if isinstance(field, Tensor) else field.decompress()


def shape_of(field: Any) -> Any:
    """The shape of a field that is a tensor, or of a Theta of it."""
    return field.shape if isinstance(field, Tensor) else field.shape()


def _require(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _integers(name: str, x: Tensor) -> torch.Size:
    _require(not x.is_floating_point() and x.dim() > 0, f"{name} {tuple(x.shape)} of {x.dtype} must be integers, (..., n)")
    return x.shape


def _mask(x: Tensor) -> torch.Size:
    _require(x.dtype == torch.bool and x.dim() > 0, f"a mask {tuple(x.shape)} of {x.dtype} must be bools, (..., n)")
    return x.shape


def _looked_up(indices: Tensor, batch: torch.Size) -> torch.Size:
    """The shape of `lookup` with values (*batch, K)."""
    own = _integers("indices", indices)[:-1]
    fit = len(batch) <= len(own) and all(b in (1, n) for b, n in zip(reversed(batch), reversed(own), strict=False))
    _require(fit, f"values for {tuple(batch)} problems do not fit {tuple(own)}")
    return indices.shape

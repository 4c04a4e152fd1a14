"""A Theta in memory at its own size: integers packed in bytes, and its Delta decoded from them by tensor operations that compile and export.

Integers     as many base-K digits to a byte as fit, or 2 to 4 bytes each
Coded        w = scale (values[index] - shift): codebooks, signs, grids, codewords
Scattered    0 but for some entries, or groups of them
Patterned    n of each m
Whole        any other form: its fields, each packed or not, and its own decompress
"""

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from leco.theta import Affine, Codes, Dense, Fixed, GroupSparse, NMSparse, Scaled, Sparse, Theta, VectorCodes, ZeroCodes, patterns

BASES = {8: 2, 5: 3, 4: 4, 3: 6, 2: 16, 1: 256}
"""How many numbers a byte holds, and what they are below."""


def per_byte(count: int) -> int:
    """How many numbers below `count` a byte holds: 0 where one is longer than a byte."""
    return next((per for per, base in BASES.items() if count <= base), 0)


@functools.lru_cache(maxsize=32)
def digits(count: int) -> Tensor:
    """The numbers in each byte that occurs, (bytes, numbers to a byte)."""
    per = per_byte(count)
    base = BASES[per]
    return torch.stack([torch.arange(base**per) // base**j % base for j in range(per)], 1).clamp_(max=count - 1).int()


class Integers(nn.Module):
    """Integers from 0 to count - 1. `codes` uint8: (..., bytes), packed along the last dimension, or (2 to 4, ...), the lowest byte first."""

    codes: Tensor
    digits: Tensor

    def __init__(self, x: Tensor, count: int = 0):
        super().__init__()
        self.length = x.shape[-1]
        self.count = count or (int(x.max()) + 1 if x.numel() else 1)
        self.per = per_byte(self.count)
        if self.per:
            base, x = BASES[self.per], pad(x.to(torch.uint8), (0, -self.length % self.per)).unflatten(-1, (-1, self.per))
            codes = sum((x[..., j] * base**j for j in range(1, self.per)), x[..., 0])
        else:
            codes = torch.stack([(x >> 8 * j & 255).to(torch.uint8) for j in range(-(-(self.count - 1).bit_length() // 8))])
        self.register_buffer("codes", codes.contiguous())
        if self.per > 1:
            self.register_buffer("digits", digits(self.count).to(x.device), persistent=False)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """All of them, or those of some rows of a matrix: uint8, or int32 where they are longer than a byte."""
        codes = self.codes if rows is None else self.codes.index_select(0 if self.per else 1, rows)
        if not self.per:
            return sum((codes[j].int() << 8 * j for j in range(1, len(codes))), codes[0].int())
        if self.per == 1:
            return codes
        return self._unpacked(self.digits.to(torch.uint8).index_select(0, codes.int().view(-1)), codes)

    def lookup(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """values[integers]: `values` (count, d), result (..., length, d)."""
        if self.per < 2:
            return embedding(self(rows).int(), values)
        codes = self.codes if rows is None else self.codes.index_select(0, rows)
        table = embedding(self.digits, values).flatten(1)
        return self._unpacked(embedding(codes.int(), table), codes).unflatten(-1, (-1, values.shape[1]))

    def _unpacked(self, x: Tensor, codes: Tensor) -> Tensor:
        """A byte's numbers stand beside one another in `x`: (..., length times their size), without those that fill the last byte."""
        size = x.shape[-1] // self.per
        return x.reshape(*codes.shape[:-1], -1)[..., : self.length * size]


class Floats(nn.Module):
    """A tensor of floats, as it is."""

    values: Tensor

    def __init__(self, values: Tensor):
        super().__init__()
        self.register_buffer("values", values.detach().clone())

    def forward(self) -> Tensor:
        return self.values


class Coded(nn.Module):
    """w = scale (values[index] - shift), in the order of the indices.

    `values` (rows or 1, K, d), or None for the index itself; `scale` and `shift` (rows or 1, 1) or None. With `columns`, the indices of a
    matrix that has that many columns are packed row by row, so that some rows can be decoded alone.
    """

    values: Tensor | None
    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, indices: Tensor, values: Tensor | None, scale: Tensor | None = None, shift: Tensor | None = None, columns: int = 0):
        super().__init__()
        columns //= 1 if values is None else values.shape[2]
        rows = indices.numel() // columns if columns and indices.numel() % columns == 0 else 0
        self.by_rows = rows > 0 and all(t is None or len(t) in (1, rows) for t in (values, scale, shift))
        count = 2 ** int(indices.max()).bit_length() if values is None else values.shape[1]
        self.indices = Integers(indices.reshape(rows, columns) if self.by_rows else indices.reshape(-1), count)
        for name, value in (("values", values), ("scale", scale), ("shift", shift)):
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """All entries, or those of some rows, flattened."""
        w = self._levels(rows).reshape(-1)
        for own, operation in ((self.shift, torch.sub), (self.scale, torch.mul)):
            if own is not None:
                own = own if rows is None or len(own) == 1 else own.index_select(0, rows)
                w = operation(w.view(len(own), -1), own).view(-1)
        return w

    def _levels(self, rows: Tensor | None) -> Tensor:
        if self.values is None:
            assert self.scale is not None
            return self.indices(rows).to(self.scale.dtype)
        count, k, _ = self.values.shape
        if count == 1:
            return self.indices.lookup(self.values[0], rows)
        first = k * (torch.arange(count, device=self.values.device) if rows is None else rows)
        at = self.indices(rows).reshape(len(first), -1).int() + first.int().unsqueeze(1)
        return embedding(at, self.values.flatten(0, 1))


class Scattered(nn.Module):
    """0, but for the groups where `mask` (groups,) is True: those have the rows of `values` (number of True, size), in order."""

    def __init__(self, mask: Tensor, values: nn.Module):
        super().__init__()
        self.groups, self.values = mask.numel(), values
        gaps = Integers(mask.reshape(-1).nonzero().squeeze(1).diff(prepend=torch.full((1,), -1, device=mask.device)) - 1)
        bits = Integers(mask.reshape(-1), 2)
        self.gaps, self.mask = (gaps, None) if gaps.codes.nbytes < bits.codes.nbytes else (None, bits)

    def forward(self) -> Tensor:
        values = self.values()
        values = values.unsqueeze(1) if values.ndim == 1 else values
        zeros = values.new_zeros(self.groups, values.shape[1])
        if self.gaps is None:
            return zeros.masked_scatter(self.mask().bool().unsqueeze(1), values)
        gaps = self.gaps()
        return zeros.index_copy(0, gaps.cumsum(0, dtype=torch.int64) + torch.arange(len(gaps), device=gaps.device), values)


class Patterned(nn.Module):
    """n weights of each m, at the places of the block's pattern, 0 elsewhere."""

    places: Tensor

    def __init__(self, pattern: Tensor, values: nn.Module, n: int, m: int):
        super().__init__()
        places, _ = patterns(n, m, pattern.device)
        self.m, self.values, self.pattern = m, values, Integers(pattern.reshape(-1), len(places))
        self.register_buffer("places", places.clone(), persistent=False)

    def forward(self) -> Tensor:
        places = self.pattern.lookup(self.places)
        values = self.values().reshape(places.shape)
        return values.new_zeros(len(places), self.m).scatter(1, places, values)


class Whole(nn.Module):
    """A Theta of any form: its tensors packed, and its own Delta."""

    def __init__(self, theta: Theta):
        super().__init__()
        self.form, self.constants, self.fields = type(theta), list(theta), nn.ModuleList()
        for place, field in enumerate(theta):
            if isinstance(field, (Tensor, tuple)):
                self.constants[place] = None
                self.fields.append(_field(field))

    def forward(self) -> Any:
        fields = iter(self.fields)
        theta = self.form(*(next(fields)() if constant is None else constant for constant in self.constants))
        with torch.autocast(next(self.buffers()).device.type, enabled=False):
            return theta.decompress()


class _Array(nn.Module):
    """Integers as a field of a Theta has them."""

    def __init__(self, x: Tensor):
        super().__init__()
        self.shape, self.dtype, self.integers = x.shape, x.dtype, Integers(x.reshape(-1))

    def forward(self) -> Tensor:
        return self.integers().to(self.dtype).view(self.shape)


class _Tuple(nn.Module):
    def __init__(self, fields: tuple[Any, ...]):
        super().__init__()
        self.fields = nn.ModuleList(_field(field) for field in fields)

    def forward(self) -> Any:
        return tuple(field() for field in self.fields)


class _Inner(nn.Module):
    """A Theta in a field of another one, decoded."""

    def __init__(self, theta: Theta):
        super().__init__()
        self.theta, self.shape = part(theta), theta.decompress().shape

    def forward(self) -> Dense:
        return Dense(self.theta().reshape(self.shape))


def _field(field: Any) -> nn.Module:
    if not isinstance(field, Tensor):
        return _Inner(cast(Theta, field)) if hasattr(field, "_fields") else _Tuple(field)
    return Floats(field) if field.is_floating_point() or (field.numel() and int(field.min()) < 0) else _Array(field)


def _values(field: Any) -> nn.Module:
    return Floats(field) if isinstance(field, Tensor) else part(field)


def part(theta: Theta, columns: int = 0) -> nn.Module:
    """What decodes Delta(theta), as an array of any shape with its entries in row-major order. `columns`: see `Coded`."""
    match theta:
        case Codes(indices, codebook):
            return Coded(indices, codebook.reshape(-1, codebook.shape[-1], 1), columns=columns)
        case ZeroCodes(indices, codebook):
            return Coded(indices, pad(codebook, (1, 0)).view(-1, codebook.shape[-1] + 1, 1), columns=columns)
        case VectorCodes(indices, codebook):
            return Coded(indices, codebook.reshape(-1, *codebook.shape[-2:]), columns=columns)
        case Fixed(indices, values):
            return Coded(indices, values.view(1, -1, 1), columns=columns)
        case Scaled(indices, values, scale):
            return Coded(indices, values.view(1, -1, 1), scale.reshape(-1, 1), columns=columns)
        case Affine(indices, scale, zero_point):
            return Coded(indices, None, scale.reshape(-1, 1), zero_point.to(scale.dtype).reshape(-1, 1), columns)
        case Sparse(mask, values) | GroupSparse(mask, values):
            return Scattered(mask, _values(values))
        case NMSparse(pattern, values, m):
            kept = values if isinstance(values, Tensor) else values.decompress()
            return Patterned(pattern, _values(values), kept.shape[-1], m)
        case Dense(values):
            return _values(values)
        case _:
            return Whole(theta)

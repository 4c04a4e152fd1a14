"""Codes in memory: integers packed in bytes, and the weights that they stand for.

    Integers     as many base-K digits to a byte as fit, or 2 to 4 bytes each
    Lookup       w = scale (values[index] - shift): codebooks, signs, small grids, codewords
    Levels       w = scale (level - shift), levels of 8 bits

A byte of digits is decoded by one look-up, in a table of the values of all its digits.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from leco.native.digits import joined

BASES = {8: 2, 4: 4, 3: 6, 2: 16, 1: 256}
"""How many numbers a byte holds, and what they are below. Three values take 2 bits as four do:
products with five of them to a byte take several times as long."""


def per_byte(count: int) -> int:
    """How many numbers below `count` a byte holds: 0 where one is longer than a byte."""
    return next((per for per, base in BASES.items() if count <= base), 0)


def select(values: Tensor, at: Tensor) -> Tensor:
    """values[at]: `values` (K, d), result (..., d). A look-up of single numbers is about twice as
    fast in a vector as in a matrix."""
    return (
        values.view(-1).index_select(0, at.reshape(-1)).view(*at.shape, 1)
        if values.shape[1] == 1
        else embedding(at, values)
    )


class Integers(nn.Module):
    """Integers from 0 to count - 1, packed in `codes` (uint8).

    Integers of up to a byte are packed along the last dimension, (..., bytes). Longer ones take 2
    to 4 bytes each, (2 to 4, ...), the lowest byte first.
    """

    codes: Tensor

    def __init__(self, x: Tensor, count: int = 0):
        super().__init__()
        self.length = x.shape[-1]
        self.count = count or (int(x.max()) + 1 if x.numel() else 1)
        self.per = per_byte(self.count)
        if self.per > 1:
            codes = _in_bytes(x.to(torch.uint8), self.per)
        elif self.per:
            codes = x.to(torch.uint8, copy=True)
        else:
            places = range(-(-(self.count - 1).bit_length() // 8))
            codes = torch.stack([(x >> 8 * j & 255).to(torch.uint8) for j in places])
        self.register_buffer("codes", codes.contiguous())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """All of them, or those of some rows of a matrix: uint8, or int32 where they are longer
        than a byte."""
        codes = self.codes if rows is None else self.codes.index_select(0 if self.per else 1, rows)
        if not self.per:
            return functools.reduce(
                torch.add, (byte.int() << 8 * j for j, byte in enumerate(codes.unbind()))
            )
        if self.per == 1:
            return codes
        return self._unpacked(
            self.digits().to(torch.uint8).index_select(0, codes.int().view(-1)), codes
        )

    def lookup(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """values[integers]: `values` (count, d), result (..., length, d)."""
        if self.per < 2:
            return select(values, self(rows).int())
        codes = self.codes if rows is None else self.codes.index_select(0, rows)
        table = embedding(self.digits(), values).flatten(1)
        return self._unpacked(embedding(codes.int(), table), codes).unflatten(
            -1, (-1, values.shape[1])
        )

    def _unpacked(self, x: Tensor, codes: Tensor) -> Tensor:
        """The numbers of all bytes, which `x` has side by side, without those that fill the last
        byte: (..., length times their size)."""
        size = x.shape[-1] // self.per
        return x.reshape(*codes.shape[:-1], -1)[..., : self.length * size]

    def digits(self) -> Tensor:
        """The numbers in each byte that occurs, (bytes, per), int32."""
        base = BASES[self.per]
        byte = torch.arange(base**self.per, dtype=torch.int32, device=self.codes.device)
        return torch.stack([byte // base**j % base for j in range(self.per)], 1).clamp_(
            max=self.count - 1
        )


def _in_bytes(x: Tensor, per: int) -> Tensor:
    """`per` numbers in each byte, along the last dimension."""
    found = joined(x, per, BASES[per])
    if found is None:
        digits = pad(x, (0, -x.shape[-1] % per)).unflatten(-1, (-1, per))
        found = functools.reduce(torch.add, (digits[..., j] * BASES[per] ** j for j in range(per)))
    return found


class Lookup(nn.Module):
    """w = scale (values[index] - shift), in the order of the indices.

    Args:
        indices: integers from 0 to K - 1.
        values: (rows or 1, K, d).
        scale: (rows or 1, 1), or None for 1.
        shift: (rows or 1, 1), or None for 0.
        columns: of a matrix whose indices are packed row by row, so that some rows can be decoded
            alone; 0 to pack all indices together.
    """

    values: Tensor

    def __init__(
        self,
        indices: Tensor,
        values: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        columns: int = 0,
    ):
        super().__init__()
        rows = _rows(indices, columns // values.shape[2], values, scale, shift)
        self.by_rows = rows > 0
        self.indices = Integers(indices.reshape(rows or -1, *[-1] * self.by_rows), values.shape[1])
        self.affine = Scale(scale, shift)
        self.register_buffer("values", values.detach().clone())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """All entries, or those of some rows, flattened."""
        count, k, d = self.values.shape
        values = self.values.flatten(0, 1)
        if self.affine.of_all:
            values = self.affine(values.clone().view(-1)).view(-1, d)
        if count == 1:
            w = self.indices.lookup(values, rows).reshape(-1)
        else:
            first = k * (torch.arange(count, device=values.device) if rows is None else rows)
            at = self.indices(rows).reshape(len(first), -1).int() + first.int().unsqueeze(1)
            w = select(values, at).view(-1)
        return w if self.affine.of_all else self.affine(w, rows)

    def of_groups(self, rows: Tensor, count: int, groups: int) -> Tensor:
        """Some of `count` rows, of which each has `groups` groups with scales of their own."""
        codes = self.indices.codes.view(count, -1).index_select(0, rows).int()
        table = self.values[0, :, 0][self.indices.digits()]
        w = embedding(codes, table).view(len(rows), groups, -1)
        return self.affine.of_groups(w, rows, count).view(len(rows), -1)


class Levels(nn.Module):
    """w = scale (level - shift), levels of 8 bits with sign, otherwise as `Lookup`. For 8 bits a
    conversion is faster than a look-up.

    Args:
        levels: int8.
        scale: (rows or 1, 1).
        shift: (rows or 1, 1), or None for 0.
        columns: as of `Lookup`.
    """

    codes: Tensor

    def __init__(self, levels: Tensor, scale: Tensor, shift: Tensor | None, columns: int = 0):
        super().__init__()
        rows = _rows(levels, columns, scale, shift)
        self.by_rows = rows > 0
        self.affine = Scale(scale, shift)
        self.register_buffer("codes", levels.reshape(rows or -1, *[-1] * self.by_rows).clone())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        codes = self.codes if rows is None else self.codes.index_select(0, rows)
        scale = self.affine.scale
        assert scale is not None
        return self.affine(codes.to(scale.dtype).view(-1), rows)

    def of_groups(self, rows: Tensor, count: int, groups: int) -> Tensor:
        """Some of `count` rows, of which each has `groups` groups with scales of their own."""
        scale = self.affine.scale
        assert scale is not None
        w = self.codes.view(count, groups, -1).index_select(0, rows).to(scale.dtype)
        return self.affine.of_groups(w, rows, count).view(len(rows), -1)


class Scale(nn.Module):
    """scale (x - shift), in place, with `scale` and `shift` (rows or 1, 1) or None. `of_all` says
    whether they are the same for all rows."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, scale: Tensor | None, shift: Tensor | None):
        super().__init__()
        self.of_all = all(t is None or len(t) == 1 for t in (scale, shift))
        for name, value in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        for own, operation in ((self.shift, torch.Tensor.sub_), (self.scale, torch.Tensor.mul_)):
            if own is not None:
                own = own if rows is None or len(own) == 1 else own.index_select(0, rows)
                operation(x.view(len(own), -1), own)
        return x

    def of_groups(self, x: Tensor, rows: Tensor, count: int) -> Tensor:
        """For some of `count` rows, (rows, groups, entries of a group)."""
        for own, operation in ((self.shift, torch.Tensor.sub_), (self.scale, torch.Tensor.mul_)):
            if own is not None and len(own) > 1:
                own = own.view(count, -1).index_select(0, rows).unsqueeze(2)
            if own is not None:
                operation(x, own)
        return x


def _rows(indices: Tensor, columns: int, *others: Tensor | None) -> int:
    """How many rows of `columns` entries there are; 0 where one of `others` has neither one entry
    for all rows nor one for each."""
    rows = indices.numel() // columns if columns and indices.numel() % columns == 0 else 0
    return rows if all(t is None or len(t) in (1, rows) for t in others) else 0

"""Integers in memory: as many base-K digits to a byte as fit, or 2 to 4 bytes each; decoded by one look-up for each byte."""

import functools

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

BASES = {8: 2, 5: 3, 4: 4, 3: 6, 2: 16, 1: 256}
"""How many numbers a byte holds, and what they are below."""


def per_byte(count: int) -> int:
    """How many numbers below `count` a byte holds: 0 where one is longer than a byte."""
    return next((per for per, base in BASES.items() if count <= base), 0)


class Integers(nn.Module):
    """Integers from 0 to count - 1. `codes` uint8: (..., bytes), packed along the last dimension, or (2 to 4, ...), the lowest byte first."""

    codes: Tensor

    def __init__(self, x: Tensor, count: int = 0):
        super().__init__()
        self.length = x.shape[-1]
        self.count = count or (int(x.max()) + 1 if x.numel() else 1)
        self.per = per_byte(self.count)
        if self.per:
            base, x = BASES[self.per], pad(x.to(torch.uint8), (0, -self.length % self.per)).unflatten(-1, (-1, self.per))
            codes = functools.reduce(torch.add, (x[..., j] * base**j for j in range(self.per)))
        else:
            codes = torch.stack([(x >> 8 * j & 255).to(torch.uint8) for j in range(-(-(self.count - 1).bit_length() // 8))])
        self.register_buffer("codes", codes.contiguous())

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """All of them, or those of some rows of a matrix: uint8, or int32 where they are longer than a byte."""
        codes = self.codes if rows is None else self.codes.index_select(0 if self.per else 1, rows)
        if not self.per:
            return functools.reduce(torch.add, (byte.int() << 8 * j for j, byte in enumerate(codes.unbind())))
        if self.per == 1:
            return codes
        return self._unpacked(self._digits().to(torch.uint8).index_select(0, codes.int().view(-1)), codes)

    def lookup(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """values[integers]: `values` (count, d), result (..., length, d)."""
        if self.per < 2:
            return embedding(self(rows).int(), values)
        codes = self.codes if rows is None else self.codes.index_select(0, rows)
        table = embedding(self._digits(), values).flatten(1)
        return self._unpacked(embedding(codes.int(), table), codes).unflatten(-1, (-1, values.shape[1]))

    def _unpacked(self, x: Tensor, codes: Tensor) -> Tensor:
        """A byte's numbers stand beside one another in `x`: (..., length times their size), without those that fill the last byte."""
        size = x.shape[-1] // self.per
        return x.reshape(*codes.shape[:-1], -1)[..., : self.length * size]

    def _digits(self) -> Tensor:
        """The numbers in each byte that occurs, (bytes, per), int32."""
        base = BASES[self.per]
        byte = torch.arange(base**self.per, dtype=torch.int32, device=self.codes.device)
        return torch.stack([byte // base**j % base for j in range(self.per)], 1).clamp_(max=self.count - 1)

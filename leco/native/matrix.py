"""A packed matrix as the compiled library takes it, and its products."""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from leco.native.build import library, pool

LANES = 16
FEW = 4  # vectors: up to so many, each product decodes the weights by itself
BLOCK = 2**17  # weights that are decoded at a time for products with more vectors
SHARE = 2**18  # weights that are worth a thread
DIGITS, SIGNED, BYTES = range(3)


class Fields(ctypes.Structure):
    """`Matrix` of products.c."""

    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("kind", "per", "base", "count")),
        *(
            field
            for name in ("values", "scale", "shift")
            for field in ((name, ctypes.c_void_p), (f"{name}_step", ctypes.c_int64))
        ),
    ]


class Matrix:
    """A matrix (rows, columns) of packed weights: scale (value of a code - shift), in groups that
    divide a row.

    Args:
        codes: uint8 or int8, row by row; each group fills whole bytes.
        rows: how many.
        groups: of a row.
        kind: DIGITS (`per` digits of a base to a byte), SIGNED (int8), BYTES (uint8, 256 values).
        per: codes to a byte.
        base: of the digits.
        values: float32 (groups of all rows or 1, count).
        scale: float32 (groups of all rows or 1, 1), or None for 1.
        shift: likewise, or None for 0.
    """

    def __init__(
        self,
        codes: Tensor,
        rows: int,
        groups: int,
        kind: int,
        per: int,
        base: int,
        values: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
    ):
        self.rows, self.groups = rows, groups
        size = codes.numel() // (rows * groups)
        self.columns = size * groups * per
        self.width = -(-size // LANES) * LANES * groups * per
        self.held = (codes, values, scale, shift)  # the memory that the pointers are of
        named = {"values": values, "scale": scale, "shift": shift}
        self.fields = Fields(codes.data_ptr(), size, groups, kind, per, base, values.shape[-1])
        for name, tensor in named.items():
            if tensor is not None:
                setattr(self.fields, name, tensor.data_ptr())
                step = tensor.shape[-1] if len(tensor) > 1 else 0
                setattr(self.fields, f"{name}_step", step)
        self._native, self._reference = _typed(), ctypes.addressof(self.fields)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + bias, for x (..., columns or, in the last byte of a row, fewer), float32."""
        x = x.contiguous()
        count, columns = x.numel() // x.shape[-1], x.shape[-1]
        if count > FEW:
            return self._by_blocks(x.view(count, columns), bias).view(*x.shape[:-1], self.rows)
        out = torch.empty(*x.shape[:-1], self.rows)
        start = None if bias is None else bias.data_ptr()
        vectors = (x.data_ptr(), count, columns, self.width)
        threads = min(torch.get_num_threads(), max(1, self.rows * self.columns // SHARE))

        def run(first: int, last: int) -> None:
            where = (first, last, self.rows, start, out.data_ptr())
            if not self._native.leco_products(self._reference, *vectors, *where):
                raise MemoryError(f"no memory for {self.width} numbers")

        if threads == 1:
            run(0, self.rows)
            return out
        borders = [self.rows * i // threads for i in range(threads + 1)]
        list(pool(torch.get_num_threads()).map(run, borders[:-1], borders[1:]))
        return out

    def _by_blocks(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Some rows of the weight are decoded at a time."""
        count, columns = x.shape
        planes = torch.empty(count, self.width)
        vectors = (x.data_ptr(), count, columns, self.width, planes.data_ptr())
        self._native.leco_planes(self._reference, *vectors)
        planes, out = planes.T.contiguous(), torch.empty(self.rows, count)
        step = max(LANES, BLOCK // self.width)
        weights = torch.empty(min(step, self.rows), self.width)
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            self._native.leco_weights(self._reference, start, stop, weights.data_ptr())
            torch.mm(weights[: stop - start], planes, out=out[start:stop])
        if bias is not None:
            out.add_(bias.detach().unsqueeze(1))
        return out.T.contiguous()


@functools.cache
def _typed() -> Any:
    """The library, with the types of the arguments."""
    native = library()
    assert native is not None, "a Matrix is made only where there is a library"
    at, number = ctypes.c_void_p, ctypes.c_int64
    native.leco_products.argtypes = [at, at, *[number] * 6, at, at]
    native.leco_planes.argtypes = [at, at, *[number] * 3, at]
    native.leco_weights.argtypes = [at, number, number, at]
    return native

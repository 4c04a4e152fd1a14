"""A packed matrix for the compiled library: its products and its weights."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from leco.native.build import in_threads, library

LANES = 16
FEW = 4
"""Up to so many vectors, each product reads the codes by itself."""
MANY = 256
"""From more vectors on, torch multiplies, with some rows that are decoded at a time."""
BLOCK = 2**20
"""So many weights are decoded at a time for torch."""
SHARE = 2**18
"""So many weights are worth a thread."""
DIGITS, SIGNED, BYTES = range(3)


class Fields(ctypes.Structure):
    """`Matrix` of packed.h."""

    _fields_ = [
        ("codes", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row_bytes", "columns", "group")),
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
        codes: uint8 or int8, row by row.
        shape: rows and columns.
        row_bytes: from one row's codes to the next one's; 0 where the codes of all rows follow each
            other without a gap.
        kind: DIGITS (`per` digits of a base to a byte), SIGNED (int8), BYTES (uint8).
        per: codes to a byte.
        base: of the digits.
        values: float32 (groups of all rows or 1, count).
        scale: float32 (groups of all rows or 1, 1), or None for 1.
        shift: likewise, or None for 0.
    """

    def __init__(
        self,
        codes: Tensor,
        shape: tuple[int, int],
        row_bytes: int,
        kind: int,
        per: int,
        base: int,
        values: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
    ):
        self.rows, self.columns = shape
        groups = max(len(own) for own in (values, scale, shift) if own is not None)
        group = self.columns if groups == 1 else self.rows * self.columns // groups
        values, count = _repeated(values, kind, base), values.shape[1]
        self.held = (codes, values, scale, shift)  # the memory that the pointers are of
        self.fields = Fields(
            codes.data_ptr(), row_bytes, self.columns, group, kind, per, base, count
        )
        for name, tensor in {"values": values, "scale": scale, "shift": shift}.items():
            if tensor is not None:
                setattr(self.fields, name, tensor.data_ptr())
                step = tensor.shape[-1] if len(tensor) > 1 else 0
                setattr(self.fields, f"{name}_step", step)
        self._native, self._reference = _typed(), ctypes.addressof(self.fields)

    def dense(self) -> Tensor:
        """All weights, float32."""
        return self._decoded(0, torch.empty(self.rows, self.columns))

    def _decoded(self, start: int, out: Tensor) -> Tensor:
        """The rows from `start` on, in `out`."""

        def run(first: int, last: int) -> bool:
            at = out.data_ptr() + out.element_size() * self.columns * first
            self._native.leco_weights(self._reference, start + first, start + last, at)
            return True

        self._in_threads(run, len(out))
        return out

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + bias, for x (..., columns), float32."""
        x = x.contiguous()
        count, out = x.numel() // self.columns, torch.empty(*x.shape[:-1], self.rows)
        if count > MANY:
            return self._by_torch(x.view(count, -1), bias, out.view(count, -1)).view(out.shape)
        start = None if bias is None else bias.data_ptr()
        multiply, vectors = self._native.leco_few, x
        if count > FEW:
            multiply = self._native.leco_many
            vectors = torch.empty(-(-count // LANES) * LANES * self.columns)
            self._native.leco_blocked(x.data_ptr(), count, self.columns, vectors.data_ptr())

        def run(first: int, last: int) -> bool:
            where = (first, last, self.rows, start, out.data_ptr())
            return multiply(self._reference, vectors.data_ptr(), count, *where)

        self._in_threads(run, self.rows)
        return out

    def _by_torch(self, x: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
        """x W^T + bias in `out`, by torch's products with some rows at a time."""
        step = min(self.rows, max(LANES, BLOCK // self.columns))
        weights = torch.empty(step, self.columns)
        for start in range(0, self.rows, step):
            own = self._decoded(start, weights[: self.rows - start])
            part = out[:, start : start + step]
            if bias is None:
                torch.mm(x, own.T, out=part)
            else:
                torch.addmm(bias.detach()[start : start + step], x, own.T, out=part)
        return out

    def _in_threads(self, run: Callable[[int, int], bool], rows: int) -> None:
        """Call `run` for parts of the rows."""
        done = in_threads(run, rows, rows * self.columns // SHARE)
        if not all(done):
            raise MemoryError(f"no memory for a product with a matrix {self.rows, self.columns}")


def _repeated(values: Tensor, kind: int, base: int) -> Tensor:
    """Values that are the same for all groups, as the library reads them: repeated to LANES for
    digits, which are fewer than the lanes of a look-up; zeros up to 256 for bytes."""
    if len(values) > 1 or kind == SIGNED:
        return values
    count = values.shape[1]
    if kind == BYTES:
        return pad(values, (0, 256 - count))
    at = torch.arange(LANES) % base
    return values[:, torch.where(at < count, at, 0)]


@functools.cache
def _typed() -> Any:
    """The library, with the types of the arguments."""
    native = library()
    assert native is not None, "a Matrix is made only where there is a library"
    at, number = ctypes.c_void_p, ctypes.c_int64
    for product in (native.leco_few, native.leco_many):
        product.argtypes = [at, at, *[number] * 4, at, at]
    native.leco_blocked.argtypes = [at, number, number, at]
    native.leco_weights.argtypes = [at, number, number, at]
    return native

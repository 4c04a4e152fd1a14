"""Numbers that share bytes, by the compiled library."""

import ctypes
import sys

import numpy as np
import torch
from torch import Tensor

from leco.native.build import in_threads, library

LEAST = 2**12
"""Fewer numbers are left to torch."""
SHARE = 2**20
"""So many numbers are worth a thread."""


def joined(x: Tensor, per: int, base: int) -> Tensor | None:
    """`per` numbers below `base` in each byte, the first one lowest: uint8 (..., bytes). None where
    the library does not do it: no library, few numbers, another device or type.

    Args:
        x: uint8 (..., n), each below `base`.
        per: 8, 4, 3 or 2.
        base: 2, 4, 6 or 16.
    """
    native = None
    if x.numel() >= LEAST and x.device.type == "cpu" and x.dtype == torch.uint8:
        native = library()
    if native is None:
        return None
    x, length = x.contiguous(), x.shape[-1]
    # numpy's memory has large pages, which are faster to fill
    out = torch.from_numpy(np.empty((*x.shape[:-1], -(-length // per)), dtype=np.uint8))
    # parts: rows, or, of one row, whole bytes
    rows = x.numel() // length
    units, digits, size = (rows, length, out.shape[-1]) if rows > 1 else (out.numel(), per, 1)

    def run(first: int, last: int) -> None:
        here = x.numel() if last == units else digits * last
        native.leco_join(
            ctypes.c_void_p(x.data_ptr() + digits * first),
            ctypes.c_int64(last - first if rows > 1 else 1),
            ctypes.c_int64(length if rows > 1 else here - digits * first),
            ctypes.c_int64(base),
            ctypes.c_void_p(out.data_ptr() + size * first),
        )

    in_threads(run, units, x.numel() // SHARE)
    return out


def from_planes(bits: np.ndarray, planes: int) -> np.ndarray | None:
    """Numbers of up to 8 bits, uint8, from planes of one bit each, the lowest first: eight for each
    byte of a plane. None where there is no library, or where they are few.

    Args:
        bits: uint8, one plane behind the other; of each byte the lowest bit first.
        planes: how many there are, up to 8.
    """
    count = len(bits) // planes
    native = library() if len(bits) >= LEAST and sys.byteorder == "little" else None
    if native is None:
        return None
    bits, out = np.ascontiguousarray(bits), np.empty(8 * count, dtype=np.uint8)
    native.leco_from_planes(
        ctypes.c_void_p(bits.ctypes.data),
        ctypes.c_int64(planes),
        ctypes.c_int64(count),
        ctypes.c_void_p(out.ctypes.data),
    )
    return out

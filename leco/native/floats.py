"""Floats from planes of their bytes, by the compiled library."""

import ctypes
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from leco.native.build import library

LEAST = 2**8
"""Fewer numbers are left to numpy."""


def interleaved(planes: Sequence[Tensor], mantissa: int) -> Tensor | None:
    """The bytes of the numbers whose planes these are, flattened, with the sign back in the highest
    bit; None where there is no library, or where the numbers are few.

    Args:
        planes: uint8 (count,), one for each byte of a number, the lowest first. In the upper 16
            bits the sign stands between exponent and mantissa.
        mantissa: how many of the upper 16 bits are the mantissa's.
    """
    count, size = len(planes[0]), len(planes)
    native = library() if count >= LEAST and sys.byteorder == "little" else None
    if native is None:
        return None
    held = [plane.contiguous() for plane in planes]
    out = torch.empty(count * size, dtype=torch.uint8)
    native.leco_floats(
        (ctypes.c_void_p * size)(*(plane.data_ptr() for plane in held)),
        ctypes.c_int64(count),
        ctypes.c_int64(size),
        ctypes.c_int64(mantissa),
        ctypes.c_void_p(out.data_ptr()),
    )
    return out

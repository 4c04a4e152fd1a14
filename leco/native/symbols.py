"""Symbols of an asymmetric numeral system, look-ups and grids, by the compiled library."""

import ctypes

import numpy as np
import torch
from torch import Tensor

from leco.native.build import library

PRECISION, BUCKET = 24, 13
LEAST = 2**14
"""Fewer indices are left to torch."""


def symbols(
    words: np.ndarray, left: np.ndarray, count: int, digits: np.ndarray | None = None
) -> tuple[np.ndarray, bool] | None:
    """`count` symbols, and whether the words hold exactly these; None where there is no library.

    Args:
        words: uint32, as constriction's AnsCoder has them.
        left: uint32 (K + 1,), the sums of the frequencies before each of K symbols, from 0 to 2^24.
        digits: uint8 (K, group), what each symbol stands for: the result is that of all symbols,
            flattened. None: the symbols, uint8 where K is at most 256, else uint16.
    """
    native = library()
    if native is None:
        return None
    # the symbol of each run's first quantile
    firsts = np.arange(0, 2**PRECISION, 2**BUCKET)
    first = (np.searchsorted(left, firsts, side="right") - 1).astype(np.uint16)
    entries = np.empty(len(first), dtype=np.uint64)
    # one byte for each symbol or digit, or two
    group = 1 if digits is None else digits.shape[1]
    narrow = digits is not None or len(left) <= 257
    out = np.empty(count * group, dtype=np.uint8 if narrow else np.uint16)
    table = np.zeros(0, np.uint8) if digits is None else np.ascontiguousarray(digits)
    words = np.concatenate([np.zeros(1, np.uint32), words])
    exact = native.leco_symbols(
        _pointer(words),
        ctypes.c_int64(len(words) - 1),
        *map(_pointer, (np.ascontiguousarray(left, np.uint32), first, entries, table)),
        ctypes.c_int64(count),
        ctypes.c_int(group),
        ctypes.c_int(out.itemsize),
        _pointer(out),
    )
    return out, bool(exact)


def looked_up(values: Tensor, indices: Tensor) -> Tensor | None:
    """values[p, indices[p, i]]; None where the library does not do it: no library, another device
    or type, a gradient.

    Args:
        values: float32 (problems or 1, K).
        indices: uint8 (problems, n), below K.
    """
    if indices.numel() < LEAST or not _plain(values, indices):
        return None
    native = library()
    if native is None:
        return None
    values, indices = values.contiguous(), indices.contiguous()
    out = torch.empty(indices.shape, dtype=torch.float32)
    native.leco_look_up(
        ctypes.c_void_p(values.data_ptr()),
        ctypes.c_int64(values.shape[1] if len(values) > 1 else 0),
        ctypes.c_void_p(indices.data_ptr()),
        ctypes.c_int64(len(indices)),
        ctypes.c_int64(indices.shape[1]),
        ctypes.c_void_p(out.data_ptr()),
    )
    return out


def on_grid(indices: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor | None:
    """scale[p] (indices[p, i] - zero_point[p]); None where the library does not do it, as by
    `looked_up`.

    Args:
        indices: uint8 (..., n).
        scale: float32 (...).
        zero_point: uint8 (...).
    """
    same = scale.shape == zero_point.shape == indices.shape[:-1]
    whole = zero_point.dtype == torch.uint8 and zero_point.device == indices.device
    if indices.numel() < LEAST or not (same and whole and _plain(scale, indices)):
        return None
    native = library()
    if native is None:
        return None
    indices, scale, zero_point = (x.contiguous() for x in (indices, scale, zero_point))
    out = torch.empty(indices.shape, dtype=torch.float32)
    native.leco_grid(
        *(ctypes.c_void_p(x.data_ptr()) for x in (indices, scale, zero_point)),
        ctypes.c_int64(scale.numel()),
        ctypes.c_int64(indices.shape[-1]),
        ctypes.c_void_p(out.data_ptr()),
    )
    return out


def _plain(floats: Tensor, indices: Tensor) -> bool:
    """Whether the tensors are what the library takes, where nothing records what is done to
    them."""
    on_cpu = floats.device.type == indices.device.type == "cpu" and not floats.requires_grad
    typed = floats.dtype == torch.float32 and indices.dtype == torch.uint8
    return on_cpu and typed and not torch.compiler.is_compiling()


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

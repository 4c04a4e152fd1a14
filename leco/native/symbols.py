"""Symbols of an asymmetric numeral system, look-ups and grids, by the compiled library."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from leco.native.build import in_threads, library

SCALE = 2**24  # what the frequencies sum to: constriction's own precision
LEAST = 2**14
"""Fewer indices are left to torch."""
SHARE = 2**17
"""So many symbols are worth a thread."""
WEIGHTS = 2**20
"""So many weights are worth a thread."""


class _Stream(ctypes.Structure):
    """`Stream` of streams.c."""

    _fields_ = [
        ("words", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("left", ctypes.c_void_p),
        ("digits", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("symbols", "group", "itemsize", "exact")),
    ]


class Coded(NamedTuple):
    """The words of a stream of symbols, and what they stand for.

    Args:
        words: uint8, the words of constriction's AnsCoder, little-endian. The zero bytes at their
            end may be left out.
        frequencies: int64 (K,), of K symbols. They sum to 2^24.
        length: how many symbols there are.
        digits: uint8 (K, group), what each symbol stands for: the result is that of all symbols,
            flattened. None: the symbols, uint8 where K is at most 256, else uint16.
    """

    words: np.ndarray
    frequencies: np.ndarray
    length: int
    digits: np.ndarray | None


def streams(every: Sequence[Coded]) -> list[tuple[np.ndarray, bool]] | None:
    """For each stream its symbols or digits, and whether its words hold exactly these; None where
    there is no library. As many threads decode as torch has."""
    native = library()
    if native is None:
        return None
    # the longest first, so that no thread waits long for another
    order = sorted(range(len(every)), key=lambda i: -every[i].length)
    outs, held = [_room(coded) for coded in every], []
    fields = (_Stream * len(every))()
    for field, i in zip(fields, order, strict=True):
        held.append(_fill_(field, every[i], outs[i]))
    # the threads
    taken = ctypes.c_int64(0)
    where = (fields, ctypes.c_int64(len(every)), ctypes.byref(taken))
    share = sum(coded.length for coded in every) // SHARE
    done = in_threads(lambda *_: native.leco_streams(*where), len(every), share)
    if not all(done):
        raise MemoryError("no memory for the tables of a decoder")
    exact = {i: bool(field.exact) for field, i in zip(fields, order, strict=True)}
    return [(out, exact[i]) for i, out in enumerate(outs)]


def _room(coded: Coded) -> np.ndarray:
    """Memory for the symbols or digits of a stream."""
    group = 1 if coded.digits is None else coded.digits.shape[1]
    narrow = coded.digits is not None or len(coded.frequencies) <= 256
    return np.empty(coded.length * group, dtype=np.uint8 if narrow else np.uint16)


def _fill_(field: _Stream, coded: Coded, out: np.ndarray) -> tuple[np.ndarray, ...]:
    """Describe a stream to the library. The arrays returned have the memory that it reads."""
    words, left = np.ascontiguousarray(coded.words), _left(coded.frequencies)
    field.words, field.bytes, field.left = words.ctypes.data, len(words), left.ctypes.data
    field.count, field.out, field.itemsize = coded.length, out.ctypes.data, out.itemsize
    field.symbols, field.group = len(left) - 1, 1
    if coded.digits is None:
        return words, left
    digits = np.ascontiguousarray(coded.digits)
    field.digits, field.group = digits.ctypes.data, digits.shape[1]
    return words, left, digits


def _left(frequencies: np.ndarray) -> np.ndarray:
    """The sums before each symbol, and 2^24, as constriction's fast model rounds them: each symbol
    keeps at least 1."""
    sums = np.concatenate([[0], frequencies.cumsum()])
    left = sums * (SCALE - len(frequencies)) // SCALE + np.arange(len(sums))
    left[-1] = SCALE
    return left.astype(np.uint32)


def looked_up(values: Tensor, indices: Tensor, out: Tensor | None = None) -> Tensor | None:
    """values[p, indices[p, i]]; None where the library does not do it: no library, another device
    or type, a gradient.

    Args:
        values: float32 (problems or 1, K).
        indices: uint8 (problems, n), below K.
        out: float32, contiguous, as many as the indices; None: new memory.
    """
    if indices.numel() < LEAST or not _plain(values, indices):
        return None
    native = library()
    if native is None:
        return None
    values, indices = values.contiguous(), indices.contiguous()
    found = torch.empty(indices.shape, dtype=torch.float32) if out is None else out
    # parts: problems, or, with one codebook, indices
    problems, n = indices.shape
    step = values.shape[1] if len(values) > 1 else 0
    units, size = (problems, n) if step else (indices.numel(), 1)

    def run(first: int, last: int) -> None:
        native.leco_look_up(
            ctypes.c_void_p(values.data_ptr() + 4 * step * first),
            ctypes.c_int64(step),
            ctypes.c_void_p(indices.data_ptr() + size * first),
            ctypes.c_int64(last - first if step else 1),
            ctypes.c_int64(n if step else last - first),
            ctypes.c_void_p(found.data_ptr() + 4 * size * first),
        )

    in_threads(run, units, indices.numel() // WEIGHTS)
    return found


def on_grid(
    indices: Tensor, scale: Tensor, zero_point: Tensor, out: Tensor | None = None
) -> Tensor | None:
    """scale[p] (indices[p, i] - zero_point[p]); None where the library does not do it, as by
    `looked_up`.

    Args:
        indices: uint8 (..., n).
        scale: float32 (...).
        zero_point: uint8 (...).
        out: float32, contiguous, as many as the indices; None: new memory.
    """
    same = scale.shape == zero_point.shape == indices.shape[:-1]
    whole = zero_point.dtype == torch.uint8 and zero_point.device == indices.device
    if indices.numel() < LEAST or not (same and whole and _plain(scale, indices)):
        return None
    native = library()
    if native is None:
        return None
    indices, scale, zero_point = (x.contiguous() for x in (indices, scale, zero_point))
    found = torch.empty(indices.shape, dtype=torch.float32) if out is None else out
    n = indices.shape[-1]

    def run(first: int, last: int) -> None:
        native.leco_grid(
            ctypes.c_void_p(indices.data_ptr() + n * first),
            ctypes.c_void_p(scale.data_ptr() + 4 * first),
            ctypes.c_void_p(zero_point.data_ptr() + first),
            ctypes.c_int64(last - first),
            ctypes.c_int64(n),
            ctypes.c_void_p(found.data_ptr() + 4 * n * first),
        )

    in_threads(run, scale.numel(), indices.numel() // WEIGHTS)
    return found


def _plain(floats: Tensor, indices: Tensor) -> bool:
    """Whether the tensors are what the library takes, where nothing records what is done to
    them."""
    on_cpu = floats.device.type == indices.device.type == "cpu" and not floats.requires_grad
    typed = floats.dtype == torch.float32 and indices.dtype == torch.uint8
    return on_cpu and typed and not torch.compiler.is_compiling()

"""Lossless coding of floats: planes of bytes, each as a stream of integers by itself. All bits come
back, those of -0.0 and of NaN payloads too.

In the upper 16 bits of each number the sign moves below the exponent: exponent, sign, mantissa. So
the exponent, which in trained nets takes few values, fills the highest byte as far as it can (all
of it in bfloat16 and float32), and numbers that a shorter type holds leave bytes that are all 0.

    {"name": "planes", "parts": [[bytes, coding], ...]}
        one part for each byte of the type, the lowest first, by `leco.coding.streams`
    {"name": "raw"}
        the numbers as they are, where that is hardly longer

A byte whose frequencies gain nothing is left as it is: mantissas do not compress, and a sample
shows it.
"""

import math
import reprlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leco.coding.steps import Steps, side_by_side
from leco.coding.streams import Encoded, decode_raw, encode_stream, raw, stream_steps
from leco.native.floats import interleaved

BLOCK = 2**18  # numbers whose bits are moved back at a time
SAMPLE = 2**15  # bytes of a plane that are looked at first
WORTH = 0.995  # of a plane's bytes: where a sample takes more, no coding is tried
DESCRIPTION = 64  # bytes that the parts' descriptions take, about: what planes must save
# bits of the mantissa in the upper 16 bits
MANTISSA = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 7, torch.float64: 4}


def encode_floats(x: Tensor) -> Encoded:
    """Code a tensor of floats on the CPU."""
    plain = raw(x)
    if plain.payload.numel() <= DESCRIPTION:
        return plain
    planes = plain.payload.view(-1, x.dtype.itemsize)
    top = _exponent_first(planes[:, -2:], MANTISSA[x.dtype])
    parts = [_plane(plane) for plane in (*planes[:, :-2].T, *top.T)]
    whole, coded = plain.payload.numel(), sum(part.payload.numel() for part in parts)
    if coded >= min(WORTH * whole, whole - DESCRIPTION):
        return plain
    described = [[part.payload.numel(), part.coding] for part in parts]
    payload = torch.cat([part.payload for part in parts])
    return Encoded(payload, {"name": "planes", "parts": described})


def float_steps(payload: Tensor, coding: Any, count: int, dtype: torch.dtype) -> Steps[Tensor]:
    """The flat tensor of `count` numbers that `encode_floats` was given. Raises ValueError where
    payload and coding disagree."""
    if coding["name"] == "raw":
        return decode_raw(payload, coding, count, dtype)
    parts = split(payload, coding, dtype.itemsize, {"name", "parts"})
    # the planes; what can't be shows before much is written
    order = sorted(range(len(parts)), key=lambda place: -len(parts[place][0]))
    planes = yield from side_by_side(stream_steps(*parts[p], count, torch.uint8) for p in order)
    placed = dict(zip(order, planes, strict=True))
    # the numbers
    found = interleaved([placed[p] for p in range(len(parts))], MANTISSA[dtype])
    if found is not None:
        return found.view(dtype)
    out = np.empty((count, dtype.itemsize), dtype=np.uint8)
    for place, plane in placed.items():
        out[:, place] = plane.numpy()
    _exponent_first_back(out, MANTISSA[dtype])
    return torch.from_numpy(out).view(-1).view(dtype) if count else torch.zeros(0, dtype=dtype)


def split(
    payload: Tensor, coding: dict[str, Any], count: int, keys: set[str]
) -> list[tuple[Tensor, Any]]:
    """The parts of a payload with their codings; as many as `count`."""
    parts = coding.get("parts")
    if (
        set(coding) != keys
        or type(parts) is not list
        or len(parts) != count
        or any(type(p) is not list or len(p) != 2 for p in parts)
    ):
        raise ValueError(
            f"{payload.numel()} bytes do not hold {count} parts as in {reprlib.repr(coding)}"
        )
    lengths = [length for length, _ in parts]
    if (
        any(type(length) is not int or length < 0 for length in lengths)
        or sum(lengths) != payload.numel()
    ):
        raise ValueError(
            f"{payload.numel()} bytes do not hold {count} parts of {reprlib.repr(lengths)} bytes"
        )
    return list(zip(payload.split(lengths), [described for _, described in parts], strict=True))


def _plane(plane: Tensor) -> Encoded:
    """One byte of each number: as it is where a sample, evenly spaced, shows no gain."""
    sample = plane[:: max(1, len(plane) // SAMPLE)]
    counts = sample.bincount().double()
    bits = -float(torch.xlogy(counts, counts / len(sample)).sum()) / math.log(2)
    if bits > 8 * WORTH * len(sample):
        return Encoded(plane.contiguous(), {"name": "digits", "base": 256})
    return encode_stream(plane.contiguous())


def _exponent_first(top: Tensor, mantissa: int) -> Tensor:
    """The upper two bytes (n, 2) of each number, with the sign moved from the highest bit to just
    above the mantissa."""
    h = top.contiguous().view(torch.int16).numpy().view(np.uint16)
    moved = h << 1 & (0xFFFF << (mantissa + 1) & 0xFFFF)
    moved |= h >> 15 << mantissa
    moved |= h & ((1 << mantissa) - 1)
    return torch.from_numpy(moved.view(np.uint8))


def _exponent_first_back(planes: np.ndarray, mantissa: int) -> None:
    """The inverse, in place, in the last two columns."""
    for start in range(0, len(planes), BLOCK):
        h = planes[start : start + BLOCK, -2:].copy().view(np.uint16)
        back = h >> 1 & (0x7FFF >> mantissa << mantissa)
        back |= h >> mantissa << 15
        back |= h & ((1 << mantissa) - 1)
        planes[start : start + BLOCK, -2:] = back.view(np.uint8)

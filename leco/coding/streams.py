"""Lossless coding of flat streams of integers: at a fixed width, or by their frequencies; the
shorter of the two.

The integers are x_i = least + d_i with digits 0 <= d_i < base. The codings are below. "least" is
left out where it is 0, and a base of 1 takes no bytes.

    {"name": "digits", "base": b, "least": a}
        fixed width (`leco.coding.digits`)
    {"name": "entropy", "base": b, "least": a, "group": g}
        each g digits (1 where "group" is left out) are one symbol, the first digit lowest, with
        zeros behind the last: b^g bytes of table, one weight a symbol, then the words of an
        asymmetric numeral system (`leco.coding.frequencies`) without the zero bytes at their end:
        the symbols' entropy and about 4 bytes
    {"name": "raw"}
        the bytes of the tensor, little-endian, where its integers span more than 2^62 or are few
"""

import reprlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leco.coding.digits import as_bytes, pack_digits, packed_size, unpack_digits
from leco.coding.frequencies import (
    GROUPS,
    encode_entropy,
    entropy_steps,
    group_of,
    grouped_steps,
    joined,
)
from leco.coding.steps import Steps
from leco.coding.symbols import LARGEST_TABLE


class Encoded(NamedTuple):
    """`payload` (bytes,) uint8; `coding` says how it was made, in ints and a name, for `decode`."""

    payload: Tensor
    coding: dict[str, Any]


def raw(x: Tensor) -> Encoded:
    """A tensor's own bytes."""
    x = x.contiguous().reshape(-1)
    return Encoded(x.view(torch.uint8) if x.numel() else as_bytes(b""), {"name": "raw"})


def encode_stream(x: Tensor) -> Encoded:
    """Code a flat tensor of integers or bools, on the CPU."""
    least, base = _span(x)
    width = packed_size(len(x), base)
    if base > 2**62 or width > x.nbytes:  # planes of less than 8 numbers, too
        return raw(x)
    digits = _digits(x, least, base)
    where = {"base": base, **({"least": least} if least else {})}
    if 1 < base <= LARGEST_TABLE:
        group = group_of(digits, base)
        payload = encode_entropy(joined(digits, base, group), base**group, width)
        if payload is not None and len(payload) < width:
            return Encoded(
                payload, {"name": "entropy", **where, **({"group": group} if group > 1 else {})}
            )
    return Encoded(pack_digits(digits, base), {"name": "digits", **where})


def stream_steps(payload: Tensor, coding: Any, count: int, dtype: torch.dtype) -> Steps[Tensor]:
    """The flat tensor of `count` integers that `encode_stream` was given. Raises ValueError where
    payload and coding disagree."""
    name = coding.get("name") if type(coding) is dict else None
    if name == "raw" and dtype != torch.bool:
        return decode_raw(payload, coding, count, dtype)
    if name not in ("digits", "entropy"):
        raise ValueError(f"unknown coding {reprlib.repr(coding)} of {dtype}")
    # what the coding says
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    options, keys = {"least": 0, "group": 1} | coding, {"name", "base", "least", "group"}
    base = number(options, "base", 1, high - low + 1, keys)
    least = number(options, "least", low, high - base + 1, keys)
    grouped = name == "entropy" and base > 1
    group = number(options, "group", 1, max(GROUPS) if grouped else 1, keys)
    # the digits
    kind, data = np.dtype(f"u{dtype.itemsize}"), payload.numpy()
    if group > 1:
        digits = yield from grouped_steps(data, base, group, count, kind)
    elif name == "entropy":
        digits = yield from entropy_steps(data, base, count, kind)
    else:
        digits = unpack_digits(data, base, count, kind)
    # the integers
    if least:
        digits += kind.type(least % 2 ** (8 * kind.itemsize))  # wraps round
    return torch.from_numpy(digits.view(f"i{kind.itemsize}")).view(dtype)


def decode_raw(payload: Tensor, coding: dict[str, Any], count: int, dtype: torch.dtype) -> Tensor:
    """The flat tensor whose own bytes these are."""
    if len(coding) != 1 or payload.numel() != count * dtype.itemsize:
        raise ValueError(
            f"{payload.numel()} bytes do not hold {count} entries of {dtype} "
            f"coded as {reprlib.repr(coding)}"
        )
    return payload.clone().view(dtype) if count else torch.zeros(0, dtype=dtype)


def number(coding: dict[str, Any], key: str, least: int, most: int, keys: set[str]) -> int:
    """A whole number of a coding. A file may have any JSON value there: ValueError unless it is one
    from `least` to `most` and the coding has exactly these keys."""
    value = coding.get(key)
    if set(coding) != keys or type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"the bytes do not hold a tensor coded as {reprlib.repr(coding)}: "
            f"{key} is to be a whole number from {least} to {most}"
        )
    return value


def _span(x: Tensor) -> tuple[int, int]:
    """`least` and the base: `least` is the least integer where that is negative or saves bytes,
    else 0."""
    count = x.numel()
    if not count:
        return 0, 1
    low, high = (int(end) for end in torch.aminmax(x))
    saved = 9 if low < 0 else packed_size(count, high + 1) - packed_size(count, high - low + 1)
    return (low, high - low + 1) if low > 8 or saved > 8 else (0, high + 1)


def _digits(x: Tensor, least: int, base: int) -> np.ndarray:
    """x - least, of the least unsigned type."""
    digits = (x.view(torch.uint8) if x.dtype == torch.bool else x).numpy()
    digits = digits if not least else digits - np.int64(least)
    return digits.astype(np.min_scalar_type(base - 1), copy=False)

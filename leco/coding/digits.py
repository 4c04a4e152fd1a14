"""Digits at a fixed width: as many as fit in a byte, or one plane of bits for each binary digit.

Where b^d <= 256, d digits of base b share a byte, the first one lowest (5 ternary ones: 1.6 bits
each). Where planes of bits are smaller, there is one for each binary digit, the lowest first.
"""

import functools
import reprlib

import numpy as np
import torch
from torch import Tensor

from leco.native.digits import from_planes

CHUNK = 2**18  # bytes unpacked at a time


def as_bytes(data: bytes | np.ndarray) -> Tensor:
    """The same bytes as a tensor of uint8, copied."""
    copied = bytearray(data if isinstance(data, bytes) else data.tobytes())
    return (
        torch.frombuffer(copied, dtype=torch.uint8) if copied else torch.zeros(0, dtype=torch.uint8)
    )


def packed_size(count: int, base: int) -> int:
    """Bytes of `count` digits at a fixed width."""
    if base == 1:
        return 0
    digits = _digits_per_byte(base)
    return -(-count // digits) if digits else (base - 1).bit_length() * -(-count // 8)


@functools.lru_cache(256)
def _digits_per_byte(base: int) -> int:
    """How many digits of `base` share a byte, or 0 where planes of bits are smaller."""
    digits = next(d for d in range(8, -1, -1) if base**d <= 256)
    return digits if digits * (base - 1).bit_length() >= 8 else 0


def pack_digits(digits: np.ndarray, base: int) -> Tensor:
    """Bytes of unsigned digits below `base`, at a fixed width."""
    if base == 1:
        return as_bytes(b"")
    if base == 2:
        return as_bytes(np.packbits(digits, bitorder="little"))
    share = _digits_per_byte(base)
    if not share:
        one, bits = digits.dtype.type(1), range((base - 1).bit_length())
        planes = (digits >> digits.dtype.type(bit) & one for bit in bits)
        packed = [np.packbits(plane.astype(bool), bitorder="little") for plane in planes]
        return as_bytes(np.concatenate(packed))
    padded = np.pad(digits.astype(np.uint8, copy=False), (0, -len(digits) % share))
    columns = padded.reshape(-1, share)
    out = columns[:, 0].copy()
    for place in range(1, share):
        out += columns[:, place] * np.uint8(base**place)
    return as_bytes(out)


def unpack_digits(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> np.ndarray:
    """The `count` digits of `pack_digits`, of the unsigned type `kind`. Raises ValueError where the
    bytes do not hold them."""
    if count < 0 or len(payload) != packed_size(count, base):
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} integers below {reprlib.repr(base)}"
        )
    if base == 1:
        return np.zeros(count, dtype=kind)
    if base == 256:
        return payload.astype(kind)
    unpacked = _from_bytes if _digits_per_byte(base) else _from_planes
    return unpacked(payload, base, count, kind)


@functools.cache
def _digits_of_bytes(base: int) -> np.ndarray:
    """The digits that share each byte, uint8 (256, digits)."""
    places = np.arange(_digits_per_byte(base))
    return (np.arange(256).reshape(-1, 1) // base**places % base).astype(np.uint8)


def _from_bytes(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> np.ndarray:
    """Digits that share bytes, by a look-up of each byte."""
    share, table = _digits_per_byte(base), _digits_of_bytes(base)
    out = np.empty((len(payload), share), dtype=np.uint8)
    for start in range(0, len(payload), CHUNK):  # numpy makes indices of 8 bytes each
        part = slice(start, start + CHUNK)
        np.take(table, payload[part], axis=0, out=out[part], mode="clip")
    out = out.reshape(-1)
    if int(payload.max(initial=0)) > base**share - 1 or out[count:].any():
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} integers below {base}: "
            "one of them is larger, or there are more"
        )
    return out[:count].astype(kind, copy=False)


def _from_planes(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> np.ndarray:
    """Digits in planes of bits."""
    held = f"{len(payload)} bytes do not hold {count} integers below {base}"
    planes = payload.reshape((base - 1).bit_length(), -1)
    if count % 8 and (planes[:, -1] >> count % 8).any():
        raise ValueError(f"{held}: there are more")
    found = from_planes(payload, len(planes)) if kind.itemsize == 1 else None
    out = _added(planes, count, kind) if found is None else found[:count]
    if count and int(out.max()) >= base:
        raise ValueError(f"{held}: one of them is larger")
    return out


def _added(planes: np.ndarray, count: int, kind: np.dtype) -> np.ndarray:
    """The numbers with these planes of bits, the lowest first."""
    out = np.zeros(count, dtype=kind)
    for bit, plane in enumerate(planes):
        ones = np.unpackbits(plane, bitorder="little", count=count).astype(kind)
        ones <<= kind.type(bit)
        out |= ones
    return out

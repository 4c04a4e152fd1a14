"""Lossless coding of flat streams of integers: at a fixed width, or by their frequencies; the
shorter of the two.

The integers are x_i = least + d_i with digits 0 <= d_i < base. Codings ("least" is left out where
it is 0; a base of 1 takes no bytes):

    {"name": "digits", "base": b, "least": a}    fixed width: as many digits as fit in a byte (5
                                                 ternary ones: 1.6 bits each), the first one lowest;
                                                 where that wastes more, one plane of bits per
                                                 binary digit, the lowest first
    {"name": "entropy", "base": b, "least": a, "group": g}   each g digits (1 where it is left out)
                                                             are one symbol, the first digit lowest,
                                                             zeros
                                                 behind the last: b^g bytes of table, one weight a
                                                 symbol, then the words of an asymmetric numeral
                                                 system (constriction) without the zero bytes at
                                                 their end: the symbols' entropy and about 4 bytes
    {"name": "raw"}                              the bytes of the tensor, little-endian, where its
                                                 integers span more than 2^62 or are few

A weight is a float of 8 bits, so that a table is short and any frequency is met within 1/32, which
costs at most about 0.0007 bits a symbol: c below 16 is c itself, c above is (16 + c mod 16) 2^(c
div 16 - 1). Decoder and coder scale the weights w to whole numbers f = 2^24 w div (sum of w), the
rest going to the first of the largest, and f / 2^24 and its sums are exact in float64: the model is
the same on every machine.
"""

import math
import reprlib
from typing import Any, NamedTuple

import numpy as np
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

LARGEST_TABLE = 4096  # symbols
# digits that may be one symbol: neighbours in a trained kernel are alike; 3 are a row of most, 9
# all of it
GROUPS = (1, 2, 3, 4, 5, 6, 8, 9)
RUN = 360  # digits, a whole number of groups of each size
SEEN = 2**20  # digits that their number is chosen by, about
ONE = 2**24  # what the frequencies sum to: constriction's own precision
CHUNK = 2**18  # symbols coded at a time, as constriction takes int32
# the coder's first state, and the decoder's last: at least 2^24, so that each symbol changes it
END = np.array([ONE], dtype=np.uint32)
WEIGHTS = np.array([c if c < 16 else (16 + c % 16) << (c // 16 - 1) for c in range(256)])
# of what the least symbols take, that there must be bits for: the coder's own frequencies differ
# from the table's by less
ALLOWANCE = 15 / 16


class Coded(NamedTuple):
    """`payload` (bytes,) uint8; `coding` says how it was made, in ints and a name, for `decode`."""

    payload: Tensor
    coding: dict[str, Any]


def as_bytes(data: bytes | np.ndarray) -> Tensor:
    copied = bytearray(data if isinstance(data, bytes) else data.tobytes())
    return (
        torch.frombuffer(copied, dtype=torch.uint8) if copied else torch.zeros(0, dtype=torch.uint8)
    )


def raw(x: Tensor) -> Coded:
    x = x.contiguous().reshape(-1)
    return Coded(x.view(torch.uint8) if x.numel() else as_bytes(b""), {"name": "raw"})


def encode_stream(x: Tensor) -> Coded:
    """Code a flat tensor of integers or bools, on the CPU."""
    least, base = _span(x)
    width = packed_size(len(x), base)
    if base > 2**62 or width > x.nbytes:  # planes of less than 8 numbers, too
        return raw(x)
    digits = _digits(x, least, base)
    where = {"base": base, **({"least": least} if least else {})}
    if 1 < base <= LARGEST_TABLE:
        group = _group(digits, base)
        payload = _entropy(_joined(digits, base, group), base**group, width)
        if payload is not None and len(payload) < width:
            return Coded(
                payload, {"name": "entropy", **where, **({"group": group} if group > 1 else {})}
            )
    return Coded(pack(digits, base), {"name": "digits", **where})


def decode_stream(payload: Tensor, coding: Any, count: int, dtype: torch.dtype) -> Tensor:
    """The flat tensor of `count` integers that `encode_stream` was given. Raises ValueError where
    payload and coding disagree."""
    name = coding.get("name") if type(coding) is dict else None
    if name == "raw" and dtype != torch.bool:
        return decode_raw(payload, coding, count, dtype)
    if name not in ("digits", "entropy"):
        raise ValueError(f"unknown coding {reprlib.repr(coding)} of {dtype}")
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    options, keys = {"least": 0, "group": 1} | coding, {"name", "base", "least", "group"}
    base = number(options, "base", 1, high - low + 1, keys)
    least = number(options, "least", low, high - base + 1, keys)
    kind = np.dtype(f"u{dtype.itemsize}")
    if number(options, "group", 1, max(GROUPS) if name == "entropy" and base > 1 else 1, keys) == 1:
        digits = (_decode_entropy if name == "entropy" else unpack)(
            payload.numpy(), base, count, kind
        )
    else:
        digits = _decode_grouped(payload.numpy(), base, options["group"], count, kind)
    if least:
        digits += kind.type(least % 2 ** (8 * kind.itemsize))  # wraps round
    return torch.from_numpy(digits.view(f"i{kind.itemsize}")).view(dtype)


def decode_raw(payload: Tensor, coding: dict[str, Any], count: int, dtype: torch.dtype) -> Tensor:
    if len(coding) != 1 or payload.numel() != count * dtype.itemsize:
        raise ValueError(
            f"{payload.numel()} bytes do not hold {count} entries of {dtype} coded as {reprlib.repr(coding)}"
        )
    return payload.clone().view(dtype) if count else torch.zeros(0, dtype=dtype)


def number(coding: dict[str, Any], key: str, least: int, most: int, keys: set[str]) -> int:
    """An entry of a description from a file, where any JSON value may stand."""
    value = coding.get(key)
    if set(coding) != keys or type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"the bytes do not hold a tensor coded as {reprlib.repr(coding)}: {key} is to be a whole number from {least} to {most}"
        )
    return value


def _span(x: Tensor) -> tuple[int, int]:
    """The integer that stands for 0, and the base; the least integer is it if it is negative or
    saves bytes."""
    if not x.numel():
        return 0, 1
    low, high = (int(end) for end in torch.aminmax(x))
    saved = (
        packed_size(x.numel(), high + 1) - packed_size(x.numel(), high - low + 1) if low >= 0 else 9
    )
    return (low, high - low + 1) if low > 8 or saved > 8 else (0, high + 1)


def _digits(x: Tensor, least: int, base: int) -> np.ndarray:
    """x - least, of the least unsigned type."""
    digits = (x.view(torch.uint8) if x.dtype == torch.bool else x).numpy()
    digits = digits if not least else digits - np.int64(least)
    return digits.astype(np.min_scalar_type(base - 1), copy=False)


# --- by frequencies


def _group(digits: np.ndarray, base: int) -> int:
    """How many digits are one symbol, so that table and entropy take the fewest bytes."""
    runs = digits[: len(digits) // RUN * RUN].reshape(-1, RUN)
    seen = runs[:: max(1, len(digits) // SEEN)].reshape(-1) if len(runs) else digits
    sizes = {}
    for group in GROUPS:
        table = base**group
        if group == 1 or table <= min(LARGEST_TABLE, len(digits)):
            counts = np.bincount(_joined(seen, base, group), minlength=2)
            used = counts[counts > 0]
            share = len(seen) / max(1, len(digits))
            bits = -float(used @ np.log2(used / used.sum()))
            bits += (1 - share) * len(used) / math.log(4)  # a part seems to have less (Miller 1955)
            sizes[group] = table + 12 * (group > 1) + bits / 8 / max(share, 1e-9)  # 12: to say so
    return min(sizes, key=lambda group: sizes[group])


def _joined(digits: np.ndarray, base: int, group: int) -> np.ndarray:
    if group == 1:
        return digits
    digits = np.pad(digits, (0, -len(digits) % group)).reshape(-1, group)
    out = digits[:, 0].astype(np.uint16)
    for place in range(1, group):
        out += digits[:, place].astype(np.uint16) * np.uint16(base**place)
    return out


def _decode_grouped(
    payload: np.ndarray, base: int, group: int, count: int, kind: np.dtype
) -> np.ndarray:
    if base**group > LARGEST_TABLE:
        raise ValueError(f"{group} digits below {base} are more than {LARGEST_TABLE} symbols")
    symbols = _decode_entropy(payload, base**group, -(-count // group), np.dtype(np.uint16))
    table = (np.arange(base**group).reshape(-1, 1) // base ** np.arange(group) % base).astype(kind)
    out = np.take(table, symbols, axis=0).reshape(-1)
    if out[count:].any():
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} integers below {base}: there are more"
        )
    return out[:count]


def _entropy(digits: np.ndarray, base: int, most: int) -> Tensor | None:
    """Table and words, or None where they would not be fewer bytes than `most`."""
    counts = torch.bincount(
        torch.from_numpy(digits if digits.dtype == np.uint8 else digits.astype(np.int32)),
        minlength=base,
    ).numpy()
    table = np.searchsorted(
        (WEIGHTS[1:] + WEIGHTS[:-1]) / 2, counts * WEIGHTS[-1] // counts.max()
    ).astype(np.uint8)
    table[(table == 0) & (counts > 0)] = 1
    frequencies = _frequencies(table)
    used = counts > 0
    if base - float(counts[used] @ np.log2(np.maximum(frequencies[used], 1) / ONE)) / 8 >= most:
        return None
    coder, model = stream.stack.AnsCoder(END), _model(frequencies)
    for start in reversed(range(0, len(digits), CHUNK)):
        coder.encode_reverse(digits[start : start + CHUNK].astype(np.int32), model)
    return as_bytes(table.tobytes() + coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


def _frequencies(table: np.ndarray) -> np.ndarray:
    weights = WEIGHTS[table]
    frequencies = ONE * weights // weights.sum()
    frequencies[frequencies.argmax()] += ONE - frequencies.sum()
    return frequencies


def _model(frequencies: np.ndarray) -> Any:
    return stream.model.Categorical(frequencies / ONE, perfect=False)


def _decode_entropy(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> np.ndarray:
    table, words = payload[:base], payload[base:].tobytes()
    if not 1 < base <= LARGEST_TABLE or np.count_nonzero(table) < 2 or not words or not words[-1]:
        raise ValueError(
            f"{len(payload)} bytes do not hold a table of {base} weights and the words after it"
        )
    frequencies = _frequencies(table)
    least = ALLOWANCE * math.log2(ONE / frequencies.max())
    if not 0 <= count * least <= 8 * len(words):
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} symbols of at least {least:.3g} bits"
        )
    decoder, model = (
        stream.stack.AnsCoder(
            np.frombuffer(words + bytes(-len(words) % 4), "<u4").astype(np.uint32)
        ),
        _model(frequencies),
    )
    out = np.empty(count, dtype=kind)
    for start in range(0, count, CHUNK):
        part = out[start : start + CHUNK]
        part[:] = decoder.decode(model, len(part))
    if not np.array_equal(decoder.get_compressed(), END):
        raise ValueError(f"the words of a coded stream hold more or fewer than {count} symbols")
    return out


# --- at a fixed width


def packed_size(count: int, base: int) -> int:
    """Bytes of `count` digits at a fixed width."""
    if base == 1:
        return 0
    digits = _digits_per_byte(base)
    return -(-count // digits) if digits else (base - 1).bit_length() * -(-count // 8)


def _digits_per_byte(base: int) -> int:
    """How many digits of `base` share a byte, or 0 where planes of bits are smaller."""
    digits = next(d for d in range(8, -1, -1) if base**d <= 256)
    return digits if digits * (base - 1).bit_length() >= 8 else 0


def pack(digits: np.ndarray, base: int) -> Tensor:
    if base == 1:
        return as_bytes(b"")
    share = _digits_per_byte(base)
    if base == 2:
        return as_bytes(np.packbits(digits, bitorder="little"))
    if not share:
        one = digits.dtype.type(1)
        planes = [
            np.packbits((digits >> digits.dtype.type(bit) & one).astype(bool), bitorder="little")
            for bit in range((base - 1).bit_length())
        ]
        return as_bytes(np.concatenate(planes))
    digits = np.pad(digits.astype(np.uint8, copy=False), (0, -len(digits) % share)).reshape(
        -1, share
    )
    out = digits[:, 0].copy()
    for place in range(1, share):
        out += digits[:, place] * np.uint8(base**place)
    return as_bytes(out)


def unpack(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> np.ndarray:
    if count < 0 or len(payload) != packed_size(count, base):
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} integers below {reprlib.repr(base)}"
        )
    if base == 1:
        return np.zeros(count, dtype=kind)
    share = _digits_per_byte(base)
    if share:
        table, beyond = (
            (np.arange(256).reshape(-1, 1) // base ** np.arange(share) % base).astype(np.uint8),
            base**share - 1,
        )
        out = np.empty((len(payload), share), dtype=np.uint8)
        for start in range(0, len(payload), CHUNK):  # indices of 8 bytes each are made on the way
            np.take(
                table,
                payload[start : start + CHUNK],
                axis=0,
                out=out[start : start + CHUNK],
                mode="clip",
            )
        out = out.reshape(-1)
        if int(payload.max(initial=0)) > beyond or out[count:].any():
            raise ValueError(
                f"{len(payload)} bytes do not hold {count} integers below {base}: one of them is larger, or there are more"
            )
        return out[:count].astype(kind, copy=False)
    out = np.zeros(count, dtype=kind)
    for bit, plane in enumerate(payload.reshape((base - 1).bit_length(), -1)):
        ones = np.unpackbits(plane, bitorder="little")
        if ones[count:].any():
            raise ValueError(
                f"{len(payload)} bytes do not hold {count} integers below {base}: there are more"
            )
        ones = ones[:count].astype(kind)
        ones <<= kind.type(bit)
        out |= ones
    if count and int(out.max()) >= base:
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} integers below {base}: one of them is larger"
        )
    return out

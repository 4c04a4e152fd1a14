"""Streams of digits by their frequencies: a table of weights, and the words of an asymmetric
numeral system.

A weight is a float of 8 bits, so that a table is short and meets any frequency within 1/32, which
costs at most about 0.0007 bits a symbol: c below 16 is c itself, c above is
(16 + c mod 16) 2^(c div 16 - 1). Decoder and coder scale the weights w to whole numbers
f = 2^24 w div (sum of w), and the rest goes to the first of the largest. f / 2^24 and its sums are
exact in float64: the model is the same on every machine.
"""

import math

import numpy as np
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from leco.coding.digits import as_bytes
from leco.coding.steps import Steps, finished
from leco.coding.symbols import CHUNK, END, LARGEST_TABLE, model_of
from leco.native.symbols import SCALE, Coded

# Digits that may be one symbol: neighbours in a trained kernel are alike. 3 are a row of most
# kernels, 9 a whole kernel.
GROUPS = (1, 2, 3, 4, 5, 6, 8, 9)
RUN = 360  # digits, a whole number of groups of each size
SEEN = 2**20  # digits, about, from which the size of a group is chosen
NEAR = 1 + 2**-10  # times the fewest bytes: then larger groups, which are decoded faster, are taken
WEIGHTS = np.array([c if c < 16 else (16 + c % 16) << (c // 16 - 1) for c in range(256)])
# The share of the bits of the likeliest symbols that must be there: the coder's own frequencies
# differ from those of the table by less.
ALLOWANCE = 15 / 16


def group_of(digits: np.ndarray, base: int) -> int:
    """How many digits are one symbol: the most with which table and entropy take about the fewest
    bytes."""
    runs = digits[: len(digits) // RUN * RUN].reshape(-1, RUN)
    seen = runs[:: max(1, len(digits) // SEEN)].reshape(-1) if len(runs) else digits
    sizes = {}
    for group in GROUPS:
        table = base**group
        if group == 1 or table <= min(LARGEST_TABLE, len(digits)):
            counts = np.bincount(joined(seen, base, group), minlength=2)
            used = counts[counts > 0]
            share = len(seen) / max(1, len(digits))
            bits = -float(used @ np.log2(used / used.sum()))
            bits += (1 - share) * len(used) / math.log(4)  # a part seems to have less (Miller 1955)
            sizes[group] = table + 12 * (group > 1) + bits / 8 / max(share, 1e-9)  # 12: to say so
    fewest = min(sizes.values())
    return max(group for group, size in sizes.items() if size <= NEAR * fewest)


def joined(digits: np.ndarray, base: int, group: int) -> np.ndarray:
    """Each `group` digits as one symbol, the first digit lowest, with zeros behind the last."""
    if group == 1:
        return digits
    digits = np.pad(digits, (0, -len(digits) % group)).reshape(-1, group)
    out = digits[:, 0].astype(np.uint16)
    for place in range(1, group):
        out += digits[:, place].astype(np.uint16) * np.uint16(base**place)
    return out


def grouped_steps(
    payload: np.ndarray, base: int, group: int, count: int, kind: np.dtype
) -> Steps[np.ndarray]:
    """The `count` digits that were joined in groups."""
    if base**group > LARGEST_TABLE:
        raise ValueError(f"{group} digits below {base} are more than {LARGEST_TABLE} symbols")
    powers = base ** np.arange(group)
    table = (np.arange(base**group).reshape(-1, 1) // powers % base).astype(np.uint8)
    out = yield from _symbol_steps(payload, base**group, -(-count // group), table)
    if out[count:].any():
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} integers below {base}: there are more"
        )
    return out[:count].astype(kind, copy=False)


def encode_entropy(digits: np.ndarray, base: int, most: int) -> Tensor | None:
    """Table and words, or None where they would not be fewer bytes than `most`."""
    # the table
    narrow = digits if digits.dtype == np.uint8 else digits.astype(np.int32)
    counts = torch.bincount(torch.from_numpy(narrow), minlength=base).numpy()
    middles = (WEIGHTS[1:] + WEIGHTS[:-1]) / 2
    table = np.searchsorted(middles, counts * WEIGHTS[-1] // counts.max()).astype(np.uint8)
    table[(table == 0) & (counts > 0)] = 1
    # whether it pays
    frequencies, used = _frequencies(table), counts > 0
    bits = float(counts[used] @ np.log2(np.maximum(frequencies[used], 1) / SCALE))
    if base - bits / 8 >= most:
        return None
    # the words
    coder, model = stream.stack.AnsCoder(END), model_of(frequencies)
    for start in reversed(range(0, len(digits), CHUNK)):
        coder.encode_reverse(digits[start : start + CHUNK].astype(np.int32), model)
    words = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    return as_bytes(table.tobytes() + words)


def _frequencies(table: np.ndarray) -> np.ndarray:
    weights = WEIGHTS[table]
    frequencies = SCALE * weights // weights.sum()
    frequencies[frequencies.argmax()] += SCALE - frequencies.sum()
    return frequencies


def decode_entropy(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> np.ndarray:
    """The `count` symbols of `encode_entropy`, of the unsigned type `kind`. Raises ValueError where
    the bytes do not hold them."""
    return finished(entropy_steps(payload, base, count, kind))


def entropy_steps(payload: np.ndarray, base: int, count: int, kind: np.dtype) -> Steps[np.ndarray]:
    """Likewise, beside other streams."""
    out = yield from _symbol_steps(payload, base, count, None)
    return out.astype(kind, copy=False)


def _symbol_steps(
    payload: np.ndarray, base: int, count: int, digits: np.ndarray | None
) -> Steps[np.ndarray]:
    """The symbols, or their `digits` (base, group)."""
    # the table
    table, words = payload[:base], payload[base:]
    if (
        not 1 < base <= LARGEST_TABLE
        or np.count_nonzero(table) < 2
        or not len(words)
        or not words[-1]
    ):
        raise ValueError(
            f"{len(payload)} bytes do not hold a table of {base} weights and the words after it"
        )
    frequencies = _frequencies(table)
    # whether the words can hold so many symbols, before memory is taken
    least = ALLOWANCE * math.log2(SCALE / frequencies.max())
    if not 0 <= count * least <= 8 * len(words):
        raise ValueError(
            f"{len(payload)} bytes do not hold {count} symbols of at least {least:.3g} bits"
        )
    # the symbols
    (found,) = yield [Coded(words, frequencies, count, digits)]
    if found is None:
        raise ValueError(f"the words of a coded stream hold more or fewer than {count} symbols")
    return found

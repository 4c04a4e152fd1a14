"""Masks by gaps: the numbers of False entries between the True ones, for few True entries.

    {"name": "gaps", "width": w, "symbols": s}

s digits of base 2^w. A gap g is g div (2^w - 1) escapes of 2^w - 1, and the rest.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from leco.coding.digits import pack_digits, packed_size, unpack_digits
from leco.coding.streams import Encoded, number

CHUNK = 2**18  # symbols decoded at a time


def encode_gaps(mask: Tensor) -> Encoded | None:
    """Code a flat mask; None where gaps can't pay, for more than one True entry in eight."""
    ones = int(np.count_nonzero(mask.numpy())) if mask.dtype == torch.bool else 0
    if not 0 < 8 * ones <= len(mask):
        return None
    # the best width
    gaps = np.diff(np.flatnonzero(mask.numpy()), prepend=-1) - 1
    lengths = {w: packed_size(int((gaps // (2**w - 1)).sum()) + ones, 2**w) for w in range(1, 17)}
    width = min(lengths, key=lambda w: lengths[w])
    # the final symbol of each gap, behind its escapes
    escape = 2**width - 1
    last = (gaps // escape + 1).cumsum() - 1
    symbols = np.full(last[-1] + 1, escape, dtype=np.uint16)
    symbols[last] = gaps % escape
    coding = {"name": "gaps", "width": width, "symbols": len(symbols)}
    return Encoded(pack_digits(symbols, 2**width), coding)


def decode_gaps(payload: Tensor, coding: dict[str, Any], count: int) -> Tensor:
    """The flat mask of `count` entries. Raises ValueError where the bytes do not hold it."""
    # the symbols
    keys = {"name", "width", "symbols"}
    width = number(coding, "width", 1, 16, keys)
    length, escape = number(coding, "symbols", 1, count, keys), 2**width - 1
    symbols = unpack_digits(payload.numpy(), 2**width, length, np.dtype("u2"))
    # the positions that they name
    mask, at = np.zeros(count, dtype=bool), -1
    for start in range(0, len(symbols), CHUNK):
        part = symbols[start : start + CHUNK].astype(np.int64)
        # an escape moves on by 2^width - 1 positions, a final symbol by itself and one more
        positions = at + (part + (part != escape)).cumsum()
        at = int(positions[-1])
        if at >= count or (start + CHUNK >= len(symbols) and part[-1] == escape):
            raise ValueError(
                f"{payload.numel()} bytes do not hold a mask of {count}: "
                f"gap-coded, it names position {at}, or ends within a gap"
            )
        mask[positions[part != escape]] = True
    return torch.from_numpy(mask)

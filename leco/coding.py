"""Lossless coding of the tensors of a Theta to bytes. `size` is, without coding anything, the length that `encode` would give.

Integers below a base b are packed at a fixed width: as many digits of base b as fit in a byte (5 ternary digits: 1.6 bits each), or one
plane of bits per binary digit where that is smaller. Masks are kept as bits, or as the gaps between the True entries, whichever is
smaller. Floats keep their own bytes.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Coded(NamedTuple):
    """`payload` (bytes,) uint8; `coding` says how it was made, in ints and a name, for `decode`."""

    payload: Tensor
    coding: dict[str, int | str]


def bits(theta: Any) -> int:
    """The bits that the tensors of `theta` take in a file (its ints, names and shapes stand in the file's description).

    >>> import torch, leco
    >>> theta = leco.Binary().compress(torch.tensor([0.5, -1.5, 1.0, -1.0, 2.0]), mu=1.0)
    >>> leco.bits(theta)  # 5 signs in one byte, 2 values of the set {-1, +1}, one scale
    104
    """
    return 8 * sum(size(field) for field in theta if isinstance(field, Tensor))


def size(x: Tensor) -> int:
    """Bytes that `encode(x)` gives; for floats, the bytes of the tensor itself."""
    if x.is_floating_point():
        return x.nbytes
    if x.dtype == torch.bool:
        return min(-(-x.numel() // 8), _gap_width(_gaps(x))[1])
    return _packed_size(x.numel(), _base(x))


def encode(x: Tensor) -> Coded:
    """Code a tensor of bools or of non-negative integers; `decode(*encode(x), x.shape, x.dtype)` gives it back."""
    flat = x.detach().reshape(-1)
    if x.dtype != torch.bool:
        base = _base(x)
        return Coded(_pack(flat, base), {"name": "digits", "base": base})
    gaps = _gaps(flat)
    width, length = _gap_width(gaps)
    if -(-flat.numel() // 8) <= length:
        return Coded(_pack(flat, 2), {"name": "digits", "base": 2})
    escape = 2**width - 1
    last = (gaps // escape + 1).cumsum(0) - 1  # where each gap's final symbol stands, after its escapes
    symbols = torch.full((int(last[-1]) + 1 if gaps.numel() else 0,), escape, dtype=torch.int32, device=x.device)
    symbols[last] = (gaps % escape).int()
    return Coded(_pack(symbols, 2**width), {"name": "gaps", "width": width, "symbols": symbols.numel()})


def decode(payload: Tensor, coding: dict[str, Any], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The tensor that `encode` was given. Raises ValueError where payload and description disagree."""
    count = math.prod(shape)
    if coding["name"] == "digits":
        return _unpack(payload, coding["base"], count).to(dtype).reshape(shape)
    if coding["name"] != "gaps" or dtype != torch.bool or not 1 <= coding["width"] <= 16:
        raise ValueError(f"unknown coding {coding} of {dtype}")
    symbols = _unpack(payload, 2 ** coding["width"], coding["symbols"])
    escape = 2 ** coding["width"] - 1
    steps = symbols + (symbols != escape)  # an escape moves on by 2^width - 1 positions, a final symbol by itself and one more
    positions = steps.cumsum(0)[symbols != escape] - 1
    if positions.numel() and int(positions[-1]) >= count:
        raise ValueError(f"a gap-coded mask names position {int(positions[-1])} of {count}")
    mask = torch.zeros(count, dtype=torch.bool)
    mask[positions] = True
    return mask.reshape(shape)


def _base(x: Tensor) -> int:
    if not x.numel():
        return 1
    low, high = torch.aminmax(x)
    if low < 0:
        raise ValueError(f"the integers of a Theta must be at least 0 to be coded; the least is {int(low)}")
    return int(high) + 1


def _width(base: int) -> int:
    return (base - 1).bit_length()


def _digits_per_byte(base: int) -> int:
    """How many digits of `base` share a byte, or 0 where planes of bits are smaller."""
    digits = next(d for d in range(8, -1, -1) if base**d <= 256)
    return digits if (digits and digits * _width(base) > 8) or base == 2 else 0


def _packed_size(count: int, base: int) -> int:
    if base == 1:
        return 0
    digits = _digits_per_byte(base)
    return -(-count // digits) if digits else _width(base) * -(-count // 8)


def _pack(x: Tensor, base: int) -> Tensor:
    if base == 1:
        return torch.zeros(0, dtype=torch.uint8)
    digits = _digits_per_byte(base)
    if not digits:
        return torch.cat([_pack(x >> bit & 1, 2) for bit in range(_width(base))])
    x = torch.nn.functional.pad(x.to(torch.uint8), (0, -x.numel() % digits)).view(-1, digits)
    out = torch.zeros(x.shape[0], dtype=torch.uint8, device=x.device)
    for digit in range(digits):
        out += x[:, digit] * base**digit
    return out.cpu()


def _unpack(payload: Tensor, base: int, count: int) -> Tensor:
    """`count` digits, uint8 or int64."""
    if count < 0 or base < 1 or payload.numel() != _packed_size(count, base):
        raise ValueError(f"{payload.numel()} bytes do not hold {count} integers below {base}")
    if base == 1:
        return torch.zeros(count, dtype=torch.uint8)
    digits = _digits_per_byte(base)
    if not digits:
        planes = payload.view(_width(base), -1)
        return sum((_unpack(plane, 2, count).long() << bit for bit, plane in enumerate(planes)), torch.zeros(count, dtype=torch.int64))
    columns = [(payload // base**digit) % base for digit in range(digits)]
    return torch.stack(columns, dim=1).view(-1)[:count]


def _gaps(mask: Tensor) -> Tensor:
    """Numbers of False entries before each True one, since the last."""
    positions = mask.reshape(-1).nonzero().squeeze(1)
    return positions.diff(prepend=positions.new_tensor([-1])) - 1


def _gap_width(gaps: Tensor) -> tuple[int, int]:
    """The width of a gap symbol that gives the fewest bytes, and those bytes. A longer gap is written with escapes of 2^width - 1."""
    if not gaps.numel():
        return 1, 0
    lengths = {w: _packed_size(int((gaps // (2**w - 1)).sum()) + gaps.numel(), 2**w) for w in range(1, 17)}
    width = min(lengths, key=lambda w: lengths[w])
    return width, lengths[width]

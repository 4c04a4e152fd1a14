"""Lossless coding of the tensors of a Theta to bytes.

For each tensor of integers the shortest of several codings is kept:

    digits    base b at a fixed width: as many digits as fit in a byte (5 ternary digits: 1.6 bits each), or one plane of bits per binary digit
    entropy   a range coder (constriction) with a table of integer frequencies, which stands before the code words
    rows      of a sparse matrix: by rows and columns that have few nonzero entries or none (`leco.contexts`)
    gaps      of a mask: the numbers of False entries between the True ones

Floats keep their own bytes. Tables are integers that sum to a power of two, so that decoding is the same on every machine.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from leco.contexts import ONE, position_bits, probabilities, row_classes

PRECISION = 16  # bits: the frequencies of a table sum to 2^16
LARGEST_TABLE = 4096  # symbols
LARGEST_MATRIX = 2**23  # entries coded by rows; a coder with a probability for each takes about a second for so many
BERNOULLI = stream.model.Bernoulli(perfect=False)


class Coded(NamedTuple):
    """`payload` (bytes,) uint8; `coding` says how it was made, in ints and a name, for `decode`."""

    payload: Tensor
    coding: dict[str, Any]


def bits(theta: Any) -> int:
    """The bits that the tensors of `theta`, and of the Thetas in it, take in a file (names, ints and shapes stand in the file's description).

    >>> import torch, leco
    >>> theta = leco.Binary().compress(torch.tensor([0.5, -1.5, 1.0, -1.0, 2.0]), mu=1.0)
    >>> leco.bits(theta)  # 5 signs in one byte, 2 values of the set {-1, +1}, one scale
    104
    """
    if isinstance(theta, Tensor):
        return 8 * size(theta)
    return sum(bits(field) for field in theta) if isinstance(theta, tuple) else 0


def size(x: Tensor) -> int:
    """Bytes that `encode(x)` gives; for floats, the bytes of the tensor itself."""
    return x.nbytes if x.is_floating_point() else min(length for length, _ in _candidates(x.detach()))


def encode(x: Tensor) -> Coded:
    """Code a tensor of bools or of non-negative integers; `decode(*encode(x), x.shape, x.dtype)` gives it back."""
    return min(_candidates(x.detach()), key=lambda candidate: candidate[0])[1]()


def _candidates(x: Tensor) -> list[tuple[int, Callable[[], Coded]]]:
    """The lengths of the codings that may pay, and what makes them."""
    flat, base = x.reshape(-1), _base(x)
    found = [(_packed_size(flat.numel(), base), lambda: Coded(_pack(flat, base), {"name": "digits", "base": base}))]
    if x.dtype == torch.bool:
        gaps = _gaps(flat)
        width, length = _gap_width(gaps)
        found.append((length, lambda: _encode_gaps(gaps, width)))
    for coded in (_entropy(flat, base), _rows(x, base)):
        if coded is not None:
            found.append((coded.payload.numel(), lambda coded=coded: coded))
    return found


def _encode_gaps(gaps: Tensor, width: int) -> Coded:
    escape = 2**width - 1
    last = (gaps // escape + 1).cumsum(0) - 1  # where each gap's final symbol stands, after its escapes
    symbols = torch.full((int(last[-1]) + 1 if gaps.numel() else 0,), escape, dtype=torch.int32, device=gaps.device)
    symbols[last] = (gaps % escape).int()
    return Coded(_pack(symbols, 2**width), {"name": "gaps", "width": width, "symbols": symbols.numel()})


def _entropy(flat: Tensor, base: int) -> Coded | None:
    """The range coder's bytes, or None where its table and the entropy show that they would not be fewer than at a fixed width."""
    if not 1 < base <= LARGEST_TABLE:
        return None
    symbols = flat.to("cpu", torch.int32).numpy()
    counts = np.bincount(symbols, minlength=base)
    used = counts[counts > 0] / len(symbols)
    if 2 * base - len(symbols) * float(used @ np.log2(used)) / 8 >= _packed_size(len(symbols), base):
        return None
    frequencies = counts * (2**PRECISION - base) // len(symbols) + 1
    frequencies[frequencies.argmax()] += 2**PRECISION - frequencies.sum()
    coder = stream.queue.RangeEncoder()
    coder.encode(symbols, _model(frequencies))
    return Coded(_bytes((frequencies - 1).astype("<u2"), coder.get_compressed().astype("<u4")), {"name": "entropy", "base": base})


def _bytes(*arrays: np.ndarray) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(array.tobytes() for array in arrays)) or bytearray(1), dtype=torch.uint8)[
        : sum(a.nbytes for a in arrays)
    ]


def _rows(x: Tensor, base: int) -> Coded | None:
    """A sparse matrix by `leco.contexts`: the classes of its rows, the positions, the values; None where it is not one. The shorter way round."""
    if x.dim() != 2 or not 1 < base <= LARGEST_TABLE or x.numel() > LARGEST_MATRIX or 2 * int(x.count_nonzero()) > x.numel():
        return None
    x = x.cpu()
    nonzero = x != 0
    transposed = bool(position_bits(nonzero.T) < position_bits(nonzero))
    if transposed:
        x, nonzero = x.T, nonzero.T
    classes = row_classes(nonzero.sum(1))
    ones = nonzero[classes > 0]
    p = probabilities(classes[classes > 0], ones.cumsum(0) - ones.long())
    coder = stream.queue.RangeEncoder()
    coder.encode(ones.reshape(-1).to(torch.int32).numpy(), BERNOULLI, (p.reshape(-1).double() / ONE).numpy())
    parts = [encode(classes.to(torch.uint8)), Coded(_bytes(coder.get_compressed().astype("<u4")), {}), encode(x[nonzero].int() - 1)]
    coding = {"name": "rows", "transposed": int(transposed), "parts": [[part.payload.numel(), part.coding] for part in parts]}
    return Coded(torch.cat([part.payload.cpu() for part in parts]), coding)


def _decode_rows(payload: Tensor, coding: dict[str, Any], shape: torch.Size) -> Tensor:
    m, n = reversed(shape) if coding["transposed"] else shape
    if not 0 <= m * n <= LARGEST_MATRIX:
        raise ValueError(f"{payload.numel()} bytes do not hold a matrix of {m} x {n} entries; by rows there are at most {LARGEST_MATRIX}")
    lengths = [length for length, _ in coding["parts"]]
    if len(lengths) != 3 or min(lengths) < 0 or sum(lengths) != payload.numel() or lengths[1] % 4:
        raise ValueError(f"{payload.numel()} bytes do not hold the three parts of a sparse matrix, of {lengths} bytes")
    first, words, last = payload.split(lengths)
    classes = decode(first, coding["parts"][0][1], torch.Size([m]), torch.int64)
    decoder = stream.queue.RangeDecoder(np.frombuffer(words.numpy().tobytes(), "<u4").astype(np.uint32))
    nonzero = torch.zeros(m, n, dtype=torch.bool)
    above = torch.zeros(1, n, dtype=torch.int64)
    for row in classes.nonzero().squeeze(1).tolist():
        p = probabilities(classes[row : row + 1], above)[0].double() / ONE
        nonzero[row] = torch.from_numpy(decoder.decode(BERNOULLI, p.numpy())).bool()
        above += nonzero[row]
    if not decoder.maybe_exhausted():
        raise ValueError(f"the words of a sparse matrix hold more than {m} x {n} positions")
    out = torch.zeros(m, n, dtype=torch.int64)
    out[nonzero] = decode(last, coding["parts"][2][1], torch.Size([int(nonzero.count_nonzero())]), torch.int64) + 1
    return out.T if coding["transposed"] else out


def _model(frequencies: np.ndarray) -> Any:
    return stream.model.Categorical(frequencies / 2**PRECISION, perfect=False)


def _decode_entropy(payload: Tensor, base: int, count: int) -> Tensor:
    data = payload.numpy().tobytes()
    if not 1 < base <= LARGEST_TABLE or (len(data) - 2 * base) % 4 or len(data) < 2 * base:
        raise ValueError(f"{len(data)} bytes do not hold a table of {base} frequencies and the words after it")
    frequencies = np.frombuffer(data, "<u2", base).astype(np.int64) + 1
    if frequencies.sum() != 2**PRECISION:
        raise ValueError(f"the frequencies of a table sum to {frequencies.sum()}, not to {2**PRECISION}")
    least = math.log2(2**PRECISION / frequencies.max())  # bits of a symbol; the coder takes memory for all of them at once
    if not 0 <= count * least <= 8.08 * len(data) + 64:
        raise ValueError(f"{len(data)} bytes do not hold {count} symbols of at least {least} bits")
    decoder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4", offset=2 * base).astype(np.uint32))
    symbols = decoder.decode(_model(frequencies), count)
    if not decoder.maybe_exhausted():
        raise ValueError(f"the words of a coded stream hold more than {count} symbols")
    return torch.from_numpy(symbols)


def decode(payload: Tensor, coding: dict[str, Any], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The tensor that `encode` was given. Raises ValueError where payload and description disagree."""
    try:
        return _decode(payload, coding, shape, dtype)
    except (AssertionError, AttributeError, LookupError, OverflowError, RuntimeError, TypeError) as error:  # the first is the range coder's
        raise ValueError(f"{payload.numel()} bytes do not hold a tensor of shape {tuple(shape)} coded as {coding}: {error}") from error


def _decode(payload: Tensor, coding: dict[str, Any], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    count = math.prod(shape)
    if coding["name"] == "digits":
        return _unpack(payload, coding["base"], count).to(dtype).reshape(shape)
    if coding["name"] == "rows" and len(shape) == 2:
        return _decode_rows(payload, coding, shape).to(dtype).contiguous()
    if coding["name"] == "entropy":
        return _decode_entropy(payload, coding["base"], count).to(dtype).reshape(shape)
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

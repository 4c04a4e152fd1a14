"""Lossless coding of tensors to bytes: whatever is coded comes back to the bit, and of several
codings the shortest is kept.

A coding is a dictionary of a name and whole numbers, which stands in the file's description:

    integers, bools   "digits", "entropy"   as flat streams, at a fixed width or by frequencies
                                            (`leco.coding.streams`)
    masks             {"name": "gaps", "width": w, "symbols": s}    the numbers of False entries
                                                                    between the True ones: s digits
                                                                    of base 2^w, a gap g
                      as g div (2^w - 1) escapes of 2^w - 1 and the rest
    sparse matrices   {"name": "rows", "transposed": 0 or 1, "parts": [[bytes, coding], [bytes, {}],
                      [bytes, coding]]}    the rows' classes, the
                      positions by rows and columns that have few nonzero entries or none
                      (`leco.coding.contexts`), the values - 1
    floats            "planes"              byte by byte, each plane as a stream
                                            (`leco.coding.floats`)
    any               "raw"                 the tensor's own bytes

Tables and models are integers, so that decoding is the same on every machine. What a file says is
believed in nothing: `decode` raises ValueError where payload, description, shape and type disagree,
before it takes more memory than about twice the tensor's own.
"""

import math
import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from leco.coding.contexts import ONE, code_bits, probabilities, row_classes
from leco.coding.floats import MANTISSA, decode_floats, encode_floats, split
from leco.coding.streams import (
    CHUNK,
    LARGEST_TABLE,
    Coded,
    as_bytes,
    decode_stream,
    encode_stream,
    number,
    pack,
    packed_size,
    unpack,
)

# entries coded by rows; a coder with a probability for each takes about a second for so many
LARGEST_MATRIX = 2**23
MOST_ROWS = 2**15  # likewise: the decoder works row by row
# what is coded
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *MANTISSA)
BLOCK = 2**15  # entries coded at a time
# of an entry of a probability in units of 1/65536
BITS = -np.log2(np.maximum(np.arange(ONE), 1) / ONE).astype(np.float32)
BERNOULLI = stream.model.Bernoulli(perfect=False)


def bits(theta: Any) -> int:
    """The bits that the tensors of `theta`, and of the Thetas in it, take in a file (names, ints
    and shapes stand in the file's description).

    >>> import torch, leco
    >>> theta = leco.Binary().compress(torch.tensor([0.5, -1.5, 1.0, -1.0, 2.0]), mu=1.0)
    >>> leco.bits(theta)  # 5 signs in one byte, 2 values of the set {-1, +1}, one scale
    104
    """
    if isinstance(theta, Tensor):
        return 8 * size(theta)
    return sum(bits(field) for field in theta) if isinstance(theta, tuple) else 0


def size(x: Tensor) -> int:
    """Bytes that `encode(x)` gives."""
    return encode(x).payload.numel()


def encode(x: Tensor) -> Coded:
    """Code a tensor of bools, integers or floats; `decode(*encode(x), x.shape, x.dtype)` gives it
    back to the bit.

    >>> import torch
    >>> from leco.coding.tensors import decode, encode
    >>> payload, coding = encode(torch.tensor([2, 0, 1, 1, 2, 0]))
    >>> len(payload), coding
    (2, {'name': 'digits', 'base': 3})
    >>> decode(payload, coding, torch.Size([6]), torch.int64)
    tensor([2, 0, 1, 1, 2, 0])
    """
    if x.dtype not in DTYPES:
        raise ValueError(
            f"{x.dtype} can't be coded; a file holds {', '.join(str(dtype) for dtype in DTYPES)}"
        )
    x = x.detach().cpu()
    if x.is_floating_point():
        return encode_floats(x)
    flat = x.reshape(-1)
    return min(
        (coded for coded in (encode_stream(flat), _gaps(flat), _rows(x)) if coded is not None),
        key=lambda coded: coded.payload.numel(),
    )


def decode(payload: Tensor, coding: Any, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The tensor that `encode` was given. Raises ValueError where payload and description disagree;
    a shape too large is the caller's to refuse."""
    count = math.prod(shape)
    if dtype not in DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"no tensor of {dtype} and shape {tuple(shape)} can have been coded")
    name = coding.get("name") if type(coding) is dict else None
    try:
        if dtype.is_floating_point and name in ("raw", "planes"):
            return decode_floats(payload, coding, count, dtype).view(shape)
        if (
            dtype.is_floating_point
            or (name == "gaps" and dtype != torch.bool)
            or (name == "rows" and len(shape) != 2)
        ):
            raise ValueError(
                f"unknown coding {reprlib.repr(coding)} of {dtype} and shape {tuple(shape)}"
            )
        if name == "gaps":
            return _decode_gaps(payload, coding, count).view(shape)
        if name == "rows":
            return _decode_rows(payload, coding, shape, dtype)
        return decode_stream(payload, coding, count, dtype).view(shape)
    # the first is the range coder's
    except (AssertionError, MemoryError, OverflowError, RuntimeError) as error:
        described = f"a tensor of shape {tuple(shape)} coded as {reprlib.repr(coding)}"
        raise ValueError(f"{payload.numel()} bytes do not hold {described}: {error}") from error


# --- masks by gaps


def _gaps(mask: Tensor) -> Coded | None:
    """Where they may pay: for few True entries."""
    ones = int(np.count_nonzero(mask.numpy())) if mask.dtype == torch.bool else 0
    if not 0 < 8 * ones <= len(mask):
        return None
    gaps = np.diff(np.flatnonzero(mask.numpy()), prepend=-1) - 1
    lengths = {w: packed_size(int((gaps // (2**w - 1)).sum()) + ones, 2**w) for w in range(1, 17)}
    width = min(lengths, key=lambda w: lengths[w])
    escape = 2**width - 1
    # where each gap's final symbol stands, after its escapes
    last = (gaps // escape + 1).cumsum() - 1
    symbols = np.full(last[-1] + 1, escape, dtype=np.uint16)
    symbols[last] = gaps % escape
    return Coded(pack(symbols, 2**width), {"name": "gaps", "width": width, "symbols": len(symbols)})


def _decode_gaps(payload: Tensor, coding: dict[str, Any], count: int) -> Tensor:
    keys = {"name", "width", "symbols"}
    width = number(coding, "width", 1, 16, keys)
    symbols, escape = (
        unpack(
            payload.numpy(), 2**width, number(coding, "symbols", 1, count, keys), np.dtype("u2")
        ),
        2**width - 1,
    )
    mask, at = np.zeros(count, dtype=bool), -1
    for start in range(0, len(symbols), CHUNK):
        part = symbols[start : start + CHUNK].astype(np.int64)
        # an escape moves on by 2^width - 1 positions, a final symbol by itself and one more
        positions = at + (part + (part != escape)).cumsum()
        at = int(positions[-1])
        if at >= count or (start + CHUNK >= len(symbols) and part[-1] == escape):
            raise ValueError(
                f"{payload.numel()} bytes do not hold a mask of {count}: gap-coded, it names position {at}, or ends within a gap"
            )
        mask[positions[part != escape]] = True
    return torch.from_numpy(mask)


# --- sparse matrices by rows and columns


def _rows(x: Tensor) -> Coded | None:
    """The classes of the rows, the positions, the values; None where it is not a sparse matrix. The
    shorter way round."""
    if x.dim() != 2 or not 0 < x.numel() <= LARGEST_MATRIX or max(x.shape) > MOST_ROWS:
        return None
    values = x.numpy().view(np.uint8) if x.dtype == torch.bool else x.numpy()
    nonzero = values != 0
    counts = [torch.from_numpy(nonzero.sum(axis, dtype=np.int64)) for axis in (1, 0)]
    if (
        not 0 < 2 * int(counts[0].sum()) <= x.numel()
        or values.min() < 0
        or values.max() > LARGEST_TABLE
        or not _structured(counts)
    ):
        return None
    ways = [
        (row_classes(c), np.ascontiguousarray(way[(c > 0).numpy()]))
        for c, way in zip(counts, (nonzero, nonzero.T), strict=True)
    ]
    lengths = [
        float(code_bits(classes.bincount()).sum()) + _position_bits(ones, classes[classes > 0])
        for classes, ones in ways
    ]
    transposed = lengths[1] < lengths[0]
    classes, ones = ways[transposed]
    coder = stream.queue.RangeEncoder()
    for block, p in _learned(ones, classes[classes > 0]):
        coder.encode(block.astype(np.int32).reshape(-1), BERNOULLI, p.reshape(-1) / ONE)
    found = torch.from_numpy(values.T[nonzero.T] if transposed else values[nonzero]).int() - 1
    parts = [
        encode_stream(classes.to(torch.uint8)),
        Coded(as_bytes(coder.get_compressed().astype("<u4")), {}),
        encode_stream(found),
    ]
    coding = {
        "name": "rows",
        "transposed": int(transposed),
        "parts": [[part.payload.numel(), part.coding] for part in parts],
    }
    return Coded(torch.cat([part.payload for part in parts]), coding)


def _learned(ones: np.ndarray, classes: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows that are not empty, some at a time, and the probabilities of their entries in units
    of 1/65536."""
    above, rows = np.zeros(ones.shape[1], dtype=np.int64), max(1, BLOCK // ones.shape[1])
    for start in range(0, len(ones), rows):
        block = ones[start : start + rows]
        until = above + np.cumsum(block, axis=0, dtype=np.int64)
        yield (
            block,
            probabilities(classes[start : start + rows], torch.from_numpy(until - block)).numpy(),
        )
        above = until[-1]


def _position_bits(ones: np.ndarray, classes: Tensor) -> float:
    return sum(
        float(BITS[np.where(block, p, ONE - p)].sum(dtype=np.float64))
        for block, p in _learned(ones, classes)
    )


def _decode_rows(
    payload: Tensor, coding: dict[str, Any], shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    keys = {"name", "transposed", "parts"}
    m, n = reversed(shape) if number(coding, "transposed", 0, 1, keys) else shape
    if m * n > LARGEST_MATRIX or max(m, n) > MOST_ROWS:
        raise ValueError(
            f"{payload.numel()} bytes do not hold a matrix of {m} x {n}; by rows there are at most {LARGEST_MATRIX}"
        )
    (first, classing), (words, nothing), (last, valuing) = split(payload, coding, 3, keys)
    if len(words) % 4 or nothing != {}:
        raise ValueError(
            f"{payload.numel()} bytes do not hold the three parts of a sparse matrix, with {len(words)} for the positions"
        )
    classes = decode_stream(first, classing, m, torch.uint8).long()
    if m and int(classes.max()) > n.bit_length():
        raise ValueError(
            f"{payload.numel()} bytes do not hold a matrix of {m} x {n}: a row has more entries"
        )
    decoder = stream.queue.RangeDecoder(
        np.frombuffer(words.numpy().tobytes(), "<u4").astype(np.uint32)
    )
    nonzero, above = np.zeros((m, n), dtype=bool), torch.zeros(1, n, dtype=torch.int64)
    for row in classes.nonzero().squeeze(1).tolist():
        p = probabilities(classes[row : row + 1], above)[0].numpy() / ONE
        nonzero[row] = decoder.decode(BERNOULLI, p)
        above += torch.from_numpy(nonzero[row])
    if not decoder.maybe_exhausted():
        raise ValueError(f"the words of a sparse matrix hold more than {m} x {n} positions")
    values = decode_stream(last, valuing, int(np.count_nonzero(nonzero)), torch.int32)
    if values.numel() and (
        int(values.min()) < 0
        or int(values.max()) >= (1 if dtype == torch.bool else torch.iinfo(dtype).max)
    ):
        raise ValueError(
            f"{payload.numel()} bytes do not hold {dtype}: a value is out of its range"
        )
    out = torch.zeros(m, n, dtype=dtype).masked_scatter_(
        torch.from_numpy(nonzero), (values + 1).to(dtype)
    )
    return (out.T if coding["transposed"] else out).contiguous()


def _structured(counts: list[Tensor]) -> bool:
    """Whether rows or columns differ in how many nonzero entries they have, by more than chance
    would: by the bits that it saves to know them."""
    rows, columns = counts
    whole = float(code_bits(torch.stack([rows.sum(), len(rows) * len(columns) - rows.sum()])).sum())
    known = sum(
        float(code_bits(torch.stack([c, len(other) - c], dim=-1)).sum())
        for c, other in ((rows, columns), (columns, rows))
    )
    return 2 * whole - known > 0.01 * whole

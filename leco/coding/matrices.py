"""Sparse matrices by rows and columns that have few nonzero entries or none.

    {"name": "rows", "transposed": 0 or 1, "parts": [[bytes, coding], [bytes, {}], [bytes, coding]]}

The parts are the classes of the rows (`leco.coding.contexts`) as a stream, the positions as words
of a range coder, and the values - 1 as a stream.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from leco.coding.contexts import ONE, code_bits, probabilities, row_classes
from leco.coding.digits import as_bytes
from leco.coding.floats import split
from leco.coding.steps import Steps
from leco.coding.streams import Encoded, encode_stream, number, stream_steps
from leco.coding.symbols import LARGEST_TABLE

# entries coded by rows; a coder with a probability for each takes about a second for so many
LARGEST_MATRIX = 2**23
MOST_ROWS = 2**15  # likewise: the decoder works row by row
BLOCK = 2**15  # entries coded at a time
# of an entry of a probability in units of 1/65536
BITS = -np.log2(np.maximum(np.arange(ONE), 1) / ONE).astype(np.float32)
BERNOULLI = stream.model.Bernoulli(perfect=False)


def encode_rows(x: Tensor) -> Encoded | None:
    """Code a sparse matrix of integers >= 0 or bools, the shorter way round; None for another
    tensor, and where rows and columns are all alike."""
    found = _sparse(x)
    if found is None:
        return None
    values, nonzero, counts = found
    # the shorter way round
    ways = [
        (row_classes(c), np.ascontiguousarray(way[(c > 0).numpy()]))
        for c, way in zip(counts, (nonzero, nonzero.T), strict=True)
    ]
    lengths = [
        float(code_bits(classes.bincount()).sum()) + _position_bits(ones, classes[classes > 0])
        for classes, ones in ways
    ]
    transposed = lengths[1] < lengths[0]
    # the positions
    classes, ones = ways[transposed]
    coder = stream.queue.RangeEncoder()
    for block, p in _learned(ones, classes[classes > 0]):
        coder.encode(block.astype(np.int32).reshape(-1), BERNOULLI, p.reshape(-1) / ONE)
    words = as_bytes(coder.get_compressed().astype("<u4"))
    # the parts
    kept = torch.from_numpy(values.T[nonzero.T] if transposed else values[nonzero]).int() - 1
    parts = [encode_stream(classes.to(torch.uint8)), Encoded(words, {}), encode_stream(kept)]
    described = [[part.payload.numel(), part.coding] for part in parts]
    coding = {"name": "rows", "transposed": int(transposed), "parts": described}
    return Encoded(torch.cat([part.payload for part in parts]), coding)


def _sparse(x: Tensor) -> tuple[np.ndarray, np.ndarray, list[Tensor]] | None:
    """The values of a matrix, where they are not 0, and how many are not 0 in each row and in each
    column; None unless it is sparse, small and structured."""
    if x.dim() != 2 or not 0 < x.numel() <= LARGEST_MATRIX or max(x.shape) > MOST_ROWS:
        return None
    values = x.numpy().view(np.uint8) if x.dtype == torch.bool else x.numpy()
    nonzero = values != 0
    counts = [torch.from_numpy(nonzero.sum(axis, dtype=np.int64)) for axis in (1, 0)]
    sparse = 0 < 2 * int(counts[0].sum()) <= x.numel()
    if not sparse or values.min() < 0 or values.max() > LARGEST_TABLE or not _structured(counts):
        return None
    return values, nonzero, counts


def _structured(counts: list[Tensor]) -> bool:
    """Whether rows or columns differ in how many nonzero entries they have, by more than chance
    makes: by the bits that it saves to know them."""
    rows, columns = counts
    whole = float(code_bits(torch.stack([rows.sum(), len(rows) * len(columns) - rows.sum()])).sum())
    known = sum(
        float(code_bits(torch.stack([c, len(other) - c], dim=-1)).sum())
        for c, other in ((rows, columns), (columns, rows))
    )
    return 2 * whole - known > 0.01 * whole


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


def row_steps(
    payload: Tensor, coding: dict[str, Any], shape: torch.Size, dtype: torch.dtype
) -> Steps[Tensor]:
    """The matrix of this shape and type. Raises ValueError where the bytes do not hold it."""
    held = f"{payload.numel()} bytes do not hold"
    # the parts
    keys = {"name", "transposed", "parts"}
    m, n = reversed(shape) if number(coding, "transposed", 0, 1, keys) else shape
    if m * n > LARGEST_MATRIX or max(m, n) > MOST_ROWS:
        raise ValueError(
            f"{held} a matrix of {m} x {n}; by rows there are at most {LARGEST_MATRIX}"
        )
    (first, classing), (words, nothing), (last, valuing) = split(payload, coding, 3, keys)
    if len(words) % 4 or nothing != {}:
        raise ValueError(
            f"{held} the three parts of a sparse matrix, with {len(words)} for the positions"
        )
    # the positions
    classes = (yield from stream_steps(first, classing, m, torch.uint8)).long()
    if m and int(classes.max()) > n.bit_length():
        raise ValueError(f"{held} a matrix of {m} x {n}: a row has more entries")
    nonzero = _positions(words, classes, n)
    # the values
    count = int(np.count_nonzero(nonzero))
    values = yield from stream_steps(last, valuing, count, torch.int32)
    most = 1 if dtype == torch.bool else torch.iinfo(dtype).max
    if values.numel() and (int(values.min()) < 0 or int(values.max()) >= most):
        raise ValueError(f"{held} {dtype}: a value is out of its range")
    places = torch.from_numpy(nonzero)
    out = torch.zeros(m, n, dtype=dtype).masked_scatter_(places, (values + 1).to(dtype))
    return (out.T if coding["transposed"] else out).contiguous()


def _positions(words: Tensor, classes: Tensor, n: int) -> np.ndarray:
    """Where the nonzero entries are, from the words and the classes of the rows."""
    m = len(classes)
    coded = np.frombuffer(words.numpy().tobytes(), "<u4").astype(np.uint32)
    decoder = stream.queue.RangeDecoder(coded)
    nonzero, above = np.zeros((m, n), dtype=bool), torch.zeros(1, n, dtype=torch.int64)
    for row in classes.nonzero().squeeze(1).tolist():
        p = probabilities(classes[row : row + 1], above)[0].numpy() / ONE
        nonzero[row] = decoder.decode(BERNOULLI, p)
        above += torch.from_numpy(nonzero[row])
    if not decoder.maybe_exhausted():
        raise ValueError(f"the words of a sparse matrix hold more than {m} x {n} positions")
    return nonzero

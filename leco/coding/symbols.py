"""The symbols of an asymmetric numeral system: its model, and its decoders.

The compiled library decodes several streams side by side. constriction decodes one after another
where there is no compiler.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]

from leco.native.symbols import SCALE, Coded, streams

LARGEST_TABLE = 4096  # symbols
CHUNK = 2**18  # symbols coded at a time: constriction takes int32
# The coder's first state, and the decoder's last: at least 2^24, so that each symbol changes it.
END = np.array([SCALE], dtype=np.uint32)


def model_of(frequencies: np.ndarray) -> Any:
    """constriction's model of symbols with these frequencies."""
    return stream.model.Categorical(frequencies / SCALE, perfect=False)


def decoded(every: Sequence[Coded]) -> list[np.ndarray | None]:
    """For each stream its symbols or digits; None where its words hold more symbols or fewer.
    Raises ValueError where there is no memory for them."""
    try:
        found = streams(every)
        if found is None:
            found = [_slowly(coded) for coded in every]
    except MemoryError as error:
        count = sum(coded.length for coded in every)
        raise ValueError(f"there is no memory for {count} symbols: {error}") from error
    return [out if exact else None for out, exact in found]


def _slowly(coded: Coded) -> tuple[np.ndarray, bool]:
    """The symbols or digits, and whether the words hold exactly these."""
    data = coded.words.tobytes()
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
    decoder = stream.stack.AnsCoder(words)
    model = model_of(coded.frequencies)
    out = np.empty(coded.length, dtype=np.uint8 if len(coded.frequencies) <= 256 else np.uint16)
    for start in range(0, coded.length, CHUNK):
        part = out[start : start + CHUNK]
        part[:] = decoder.decode(model, len(part))
    exact = np.array_equal(decoder.get_compressed(), END)
    return out if coded.digits is None else np.take(coded.digits, out, axis=0).reshape(-1), exact

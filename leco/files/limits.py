"""What a file may claim, checked before memory is taken: the JSON of its description, the sizes of
its tensors, and the arrays that are made of them."""

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

DEPTH = 32  # of Thetas in Thetas
SPARE = 2**14  # bytes, or entries, that the smallest task may have
SPARE_NODES = 2**16  # of JSON, and as many more as the file has bytes
SPARE_TEXT = 2**18  # bytes of JSON, and 16 times as many more as the file has
UNSEEN = 2**22  # weights of a net that is not given, and 256 more for each byte of the file


def inflate(packed: bytes, words: bytes, file_bytes: int) -> str:
    """The JSON of a description. Raises ValueError where it is longer, or has more values, than
    `save` writes to a file of this length."""
    most = SPARE_TEXT + 16 * file_bytes
    engine = zlib.decompressobj(wbits=-15, zdict=words)
    try:
        data = engine.decompress(packed, most)
    except zlib.error as error:
        raise ValueError(f"it does not inflate: {error}") from error
    if not engine.eof or engine.unused_data:
        raise ValueError(
            f"it ends too early, goes on after its end, or inflates to more than {most} bytes"
        )
    text = data.decode()
    nodes, most = sum(map(text.count, "[{,")), SPARE_NODES + file_bytes
    if nodes > most:
        raise ValueError(f"it has {nodes} values; a file of {file_bytes} bytes may have {most}")
    return text


def parse(text: str) -> Any:
    """JSON of dicts with distinct keys, lists, strings, bools, null, integers of 64 bits and finite
    floats. Raises ValueError otherwise."""
    try:
        return json.loads(
            text,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse,
            object_pairs_hook=_distinct,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits[:30]} is not an integer of 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"{digits[:30]} is not a finite number")
    return float(digits)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def sizes(value: Any) -> list[int]:
    """A shape as a description has it. Raises ValueError where it is not a list of at most 64
    counts whose product has 63 bits."""
    if (
        type(value) is not list
        or len(value) > 64
        or not all(type(n) is int and n >= 0 for n in value)
    ):
        raise ValueError(f"a shape must be a list of counts, not {str(value)[:100]}")
    if math.prod(max(1, n) for n in value) >= 2**63:
        raise ValueError(f"a shape {value} has too many entries")
    return value


class Allowance:
    """What a task may take.

    - Its tensors, all together: 12 bytes for each of its weights, and 64 for each byte of payload.
    - One array that is made of them, Delta(Theta) or an intermediate one: two entries for each
      weight, and 64 for each byte of payload.
    - All such arrays together: 64 entries for each weight, and 4096 for each byte.

    No compression of the library needs more. A tensor that is coded to next to nothing (a mask of
    zeros) can't claim more memory than the net itself.
    """

    def __init__(self, entries: int):
        self.entries, self._claimed, self._made, self._payload = entries, 0, 0, 0

    def claim(self, shape: Sequence[int], itemsize: int, length: int) -> None:
        """Raise ValueError where a tensor of this shape, in `length` bytes, goes beyond."""
        self._claimed += itemsize * math.prod(max(1, n) for n in shape)
        self._payload += length
        most = 12 * self.entries + 64 * self._payload + SPARE
        if self._claimed > most:
            raise ValueError(
                f"a tensor of shape {tuple(shape)} makes {self._claimed} bytes, more than {most}; "
                f"the parameters have {self.entries} entries"
            )

    def make(self, count: int) -> None:
        """Raise ValueError where an array of so many entries, or all arrays together, go beyond."""
        self._made += count
        if count > (most := 2 * self.entries + 64 * self._payload + SPARE):
            raise ValueError(
                f"an array of {count} entries is larger than {most}; "
                f"the parameters have {self.entries}"
            )
        if self._made > (most := 64 * (self.entries + 64 * self._payload + SPARE)):
            raise ValueError(
                f"arrays of {self._made} entries in all are more than {most}; "
                f"the parameters have {self.entries}"
            )

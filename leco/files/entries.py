"""The entries of a safetensors file, read through one open file descriptor.

`safetensors.safe_open` opens the path twice. A file that another process replaces in between gives
the header of one file and the data of the other. Here the file that is open stays the same one.
"""

import math
import mmap
import struct
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from leco.files.limits import parse, sizes

# as safetensors calls them
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
TYPES = {"U8": torch.uint8, **FLOATS}
MOST_HEADER = 10**8  # bytes, as in safetensors


class Entry(NamedTuple):
    """One tensor: its type as the header names it, its shape, and where its bytes are."""

    dtype: str
    shape: list[int]
    start: int
    stop: int


class Entries:
    """The entries of an open file, by name; `tensor` gives one of them, without a copy.

    Raises:
        ValueError: not a safetensors file, or entries that do not fill it.
    """

    def __init__(self, file: BinaryIO):
        # the descriptor's own length: the path may name another file by now
        self.length = file.seek(0, 2)
        if self.length < 8:
            raise ValueError(f"it has {self.length} bytes, and no header")
        # a private copy of what is written to: torch wants memory that it may write
        mapped = mmap.mmap(file.fileno(), self.length, access=mmap.ACCESS_COPY)
        self._bytes = torch.frombuffer(mapped, dtype=torch.uint8)
        (size,) = struct.unpack("<Q", mapped[:8])
        if not 0 < size <= min(self.length - 8, MOST_HEADER):
            raise ValueError(f"its header claims {size} of its {self.length} bytes")
        header = parse(mapped[8 : 8 + size].decode())
        self.entries = self._checked(header, 8 + size)

    def _checked(self, header: Any, at: int) -> dict[str, Entry]:
        """The entries of a header. They stand one behind the other from `at` to the end."""
        if type(header) is not dict:
            raise ValueError("its header is no list of entries")
        metadata = header.pop("__metadata__", None)
        if metadata is not None and not _is_texts(metadata):
            raise ValueError("its metadata are no texts by name")
        found = {name: _entry(name, described, at) for name, described in header.items()}
        for name, entry in sorted(found.items(), key=lambda item: item[1][2:]):
            if entry.start != at or entry.stop < at:
                raise ValueError(f"its entry {name!r} is not where the one before it ends")
            at = entry.stop
        if at != self.length:
            raise ValueError(f"its entries end at {at}, the file at {self.length} bytes")
        return found

    def tensor(self, name: str) -> Tensor:
        """An entry of a known type, as a view of the file."""
        entry = self.entries[name]
        dtype, data = TYPES[entry.dtype], self._bytes[entry.start : entry.stop]
        if entry.start % dtype.itemsize:
            data = data.clone()
        return data.view(dtype).view(entry.shape)


def _is_texts(value: Any) -> bool:
    return type(value) is dict and all(type(text) is str for text in value.values())


def _entry(name: str, described: Any, start: int) -> Entry:
    """An entry as the header describes it; `start` is where the data begin."""
    if type(described) is not dict or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its entry {name!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = described["dtype"], sizes(described["shape"]), described["data_offsets"]
    if type(dtype) is not str or type(offsets) is not list or [*map(type, offsets)] != [int, int]:
        raise ValueError(f"its entry {name!r} is damaged: {str(described)[:100]}")
    first, last = offsets
    if dtype in TYPES and math.prod(shape) * TYPES[dtype].itemsize != last - first:
        raise ValueError(f"its entry {name!r} of shape {shape} does not have {last - first} bytes")
    return Entry(dtype, shape, start + first, start + last)

"""An open file: its description, and its tensors by what the description says of them."""

import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from leco.coding.steps import Steps, finished, side_by_side
from leco.coding.tensors import decoding
from leco.files.container import (
    DTYPES,
    ENTRY,
    RAW,
    VERSION,
    WORDS,
    Pooled,
    Stored,
    checksum,
)
from leco.files.entries import FLOATS, Entries, Entry
from leco.files.limits import inflate, parse, sizes

PARTS = ("tasks", "tied", "rest")
"""What a description has."""


class Container:
    """An open file. Construction reads and checks its description. Its tensors are declared by
    `declare`, all of them in order, and then read by `read`."""

    def __init__(self, entries: Entries):
        _check_version(entries.entries)
        self._entries, self.length = entries, entries.length
        self._content = entries.tensor(ENTRY)
        self.entries = {name: e for name, e in entries.entries.items() if name != ENTRY}
        self.tensors, self._payload_bytes = 0, 0
        self._used: set[str] = set()
        self._pools: dict[int, Tensor] = {}
        data = sum(entry.stop - entry.start for entry in self.entries.values())
        self.header_bytes = self.length - len(self._content) - data
        self.description, self.description_bytes = self._described()

    def _described(self) -> tuple[dict[str, Any], int]:
        try:
            (length,) = struct.unpack("<I", self._bytes(0, 4))
            (expected,) = struct.unpack("<I", self._bytes(4 + length, 8 + length))
        except struct.error as error:
            raise ValueError(f"its description is damaged: {error}") from error
        if zlib.crc32(self._bytes(0, 4 + length)) != expected:
            raise ValueError(
                "its description is damaged: it does not have the checksum that the file gives"
            )
        try:
            description = parse(inflate(self._bytes(4, 4 + length), WORDS, self.length))
        except ValueError as error:
            raise ValueError(f"its description is damaged: {error}") from error
        if (
            type(description) is not dict
            or set(description) != set(PARTS)
            or not all(type(description[name]) is dict for name in PARTS)
        ):
            raise ValueError("its description is damaged: it must have tasks, tied and rest")
        return {"version": VERSION, **description}, 4 + length

    def _bytes(self, start: int, stop: int) -> bytes:
        return self._content[start:stop].numpy().tobytes()

    def declare(self, task: str, field: str, node: dict[str, Any]) -> Stored:
        """The next tensor, from its node of the description.

        Args:
            node: {"t": [dtype, shape, bytes, coding]}, or {"t": [dtype, shape, entry]} for a tensor
                that is an entry.
        """
        # the type and the shape
        name, shape, where, *coding = node["t"]
        if type(name) is not str or name not in DTYPES or len(node) != 1:
            raise ValueError(f"{field}: unknown type {str(name)[:100]}")
        dtype, own = DTYPES[name], math.prod(sizes(shape)) * DTYPES[name].itemsize
        # where its bytes are
        entry = where if type(where) is str and not coding else ""
        if entry:
            self._use(field, entry, name, shape)
            length, coding = own, [RAW]
        elif not self._holds(where, coding):
            raise ValueError(
                f"{field}: {str(where)[:100]} bytes, coded as {str(coding)[:100]}, "
                "are not in this file"
            )
        else:
            length = int(where)
        if coding[0] == RAW and own != length:
            raise ValueError(f"{field}: {length} bytes do not hold {name} of shape {shape}")
        # behind the one before it
        number, start = self.tensors, self._payload_bytes
        self.tensors += 1
        self._payload_bytes += 0 if entry else length
        size = torch.Size(shape)
        return Stored(task, field, dtype, size, length, coding[0], entry, number, start)

    def _holds(self, length: Any, coding: list[Any]) -> bool:
        """Whether a payload of this length and coding can be in the file."""
        return (
            type(length) is int
            and 0 <= length <= len(self._content)
            and len(coding) == 1
            and type(coding[0]) is dict
        )

    def _use(self, field: str, name: str, dtype: str, shape: list[int]) -> None:
        """Take an entry for a tensor. Raises ValueError where it is not there, is another, or is
        taken."""
        found = self.entries.get(name, Entry("none", [], 0, 0))
        if name in self._used or FLOATS.get(found.dtype) != DTYPES[dtype] or found.shape != shape:
            raise ValueError(
                f"{field}: the entry {name!r} must be {dtype} of shape {shape}, used once; "
                f"the file has {found.dtype} {found.shape}"
            )
        self._used.add(name)

    @property
    def checksum_bytes(self) -> int:
        """Bytes of the checksums of the description and of all tensors."""
        return 4 * (1 + self.tensors)

    def settle(self) -> None:
        """Check, after the last tensor is declared, that the tensors take up the whole file."""
        claimed = self.description_bytes + self.checksum_bytes + self._payload_bytes
        left = sorted(self.entries.keys() - self._used)
        if claimed != len(self._content) or left:
            raise ValueError(
                f"it has {len(self._content)} bytes and the entries {left[:3]} "
                f"where its description needs {claimed} and none"
            )

    def read(self, stored: Stored | Pooled) -> Tensor:
        """The tensor. Raises ValueError where its bytes are not those that were written."""
        return finished(self.reading(stored))

    def read_all(self, every: Mapping[str, Stored | Pooled]) -> dict[str, Tensor]:
        """The tensors by name."""
        read = finished(side_by_side(map(self.reading, every.values())))
        return dict(zip(every, read, strict=True))

    def reading(self, stored: Stored | Pooled) -> Steps[Tensor]:
        """`read`, beside the reading of other tensors."""
        if isinstance(stored, Pooled):
            number = stored.pool.number
            if number not in self._pools:
                self._pools[number] = self.read(stored.pool)
            own = self._pools[number][stored.start : stored.start + stored.shape.numel()]
            return own.view(stored.shape)
        # its bytes
        start = self.description_bytes + self.checksum_bytes + stored.start
        content = self._content[start : start + stored.length]
        data = self._entries.tensor(stored.entry) if stored.entry else content
        at = self.description_bytes + 4 * (1 + stored.number)
        if struct.pack("<I", checksum(data)) != self._bytes(at, at + 4):
            raise ValueError(f"{stored.field} does not have the checksum that the file gives")
        if stored.entry:
            return data
        # what they hold
        try:
            return (yield from decoding(data, stored.coding, stored.shape, stored.dtype))
        except ValueError as error:
            raise ValueError(f"{stored.field}: {error}") from error


def _check_version(entries: dict[str, Entry]) -> None:
    if ENTRY not in entries:
        versions = (re.fullmatch(r"leco(\.(\d+))?", name) for name in entries)
        other = next((found for found in versions if found), None)
        if other is None:
            raise ValueError(f"it is a safetensors file, but not one of leco (no entry {ENTRY!r})")
        raise ValueError(
            f"it has format version {other[2] or 1}; this leco reads version {VERSION}"
        )
    for name, entry in entries.items():
        content = entry.dtype == "U8" and len(entry.shape) == 1
        if not (content if name == ENTRY else entry.dtype in FLOATS):
            raise ValueError(f"its entry {name!r} is damaged: {entry.dtype} of shape {entry.shape}")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Container]:
    """A file, open for reading, once. ValueErrors raised inside say which file it is.

    Raises:
        ValueError: a folder; not a file of leco, or damaged.
        OSError: no such file, or no right to read it.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path}: it is a folder, not a file of leco.save")
    with open(path, "rb") as file:
        try:
            yield Container(_entries(file))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _entries(file: Any) -> Entries:
    try:
        return Entries(file)
    except ValueError as error:
        raise ValueError(f"it is not a safetensors file, or is damaged: {error}") from error

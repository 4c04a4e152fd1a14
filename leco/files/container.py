"""The bytes of a file: a safetensors container with an entry "leco.2", and entries of their own for
large floats that no coding makes shorter.

    leco.2 = the length of the description in 4 bytes (all numbers are little-endian)
             the description: JSON, deflated without a header, with the preset dictionary WORDS
             crc32 in 4 bytes each: of the two above; of every tensor, in the order in which the
             description names them the payloads of the tensors that are no entries of their own, in
             that order

The name of the entry gives the version of the format. Nothing here knows what a Theta is.
"""

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leco.atomic import atomically
from leco.coding.tensors import DTYPES as CODED
from leco.coding.tensors import decode
from leco.files.limits import inflate, parse, sizes

VERSION = 2
ENTRY = f"leco.{VERSION}"
# as safetensors calls them
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
RAW = {"name": "raw"}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in CODED}
WORDS = (  # of descriptions, so that a short one deflates too; part of the format
    b'{"tasks":{"all":{"params":{".weight":[".bias":[],"view":["Matrix",{"rows":[0]}]["Groups",{"size":["Rows",{"dim":0}]'
    b'"Kernel","Blocks","compression":["Budget",{"members":[["Part",{"view":["Vector",{}],"compression":["EntropyCodebook",{"alpha":1.0,"k":16,'
    b'"zero":true}],"at":[0],"unit":1.0,"weight":1.0}]],"limit":}]"theta":{"Sum":[[{"Term":[{"ZeroCodes":[{"t":["uint8",[{"name":"entropy","base":'
    b'{"name":"rows","transposed":0,"parts":[["v":["Vector",{}]},[0],0,1.0]},"Sparse":[{"t":["bool",{"name":"gaps","width":4,"symbols":"Codes":"Scaled":'
    b'{"name":"planes","parts":[[{"name":"digits","base":256}],["Factors":[{"t":["float32",[]},"tied":{},"rest":{"running_mean":{"t":["running_var":{"t":['
    b'"num_batches_tracked":{"t":["int64",[],0,{"name":"digits","base":1,"least":]}".bias":{"t":["float32",[10],40,{"name":"raw"}]},".weight":}}'
)


class Stored(NamedTuple):
    """One tensor of a file: what the description says of it. `entry` is its safetensors entry, or
    "" where it is among the payloads."""

    task: str
    field: str
    dtype: torch.dtype
    shape: torch.Size
    length: int
    coding: dict[str, Any]
    entry: str
    number: int
    start: int  # among the payloads


class Pooled(NamedTuple):
    """One of several small tensors that are coded as one, `pool`: its entries from `start` on."""

    pool: Stored
    field: str
    shape: torch.Size
    start: int

    task = ""
    coding = {"name": "pool"}

    @property
    def dtype(self) -> torch.dtype:
        return self.pool.dtype

    @property
    def length(self) -> int:
        """Its share of the pool's bytes; the shares of all sum to them."""
        before, after = (
            at * self.pool.length // max(1, self.pool.shape.numel())
            for at in (self.start, self.start + self.shape.numel())
        )
        return after - before


class Payload(NamedTuple):
    """The bytes of a tensor; `entry` names the entry of its own in which they stand as they are, a
    float tensor."""

    data: Tensor
    entry: str = ""


def write(
    path: str | os.PathLike[str], description: dict[str, Any], tensors: Sequence[Payload]
) -> int:
    """Write a file beside `path` and rename it; return its length in bytes."""
    head = head_of(description)
    sums = [zlib.crc32(head), *(checksum(data) for data, _ in tensors)]
    content = bytearray(
        head
        + struct.pack(f"<{len(sums)}I", *sums)
        + b"".join(data.numpy().tobytes() for data, entry in tensors if not entry)
    )
    entries = {
        ENTRY: torch.frombuffer(content, dtype=torch.uint8),
        **{entry: data for data, entry in tensors if entry},
    }
    atomically(Path(path), lambda temporary: save_file(entries, temporary))
    return Path(path).stat().st_size


def head_of(description: dict[str, Any]) -> bytes:
    """The description as it stands in a file, with its length before it."""
    deflate = zlib.compressobj(9, wbits=-15, zdict=WORDS)
    packed = (
        deflate.compress(json.dumps(description, separators=(",", ":"), allow_nan=False).encode())
        + deflate.flush()
    )
    return struct.pack("<I", len(packed)) + packed


def checksum(data: Tensor) -> int:
    """crc32 of a tensor's bytes."""
    return zlib.crc32(data.reshape(-1).view(torch.uint8).numpy().data) if data.numel() else 0


class Container:
    """An open file. Its description is read and checked; its tensors are declared by `declare`, all
    of them, and then read by `read`."""

    def __init__(self, file: Any, length: int):
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        kinds = {key: (part.get_dtype(), list(part.get_shape())) for key, part in slices.items()}
        self._check_version(kinds)
        self._file, self.length = file, length
        self._content = file.get_tensor(ENTRY)
        self.entries = {key: kind for key, kind in kinds.items() if key != ENTRY}
        self.tensors, self._payload_bytes = 0, 0
        self._used: set[str] = set()
        self._pools: dict[int, Tensor] = {}
        data = sum(
            math.prod(shape) * FLOATS[dtype].itemsize for dtype, shape in self.entries.values()
        )
        self.header_bytes = length - len(self._content) - data
        self.description, self.description_bytes = self._described()

    @staticmethod
    def _check_version(kinds: dict[str, tuple[str, list[int]]]) -> None:
        if ENTRY not in kinds:
            other = next(
                (found for key in kinds if (found := re.fullmatch(r"leco(\.(\d+))?", key))), None
            )
            if other is None:
                raise ValueError(
                    f"it is a safetensors file, but not one of leco (no entry {ENTRY!r})"
                )
            raise ValueError(
                f"it has format version {other[2] or 1}; this leco reads version {VERSION}"
            )
        for key, (dtype, shape) in kinds.items():
            if (dtype != "U8" or len(shape) != 1) if key == ENTRY else dtype not in FLOATS:
                raise ValueError(f"its entry {key!r} is damaged: {dtype} of shape {shape}")

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
        parts = ("tasks", "tied", "rest")
        if (
            type(description) is not dict
            or set(description) != set(parts)
            or not all(type(description[part]) is dict for part in parts)
        ):
            raise ValueError("its description is damaged: it must have tasks, tied and rest")
        return {"version": VERSION, **description}, 4 + length

    def _bytes(self, start: int, stop: int) -> bytes:
        return self._content[start:stop].numpy().tobytes()

    def declare(self, task: str, field: str, node: dict[str, Any]) -> Stored:
        """The next tensor, from its node {"t": [dtype, shape, bytes, coding]}, or {"t": [dtype,
        shape, entry]} for one that is an entry."""
        dtype, shape, length, *coding = node["t"]
        if type(dtype) is not str or dtype not in DTYPES or len(node) != 1:
            raise ValueError(f"{field}: unknown type {str(dtype)[:100]}")
        own, entry = math.prod(sizes(shape)) * DTYPES[dtype].itemsize, ""
        if type(length) is str and not coding:
            entry, length, coding = length, own, [RAW]
            kind, found = self.entries.get(entry, ("", []))
            if entry in self._used or FLOATS.get(kind) != DTYPES[dtype] or found != shape:
                raise ValueError(
                    f"{field}: the entry {entry!r} must be {dtype} of shape {shape}, used once; the file has {kind or 'none'} {found}"
                )
            self._used.add(entry)
        elif (
            type(length) is not int
            or not 0 <= length <= len(self._content)
            or len(coding) != 1
            or type(coding[0]) is not dict
        ):
            raise ValueError(
                f"{field}: {str(length)[:100]} bytes, coded as {str(coding)[:100]}, are none of this file"
            )
        elif coding[0] == RAW and own != length:
            raise ValueError(f"{field}: {length} bytes do not hold {dtype} of shape {shape}")
        stored = Stored(
            task,
            field,
            DTYPES[dtype],
            torch.Size(shape),
            length,
            coding[0],
            entry,
            self.tensors,
            self._payload_bytes,
        )
        self.tensors += 1
        self._payload_bytes += 0 if entry else length
        return stored

    @property
    def checksum_bytes(self) -> int:
        return 4 * (1 + self.tensors)

    def settle(self) -> None:
        """After the last tensor is declared. Raises ValueError unless they take up the whole
        file."""
        claimed, left = (
            self.description_bytes + self.checksum_bytes + self._payload_bytes,
            sorted(self.entries.keys() - self._used),
        )
        if claimed != len(self._content) or left:
            raise ValueError(
                f"it has {len(self._content)} bytes and the entries {left[:3]} where its description needs {claimed} and none"
            )

    def read(self, stored: Stored | Pooled) -> Tensor:
        """The tensor. Raises ValueError where its bytes are not those that were written."""
        if isinstance(stored, Pooled):
            number = stored.pool.number
            self._pools[number] = whole = (
                self._pools[number] if number in self._pools else self.read(stored.pool)
            )
            return whole[stored.start : stored.start + stored.shape.numel()].view(stored.shape)
        start = self.description_bytes + self.checksum_bytes + stored.start
        data = (
            self._file.get_tensor(stored.entry)
            if stored.entry
            else self._content[start : start + stored.length]
        )
        at = self.description_bytes + 4 * (1 + stored.number)
        if struct.pack("<I", checksum(data)) != self._bytes(at, at + 4):
            raise ValueError(f"{stored.field} does not have the checksum that the file gives")
        try:
            return data if stored.entry else decode(data, stored.coding, stored.shape, stored.dtype)
        except ValueError as error:
            raise ValueError(f"{stored.field}: {error}") from error


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Container]:
    """A file, open for reading. ValueErrors raised inside say which file it is."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            yield Container(file, Path(path).stat().st_size)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

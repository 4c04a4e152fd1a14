"""The bytes of a file, as `save` writes them: a safetensors container with an entry "leco.2", and
an entry of its own for each large tensor of floats that no coding makes shorter.

    leco.2 = the length of the description in 4 bytes (all numbers are little-endian)
             the description: JSON, deflated without a header, with the preset dictionary WORDS
             crc32 in 4 bytes each: of the two above; of every tensor, in the order in which the
                 description names them
             the payloads of the tensors that are not entries of their own, in that order

The name of the entry gives the version of the format. Nothing here depends on what a Theta is;
`leco.files.reader` reads these bytes.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from leco.atomic import atomically
from leco.coding.tensors import DTYPES as CODED
from leco.native.checksum import crc32

VERSION = 2
ENTRY = f"leco.{VERSION}"
RAW = {"name": "raw"}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in CODED}
WORDS = (  # of descriptions, so that a short one deflates too; part of the format
    b'{"tasks":{"all":{"params":{".weight":[".bias":[],"view":["Matrix",{"rows":[0]}]'
    b'["Groups",{"size":["Rows",{"dim":0}]'
    b'"Kernel","Blocks","compression":["Budget",{"members":[["Part",{"view":["Vector",{}],'
    b'"compression":["EntropyCodebook",{"alpha":1.0,"k":16,'
    b'"zero":true}],"at":[0],"unit":1.0,"weight":1.0}]],"limit":}]"theta":{"Sum":[[{"Term":['
    b'{"ZeroCodes":[{"t":["uint8",[{"name":"entropy","base":'
    b'{"name":"rows","transposed":0,"parts":[["v":["Vector",{}]},[0],0,1.0]},"Sparse":[{"t":['
    b'"bool",{"name":"gaps","width":4,"symbols":"Codes":"Scaled":'
    b'{"name":"planes","parts":[[{"name":"digits","base":256}],["Factors":[{"t":["float32",[]},'
    b'"tied":{},"rest":{"running_mean":{"t":["running_var":{"t":['
    b'"num_batches_tracked":{"t":["int64",[],0,{"name":"digits","base":1,"least":]}".bias":{"t":['
    b'"float32",[10],40,{"name":"raw"}]},".weight":}}'
)


class Stored(NamedTuple):
    """What the description says of one tensor of a file.

    Args:
        entry: its safetensors entry, or "" where its bytes are among the payloads.
        number: how many tensors are before it.
        start: where its bytes begin among the payloads.
    """

    task: str
    field: str
    dtype: torch.dtype
    shape: torch.Size
    length: int
    coding: dict[str, Any]
    entry: str
    number: int
    start: int


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
        """Its share of the pool's bytes. The shares of all sum to them."""
        before, after = (
            at * self.pool.length // max(1, self.pool.shape.numel())
            for at in (self.start, self.start + self.shape.numel())
        )
        return after - before


class Payload(NamedTuple):
    """The bytes of a tensor. `entry` names the entry of its own of a float tensor that is written
    as it is."""

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
    text = json.dumps(description, separators=(",", ":"), allow_nan=False).encode()
    packed = deflate.compress(text) + deflate.flush()
    return struct.pack("<I", len(packed)) + packed


def checksum(data: Tensor) -> int:
    """crc32 of a tensor's bytes."""
    return crc32(data.contiguous().view(-1).view(torch.uint8)) if data.numel() else 0

"""The length of a file, from its description and the sizes of its tensors alone."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from leco.files.container import ENTRY, Payload, head_of

# safetensors' names of the types of entries, in its order
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
}
PLACES = {dtype: place for place, dtype in enumerate(TYPES)}


class Entry(NamedTuple):
    """What the container says of one of its entries."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class Sizes(NamedTuple):
    """The sizes of some tensors of a file.

    Args:
        number: how many there are.
        plain: bytes of those that are not entries of their own.
        entries: those that are.
    """

    number: int
    plain: int
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, payloads: Iterable[Payload]) -> "Sizes":
        every = list(payloads)
        own = [Entry(entry, data.dtype, tuple(data.shape)) for data, entry in every if entry]
        plain = sum(data.nbytes for data, entry in every if not entry)
        return cls(len(every), plain, tuple(own))

    def joined(self, other: "Sizes") -> "Sizes":
        """The sizes of the tensors of both."""
        entries = (*self.entries, *other.entries)
        return Sizes(self.number + other.number, self.plain + other.plain, entries)


def file_length(description: dict[str, Any], sizes: Sizes) -> int:
    """The bytes of the file that `leco.files.container.write` makes of a description and tensors of
    these sizes."""
    # the description, a checksum for it and for each tensor, and the payloads
    content = len(head_of(description)) + 4 * (1 + sizes.number) + sizes.plain
    return container_length([*sizes.entries, Entry(ENTRY, torch.uint8, (content,))])


def container_length(entries: Sequence[Entry]) -> int:
    """The bytes of a safetensors file: the length of its header in 8 bytes; the header, JSON with
    spaces behind it up to a multiple of 8; the entries, ordered by type and then by name."""
    header, end = dict[str, Any](), 0
    for entry in sorted(entries, key=lambda entry: (PLACES[entry.dtype], entry.name)):
        start, end = end, end + entry.nbytes
        header[entry.name] = {
            "dtype": TYPES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end

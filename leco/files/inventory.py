"""What a file says of itself, and what each of its bytes is for."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from leco.files.arguments import check_path
from leco.files.contents import Contents, contents
from leco.files.reader import Container, opened
from leco.theta import THETAS
from leco.views import VIEWS


class Stream(NamedTuple):
    """One tensor of a file, or what the file needs besides.

    Args:
        coding: the name of its coding ("raw": bytes as they are).
        kind: "theta", "rest" or "overhead".
    """

    task: str
    field: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    coding: str
    kind: str


def streams(
    path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()
) -> list[Stream]:
    """What each byte of a file is for: its header, description and checksums, then its tensors in
    order. The bytes sum to its length."""
    check_path("files.inventory.streams(path)", path)
    with opened(path) as file:
        return streams_of(file, contents(file, (*THETAS, *forms), (*VIEWS, *views), None))


def streams_of(file: Container, found: Contents) -> list[Stream]:
    """The same of an open file."""
    overhead = {
        "header": file.header_bytes,
        "description": file.description_bytes,
        "checksums": file.checksum_bytes,
    }
    rows = [Stream("", name, "", (), length, "", "overhead") for name, length in overhead.items()]
    kinds = (
        *(("theta", found.stored[name]) for name in found.tasks),
        ("rest", found.rest.values()),
    )
    for kind, tensors in kinds:
        for t in tensors:
            dtype, coding = str(t.dtype).removeprefix("torch."), str(t.coding.get("name"))
            rows.append(Stream(t.task, t.field, dtype, tuple(t.shape), t.length, coding, kind))
    return rows


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself: its tasks with their parameters, views, compressions and forms,
    the tensors in no task, and all lengths.

    Raises:
        ValueError: as `load`, for the header and the description.
        TypeError: not a path.
        OSError: no such file, or no right to read it.
    """
    check_path("describe(path)", path)
    with opened(path) as file:
        return file.description

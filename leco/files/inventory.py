"""What a file says of itself, and what each of its bytes is for."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from leco.files.container import Container, opened
from leco.files.contents import Contents, contents
from leco.theta import THETAS
from leco.views import VIEWS


class Stream(NamedTuple):
    """One tensor of a file, or what the file needs besides. `kind` is "theta", "rest" or
    "overhead", `coding` its name ("raw": bytes as they are)."""

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
    for kind, tensors in (
        *(("theta", found.stored[name]) for name in found.tasks),
        ("rest", found.rest.values()),
    ):
        for t in tensors:
            rows.append(
                Stream(
                    t.task,
                    t.field,
                    str(t.dtype).removeprefix("torch."),
                    tuple(t.shape),
                    t.length,
                    str(t.coding.get("name")),
                    kind,
                )
            )
    return rows


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself: its tasks with their parameters, views, compressions and forms,
    the tensors in no task, and all lengths.

    Raises:
        ValueError: as `load`, for the header and the description.
    """
    with opened(path) as file:
        return file.description

"""The purpose of each byte of a file: the tasks, every tensor with its coding and the entropy of
its symbols, and the parameters that are not compressed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leco.algorithm.compressed import Compressed
from leco.files.arguments import check_path
from leco.files.container import DTYPES
from leco.files.contents import contents, decoded
from leco.files.inventory import Stream, streams_of
from leco.files.reader import opened
from leco.measure.byte_tables import (
    TaskRow,
    TensorRow,
    rest_table,
    tasks_table,
    thetas_table,
    totals_table,
)
from leco.measure.tables import render
from leco.theta import THETAS, Sum
from leco.theta.tree import leaves
from leco.views import VIEWS

LEGEND = (
    "bits: of the file, for a weight or entry. "
    "entropy: of integers, by how often each occurs, in bits.",
    "over: bytes more than the entropy; "
    "below 0 where a coding knows more than how often each occurs.",
)


@dataclass(frozen=True)
class Breakdown:
    """The result of `breakdown`; `print` it for the tables.

    Attributes:
        file: its path.
        bytes: its length; the bytes of `tensors` sum to it.
        dense_bytes: of the same tensors uncompressed: a task's weights in the float type of its
            Theta, the others as they are in the file.
        tied: names that share the tensor of another name.
    """

    file: str
    bytes: int
    dense_bytes: int
    tasks: Mapping[str, TaskRow]
    tensors: tuple[TensorRow, ...]
    tied: Mapping[str, str]

    @property
    def ratio(self) -> float:
        return self.dense_bytes / self.bytes

    def json(self) -> dict[str, Any]:
        """Return all of it in plain dicts, lists, strings and numbers."""
        return {
            **{
                "file": self.file,
                "bytes": self.bytes,
                "dense_bytes": self.dense_bytes,
                "ratio": self.ratio,
                "tied": dict(self.tied),
            },
            "tasks": {
                name: {
                    **row._asdict(),
                    "params": {n: list(shape) for n, shape in row.params.items()},
                }
                for name, row in self.tasks.items()
            },
            "tensors": [
                {**row._asdict(), "shape": list(row.shape), "over_entropy": row.over}
                for row in self.tensors
            ],
        }

    def text(self, width: int = 160) -> str:
        """Return the tables, for a page of `width` columns."""
        tables = {
            "Tasks": tasks_table(self.tasks),
            "Their tensors": thetas_table(self.tensors, self.bytes),
            "Not compressed (coded without loss)": rest_table(self.tensors, self.tied, self.bytes),
            self.file: totals_table(self.tensors, self.bytes),
        }
        lines = [
            line
            for title, table in tables.items()
            if table.row_count
            for line in (title, *render(table, width).splitlines())
        ]
        dense = (
            f"{self.ratio:.2f} times fewer bytes than the {self.dense_bytes:,} "
            "of the same tensors dense."
        )
        return "".join(f"{line.rstrip()}\n" for line in (*lines, dense, *LEGEND))

    def __str__(self) -> str:
        return self.text()


def breakdown(
    path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()
) -> Breakdown:
    """Return what each byte of a file of `leco.save` is for. It reads all tensors and checks their
    checksums, and decompresses nothing.

    Args:
        forms: Theta classes of your own that the file uses, beside the library's.
        views: view classes of your own, likewise.

    Raises:
        ValueError: as `leco.thetas`: not a file of leco, or damaged.

    >>> import leco, tempfile, torch
    >>> lc = leco.LC(torch.nn.Linear(784, 300), leco.each(["weight"], leco.Vector(), leco.Binary()))
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = leco.save(f"{folder}/model.safetensors", lc)
    ...     found = leco.breakdown(f"{folder}/model.safetensors")
    >>> size == found.bytes == sum(row.bytes for row in found.tensors)
    True
    >>> found.tasks["weight"].form, found.tensors[3].field, found.tensors[3].bytes * 8 == 300 * 784
    ('Scaled', 'indices', True)
    """
    check_path("breakdown(path)", path)
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), None)
        rows = streams_of(file, found)
        tasks = dict(decoded(file, found, found.tasks))
        values = [leaf for task in tasks.values() for leaf in leaves(task.theta)]
        values += [file.read(stored) for stored in found.rest.values()]
        length, described = file.length, file.description["tasks"]
    # the tensors, in the order of the rows
    overhead = [_row(row, None) for row in rows if row.kind == "overhead"]
    coded = (row for row in rows if row.kind != "overhead")
    tensors = [_row(row, value) for row, value in zip(coded, values, strict=True)]
    # the same, uncompressed
    dense = sum(row.entries * DTYPES[row.dtype].itemsize for row in tensors if row.kind == "rest")
    dense += sum(_weights(task) * _itemsize(task) for task in tasks.values())
    # the tasks
    sizes = dict.fromkeys(tasks, 0)
    for row in tensors:
        if row.kind == "theta":
            sizes[row.task] += row.bytes
    named = {name: _task(task, described[name], sizes[name]) for name, task in tasks.items()}
    return Breakdown(str(path), length, dense, named, (*overhead, *tensors), found.tied)


def entropy(x: Tensor) -> float:
    """Return the entropy of the integers in x by their frequencies, in bits: sum of p log2(1/p).

    >>> import torch
    >>> from leco.measure.breakdown import entropy
    >>> entropy(torch.tensor([0, 1, 2, 3])), entropy(torch.tensor([True, True]))
    (2.0, 0.0)
    """
    p = torch.unique(x, return_counts=True)[1].double() / max(x.numel(), 1)
    return float((p * -p.log2()).sum()) + 0.0  # not -0.0


def _row(row: Stream, value: Tensor | None) -> TensorRow:
    short = row.field.removeprefix("theta.").replace(".theta.", ".")
    field = short if row.kind == "theta" else row.field
    bits = entropy(value) if value is not None and not value.is_floating_point() else None
    entries = 0 if value is None else value.numel()
    coded = (row.dtype, row.shape, row.bytes, row.coding, entries, bits)
    return TensorRow(row.kind, row.task, field, *coded)


def _task(task: Compressed, described: Mapping[str, Any], length: int) -> TaskRow:
    params = {name: tuple(shape) for name, shape in task.shapes.items()}
    return TaskRow(
        params,
        _written(described["view"]),
        _written(described["compression"]),
        _form(task.theta),
        _weights(task),
        length,
    )


def _weights(task: Compressed) -> int:
    return sum(shape.numel() for shape in task.shapes.values())


def _itemsize(task: Compressed) -> int:
    return next((leaf.itemsize for leaf in leaves(task.theta) if leaf.is_floating_point()), 4)


def _written(described: Any) -> str:
    """[name, options] of the description as the code that makes it; options of None are left
    out."""
    if not isinstance(described, list):
        return str(described)
    if len(described) == 2 and isinstance(described[1], dict):
        name, options = described
        given = (f"{n}={_written(value)}" for n, value in options.items() if value is not None)
        return f"{name}({', '.join(given)})"
    return f"[{', '.join(map(_written, described))}]"


def _form(theta: Any) -> str:
    """Return the form of a Theta, with the forms of the Thetas inside it in brackets."""
    inner = [term.theta for term in theta.terms] if isinstance(theta, Sum) else list(_thetas(theta))
    forms = dict.fromkeys(_form(own) for own in inner)
    return type(theta).__name__ + (f"({', '.join(forms)})" if forms else "")


def _thetas(field: Any) -> Iterator[Any]:
    for member in field:
        if hasattr(member, "_fields"):
            yield member
        elif isinstance(member, tuple):
            yield from _thetas(member)

"""What each byte of a file is for: the tasks, every tensor with its coding beside the entropy of
its symbols, and what is not compressed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.box import MARKDOWN
from rich.table import Table
from torch import Tensor

from leco.algorithm.compressed import Compressed
from leco.files.container import DTYPES, opened
from leco.files.contents import contents, decoded
from leco.files.inventory import Stream, streams_of
from leco.measure.tables import render
from leco.theta import THETAS, Sum
from leco.theta.tree import leaves
from leco.views import VIEWS

LEGEND = (
    "bits: of the file, for a weight or entry. entropy: of integers, by how often each occurs, in bits.",
    "over: bytes more than the entropy; below 0 where a coding knows more than how often each occurs.",
)


class TaskRow(NamedTuple):
    """A task of a file: shapes by parameter; view and compression as they would be written; the
    form of its Theta; its weights and bytes."""

    params: Mapping[str, tuple[int, ...]]
    view: str
    compression: str
    form: str
    weights: int
    bytes: int


class TensorRow(NamedTuple):
    """A tensor of a file, or what the file needs besides (`kind` "overhead"). `entropy`: of
    integers, in bits a symbol; None for floats."""

    kind: str
    task: str
    field: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    coding: str
    entries: int
    entropy: float | None

    @property
    def over(self) -> float | None:
        """Bytes over the empirical entropy; below 0 where a coding knows more than how often each
        symbol occurs."""
        return None if self.entropy is None else self.bytes - self.entropy * self.entries / 8


@dataclass(frozen=True)
class Breakdown:
    """What `breakdown` found; `print` it for the tables.

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
        """All of it, in plain dicts, lists, strings and numbers."""
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
        """The tables, for a page of `width` columns."""
        tables = {
            "Tasks": _tasks(self),
            "Their tensors": _compressed(self),
            "Not compressed (coded without loss)": _rest(self),
            self.file: _totals(self),
        }
        lines = [
            line
            for title, table in tables.items()
            if table.row_count
            for line in (title, *render(table, width).splitlines())
        ]
        dense = f"{self.ratio:.2f} times fewer bytes than the {self.dense_bytes:,} of the same tensors dense."
        return "".join(f"{line.rstrip()}\n" for line in (*lines, dense, *LEGEND))

    def __str__(self) -> str:
        return self.text()


def breakdown(
    path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()
) -> Breakdown:
    """What each byte of a file of `leco.save` is for. All tensors are read, and their checksums
    compared; nothing is decompressed.

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
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), None)
        rows = streams_of(file, found)
        tasks = {name: decoded(file, found, name) for name in found.tasks}
        values = [leaf for task in tasks.values() for leaf in leaves(task.theta)] + [
            file.read(stored) for stored in found.rest.values()
        ]
        described = file.description["tasks"]
    overhead = [_row(row, None) for row in rows if row.kind == "overhead"]
    tensors = [
        _row(row, value)
        for row, value in zip((row for row in rows if row.kind != "overhead"), values, strict=True)
    ]
    rest = sum(row.entries * DTYPES[row.dtype].itemsize for row in tensors if row.kind == "rest")
    return Breakdown(
        str(path),
        Path(path).stat().st_size,
        rest + sum(_weights(task) * _itemsize(task) for task in tasks.values()),
        {
            name: _task(
                task,
                described[name],
                sum(row.bytes for row in tensors if row.kind == "theta" and row.task == name),
            )
            for name, task in tasks.items()
        },
        (*overhead, *tensors),
        found.tied,
    )


def entropy(x: Tensor) -> float:
    """Of the integers in x, by how often each occurs, in bits: sum of p log2(1/p).

    >>> import torch
    >>> from leco.measure.breakdown import entropy
    >>> entropy(torch.tensor([0, 1, 2, 3])), entropy(torch.tensor([True, True]))
    (2.0, 0.0)
    """
    p = torch.unique(x, return_counts=True)[1].double() / max(x.numel(), 1)
    return float((p * -p.log2()).sum()) + 0.0  # not -0.0


def _row(row: Stream, value: Tensor | None) -> TensorRow:
    field = (
        row.field.removeprefix("theta.").replace(".theta.", ".")
        if row.kind == "theta"
        else row.field
    )
    bits = entropy(value) if value is not None and not value.is_floating_point() else None
    return TensorRow(
        row.kind,
        row.task,
        field,
        row.dtype,
        row.shape,
        row.bytes,
        row.coding,
        0 if value is None else value.numel(),
        bits,
    )


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
    if isinstance(described, list) and len(described) == 2 and isinstance(described[1], dict):
        name, options = described
        return f"{name}({', '.join(f'{option}={_written(value)}' for option, value in options.items() if value is not None)})"
    return (
        f"[{', '.join(map(_written, described))}]"
        if isinstance(described, list)
        else str(described)
    )


def _form(theta: Any) -> str:
    """The form of a Theta, and in brackets those of the Thetas in it."""
    inner = [term.theta for term in theta.terms] if isinstance(theta, Sum) else list(_thetas(theta))
    forms = dict.fromkeys(_form(own) for own in inner)
    return type(theta).__name__ + (f"({', '.join(forms)})" if forms else "")


def _thetas(field: Any) -> Iterator[Any]:
    for member in field:
        if hasattr(member, "_fields"):
            yield member
        elif isinstance(member, tuple):
            yield from _thetas(member)


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, ..., {names[-1]} ({len(names)})"


def _tasks(b: Breakdown) -> Table:
    table = _table("task", "parameters", "weights>", "bytes>", "bits>", "compression of view: form")
    for name, row in b.tasks.items():
        bits = f"{8 * row.bytes / max(row.weights, 1):.3f}"
        what = f"{row.compression} of {row.view}: {row.form}"
        _add(table, name, _some(list(row.params)), f"{row.weights:,}", f"{row.bytes:,}", bits, what)
    return table


def _compressed(b: Breakdown) -> Table:
    table = _table(
        "task",
        "tensor",
        "type",
        "shape",
        "bytes>",
        "share>",
        "coding",
        "bits>",
        "entropy>",
        "over>",
    )
    for row in b.tensors:
        if row.kind == "theta":
            theory = (
                ("", "")
                if row.entropy is None or row.over is None
                else (f"{row.entropy:.3f}", f"{row.over:,.0f}")
            )
            _add(table, row.task, row.field, *_columns(b, row), *theory)
    return table


def _rest(b: Breakdown) -> Table:
    table = _table("tensor", "type", "shape", "bytes>", "share>", "coding", "bits>")
    for row in b.tensors:
        if row.kind == "rest":
            _add(table, row.field, *_columns(b, row))
    for name, first in b.tied.items():
        _add(table, name, "", "", "0", "", f"is {first}", "")
    return table


def _columns(b: Breakdown, row: TensorRow) -> tuple[str, ...]:
    shape = " x ".join(map(str, row.shape))
    return (
        row.dtype,
        shape,
        f"{row.bytes:,}",
        f"{row.bytes / b.bytes:.2%}",
        row.coding,
        f"{8 * row.bytes / row.entries:.3f}" if row.entries else "",
    )


def _totals(b: Breakdown) -> Table:
    table = _table("part", "bytes>", "share>")
    totals = {"tensors of the tasks": "theta", "not compressed": "rest"}
    for name, length in [
        *(
            (name, sum(row.bytes for row in b.tensors if row.kind == kind))
            for name, kind in totals.items()
        ),
        *((row.field, row.bytes) for row in b.tensors if row.kind == "overhead"),
    ]:
        _add(table, name, f"{length:,}", f"{length / b.bytes:.2%}")
    _add(table, "the file", f"{b.bytes:,}", f"{1:.2%}")
    return table


def _add(table: Table, *cells: str) -> None:
    """A row; what a file's names have that is not for printing (control codes of a terminal) as
    escapes."""
    table.add_row(
        *("".join(c if c.isprintable() else repr(c)[1:-1] for c in cell) for cell in cells)
    )


def _table(*columns: str) -> Table:
    """Of plain characters, so that it can be piped and pasted; a column of numbers ends in >."""
    table = Table(box=MARKDOWN)
    for column in columns:
        table.add_column(
            column.removesuffix(">"),
            justify="right" if column.endswith(">") else "left",
            overflow="fold",
        )
    return table

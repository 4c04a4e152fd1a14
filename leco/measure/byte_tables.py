"""The tables of what each byte of a file is for, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.box import MARKDOWN
from rich.table import Table


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


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, ..., {names[-1]} ({len(names)})"


def tasks_table(tasks: Mapping[str, TaskRow]) -> Table:
    """Return a table with a row for each task."""
    table = _table("task", "parameters", "weights>", "bytes>", "bits>", "compression of view: form")
    for name, row in tasks.items():
        bits = f"{8 * row.bytes / max(row.weights, 1):.3f}"
        what = f"{row.compression} of {row.view}: {row.form}"
        _add(table, name, _some(list(row.params)), f"{row.weights:,}", f"{row.bytes:,}", bits, what)
    return table


def thetas_table(tensors: Sequence[TensorRow], total: int) -> Table:
    """Return a table with a row for each tensor of the tasks, in a file of `total` bytes."""
    columns = ("type", "shape", "bytes>", "share>", "coding", "bits>", "entropy>", "over>")
    table = _table("task", "tensor", *columns)
    for row in tensors:
        if row.kind == "theta":
            entropy = "" if row.entropy is None else f"{row.entropy:.3f}"
            over = "" if row.over is None else f"{row.over:,.0f}"
            _add(table, row.task, row.field, *_columns(row, total), entropy, over)
    return table


def rest_table(tensors: Sequence[TensorRow], tied: Mapping[str, str], total: int) -> Table:
    """Return a table with a row for each tensor in no task, and for each name that shares one."""
    table = _table("tensor", "type", "shape", "bytes>", "share>", "coding", "bits>")
    for row in tensors:
        if row.kind == "rest":
            _add(table, row.field, *_columns(row, total))
    for name, first in tied.items():
        _add(table, name, "", "", "0", "", f"is {first}", "")
    return table


def _columns(row: TensorRow, total: int) -> tuple[str, ...]:
    shape = " x ".join(map(str, row.shape))
    return (
        row.dtype,
        shape,
        f"{row.bytes:,}",
        f"{row.bytes / total:.2%}",
        row.coding,
        f"{8 * row.bytes / row.entries:.3f}" if row.entries else "",
    )


def totals_table(tensors: Sequence[TensorRow], total: int) -> Table:
    """Return a table of the bytes of each part of a file, and of the whole file."""
    table = _table("part", "bytes>", "share>")
    kinds = {"tensors of the tasks": "theta", "not compressed": "rest"}
    parts = {
        name: sum(row.bytes for row in tensors if row.kind == kind) for name, kind in kinds.items()
    }
    parts |= {row.field: row.bytes for row in tensors if row.kind == "overhead"}
    for name, length in parts.items():
        _add(table, name, f"{length:,}", f"{length / total:.2%}")
    _add(table, "the file", f"{total:,}", f"{1:.2%}")
    return table


def _add(table: Table, *cells: str) -> None:
    """Add a row. What is not for printing in a file's names (control codes of a terminal) becomes
    escapes."""
    table.add_row(
        *("".join(c if c.isprintable() else repr(c)[1:-1] for c in cell) for cell in cells)
    )


def _table(*columns: str) -> Table:
    """A table of plain characters, for pipes and pages. The name of a column of numbers ends in
    ">"."""
    table = Table(box=MARKDOWN)
    for column in columns:
        table.add_column(
            column.removesuffix(">"),
            justify="right" if column.endswith(">") else "left",
            overflow="fold",
        )
    return table

"""Nets in several runtimes, and products with packed weights: tables of docs/export.md and
docs/layers.md."""

from typing import Any

from benchmarks import records
from benchmarks.report.cells import TITLES

Row = dict[str, Any]
NAMES = {**TITLES, "smollm2": "SmolLM2-135M"}


def runtimes() -> list[Row]:
    """A line for each net and variant, of the newest record of each net."""
    return [
        {
            "net": NAMES[row["net"]],
            "runtime": row["variant"],
            "file, MB": f"{row['bytes'] / 1e6:.1f}",
            # torchao's tensors give the size of the floats that they stand for
            "in memory, MB": _megabytes(row["held_bytes"] if row["variant"] != "torchao" else None),
            "load, s": f"{row['load_seconds']:.2f}",
            "batch 1, ms": f"{1e3 * row['batch 1 seconds']:.1f}",
            "batch 64, ms": f"{1e3 * row['batch 64 seconds']:.0f}",
            "largest error": f"{row['error']:.1g}",
        }
        for row in every()
    ]


def kernels() -> list[Row]:
    """A line for each form and way: how many times as fast as the dense layer, by vectors."""
    return [
        {
            "weights": form,
            "way": way,
            **{
                _vectors(batch): f"{own[batch]['times_faster']:.2g}" if batch in own else ""
                for batch in dict.fromkeys(row["batch"] for row in products())
            },
            "largest error": f"{max(row['error'] for row in own.values()):.1g}",
        }
        for (form, way), own in _by_way().items()
    ]


def products() -> list[Row]:
    """All rows of products, of the newest record of each form."""
    newest: dict[str, list[Row]] = {}
    for run in records.read("serving", "kernels"):
        for form in dict.fromkeys(row["form"] for row in run["rows"]):
            newest[form] = [row for row in run["rows"] if row["form"] == form]
    return [row for rows in newest.values() for row in rows]


def _by_way() -> dict[tuple[str, str], dict[int, Row]]:
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in products():
        found.setdefault((row["form"], row["way"]), {})[row["batch"]] = row
    return found


def _vectors(count: int) -> str:
    return f"{count} vector{'s' if count > 1 else ''}"


def every() -> list[Row]:
    """All rows, of the newest record of each net."""
    newest = {run["rows"][0]["net"]: run for run in records.read("serving", "runtimes")}
    return [row for net in NAMES if net in newest for row in newest[net]["rows"]]


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"

"""Nets in several runtimes: the table of docs/export.md."""

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
            "in memory, MB": _megabytes(row["held_bytes"]),
            "load, s": f"{row['load_seconds']:.2f}",
            "batch 1, ms": f"{1e3 * row['batch 1 seconds']:.1f}",
            "batch 64, ms": f"{1e3 * row['batch 64 seconds']:.0f}",
            "largest error": f"{row['error']:.1g}",
        }
        for row in every()
    ]


def every() -> list[Row]:
    """All rows, of the newest record of each net."""
    newest = {run["rows"][0]["net"]: run for run in records.read("serving", "runtimes")}
    return [row for net in NAMES if net in newest for row in newest[net]["rows"]]


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"

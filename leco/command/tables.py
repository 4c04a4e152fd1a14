"""The tables that the commands print."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from leco.command.compress import Job
from leco.command.plan import Row
from leco.command.report import duration, size
from leco.measure.tables import render


def plan_text(job: Job) -> str:
    """Return the plan as a table: how each parameter is compressed or why it is left, and sums."""
    plan = job.plan
    groups = dict[tuple[str, ...], list[Row]]()
    for row in plan.rows:
        groups.setdefault((row.word, row.how, row.why), []).append(row)
    table = Table("parameters", "to", "how, or why not")
    for name in ("before", "after, about"):
        table.add_column(name, justify="right")
    for (word, how, why), rows in groups.items():
        sums = [size(sum(getattr(row, key) for row in rows)) for key in ("before", "after")]
        table.add_row(_names(rows), word or "left", how or why, *sums)
    ratio = plan.before / max(plan.after, 1)
    lines = [
        f"{size(plan.before)} before, about {size(plan.after)} after, {ratio:.1f} times fewer",
        f"about {duration(plan.seconds)} on one core, and {size(plan.memory)} of memory",
    ]
    return render(table, 120) + "\n".join(lines) + "\n"


def plan_json(job: Job) -> dict[str, Any]:
    """Return the plan for programs."""
    plan = job.plan
    return {
        "bytes": {"before": plan.before, "after": plan.after},
        "seconds": plan.seconds,
        "memory": plan.memory,
        "parameters": [{**vars(row), "shape": list(row.shape)} for row in plan.rows],
    }


def result_text(result: dict[str, Any]) -> str:
    """Return the table at the end of a job."""
    table = Table("", "before", "after", "")
    before, after = result["bytes"]["before"], result["bytes"]["after"]
    table.add_row("bytes", f"{before:,}", f"{after:,}", f"{before / after:.2f} times fewer")
    measured = result["measured"]
    if measured:
        numbers = [number(measured[key]) for key in ("before", "after")]
        table.add_row(measured["name"], *numbers, "")
    errors = [row["error"] for row in result["layers"] if row.get("error") is not None]
    directs = [row["direct"] for row in result["layers"] if row.get("direct") is not None]
    if errors:
        mean = [number(sum(own) / len(own)) for own in (directs, errors)]
        table.add_row("relative error of a layer", "", mean[1], f"direct compression: {mean[0]}")
    return render(table, 100)


def points_text(points: Sequence[dict[str, Any]], measured: str) -> str:
    """Return the points of a sweep as a table, by size; of a search the best ones alone."""
    table = Table("", "bytes", "times fewer", measured, "")
    if any("choice" in p for p in points):
        table.add_column("choice")
    for p in sorted(points, key=lambda p: p["bytes"]):
        if "choice" in p and not p["best"]:
            continue
        row = [p["word"], f"{p['bytes']:,}", f"{p['ratio']:.2f}", number(p["value"])]
        row += ["best at its size" if p["best"] else ""]
        table.add_row(*row, *([p["choice"]] if "choice" in p else []))
    return render(table, 120)


def comparison(names: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    """Return a table of two results side by side."""
    table = Table("", *names)
    table.add_row("bytes", *(f"{r['bytes']['after']:,}" for r in results))
    table.add_row(
        "times fewer", *(f"{r['bytes']['before'] / r['bytes']['after']:.2f}" for r in results)
    )
    for key in dict.fromkeys(r["measured"]["name"] for r in results if r["measured"]):
        values = [
            r["measured"]["after"] if r["measured"] and r["measured"]["name"] == key else None
            for r in results
        ]
        table.add_row(key, *(number(value) for value in values))
    rows = [{row["name"]: row for row in r["layers"]} for r in results]
    for name in dict.fromkeys(name for own in rows for name in own):
        both = [own.get(name, {}) for own in rows]
        compressed = any(row.get("word") for row in both)
        if compressed and [_what(row) for row in both] != [_what(both[0])] * len(both):
            table.add_row(name, *(_what(row) for row in both))
    return render(table, 120)


def _what(row: dict[str, Any]) -> str:
    """Return a layer of a result for a cell."""
    if not row:
        return "not there"
    error = f", error {number(row['error'])}" if row.get("error") is not None else ""
    return f"{row.get('word') or 'left'}, {row['after']:,} bytes{error}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _names(rows: Sequence[Row]) -> str:
    """Return the names of rows, shortened."""
    names = [row.name for row in rows]
    return ", ".join(names) if len(names) <= 2 else f"{names[0]}, ..., {names[-1]} ({len(names)})"

"""Compression without training in many formats: the tables of MiniLM."""

from benchmarks import records
from benchmarks.layerwise.rows import ROWS
from benchmarks.report.layerwise import STYLES, Row, seconds

BATCHES = 32  # of the table of formats


def cells() -> list[Row]:
    """The newest record of each cell, in the order of the rows, then of the methods."""
    newest = {
        (run["row"], cell["method"], run["batches"]): {**cell, **_of(run)}
        for run in records.read("layerwise", "minilm")
        for cell in run["cells"]
    }
    rows, methods = [*ROWS], [*STYLES]
    order = sorted(newest, key=lambda key: (rows.index(key[0]), methods.index(key[1]), key[2]))
    return [newest[key] for key in order]


def _of(run: Row) -> Row:
    return {"row": run["row"], "batches": run["batches"]}


def minilm() -> list[Row]:
    """A line for each cell with the usual number of batches."""
    return [
        {
            "format": cell["row"],
            "MB": f"{cell['bytes'] / 1e6:.2f}" if "bytes" in cell else "",
            "MB in a file": f"{cell['coded_bytes'] / 1e6:.2f}" if "coded_bytes" in cell else "",
            "method": cell["method"],
            "mean cosine": f"{cell['cosine']:.4f}",
            "least cosine": f"{cell['least_cosine']:.3f}",
            "same nearest sentence, %": f"{cell['same_nearest']:.1f}",
            "layer error, %": f"{100 * cell['error']:.2f}" if "error" in cell else "",
            "solves, s": seconds(cell, "solve_cpu_seconds"),
            "whole, s": seconds(cell, "cpu_seconds"),
            "memory, MB": f"{cell['memory_bytes'] / 1e6:,.0f}",
        }
        for cell in cells()
        if cell["batches"] == BATCHES
    ]


def sizes() -> list[Row]:
    """The mean cosine by the number of batches, where there are several."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for cell in cells():
        found.setdefault((cell["row"], cell["method"]), {})[cell["batches"]] = cell["cosine"]
    counts = sorted({count for each in found.values() if len(each) > 1 for count in each})
    return [
        {
            "format": row,
            "method": method,
            **{f"{c} batches": f"{each[c]:.4f}" if c in each else "" for c in counts},
        }
        for (row, method), each in found.items()
        if len(each) > 1
    ]

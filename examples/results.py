"""Record, print and draw the rows of a comparison."""

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from compare import Row
from rich.console import Console
from rich.table import Table

import leco

try:
    import matplotlib
except ImportError as error:
    raise ImportError("the examples need matplotlib: pip install leco[examples]") from error
matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

MARKERS = {"DC": "x", "DC + retraining": "s", "LC": "o", "LC + retraining": "D"}


def record(
    path: Path,
    seed: int,
    seconds: float,
    reference: dict[str, float],
    rows: list[Row],
    **extra: Any,
) -> None:
    """Write a run, with its command, versions and machine, as JSON."""
    content = {
        "command": shlex.join(
            ["python", *(Path(a).name if a.startswith(("/", "..")) else a for a in sys.argv)]
        ),
        "seed": seed,
        "versions": {
            "leco": leco.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "seconds": seconds,
        "reference": reference,
        "rows": [{**row._asdict(), "path": Path(row.path).name} for row in rows],
        **extra,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"recorded in {path}")


def table(rows: list[Row], title: str, reference_error: float, dense: int) -> None:
    """Print the comparison."""
    columns = ("compression", "method", "test error %", "file bytes", "ratio", "gap", "seconds")
    out = Table(*columns, title=title)
    out.add_row("none", "reference", f"{reference_error:.2f}", f"{dense:,}", "1.0", "", "")
    for row in rows:
        gap = f"{row.gap:.2g}" if row.method == "LC" else ""
        out.add_row(
            row.compression,
            row.method,
            f"{row.error:.2f}",
            f"{row.bytes:,}",
            f"{row.ratio:.1f}",
            gap,
            f"{row.seconds:.1f}",
        )
    Console(width=110).print(out)


def draw(rows: list[Row], title: str, reference_error: float, dense: int, path: Path) -> None:
    """Error against bytes: a marker for each method, a line for each compression."""
    colours = plt.get_cmap("tab10")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")

    # a line for each compression
    for number, name in enumerate(dict.fromkeys(row.compression for row in rows)):
        own, colour = [row for row in rows if row.compression == name], colours(number)
        x, y = [row.bytes for row in own], [row.error for row in own]
        axes.plot(x, y, color=colour, lw=0.8, alpha=0.6)
        axes.plot([], [], color=colour, lw=3, label=name)
        for row in own:
            axes.plot(row.bytes, row.error, MARKERS[row.method], color=colour, ms=7)

    # the methods and the reference
    for method in dict.fromkeys(row.method for row in rows):
        axes.plot([], [], MARKERS[method], color="black", label=method)
    axes.plot(dense, reference_error, "*", color="black", ms=12, label="reference")
    axes.axhline(reference_error, color="black", lw=0.5, ls=":")

    axes.set(title=title)
    _scales(axes)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _scales(axes: Axes) -> None:
    """Both axes logarithmic, with ticks at 1, 2 and 5."""
    axes.set(xscale="log", yscale="log", xlabel="bytes of the file", ylabel="test error (%)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} kB")

"""Nets in several runtimes, products with packed weights, and loading: tables of docs/export.md,
docs/layers.md and docs/file.md."""

from typing import Any

from benchmarks import records
from benchmarks.report.cells import TITLES

Row = dict[str, Any]
NAMES = {**TITLES, "smollm2": "SmolLM2-135M"}


def runtimes() -> list[Row]:
    """A line for each net and variant, of its newest record."""
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


def xnnpack() -> list[Row]:
    """A line for each net in ExecuTorch."""
    return [
        {
            "net": row["net"],
            "file, bytes": f"{row['bytes']:,}",
            "error against Delta(Theta)": f"{row['error']:.1g}",
            "error against rounded inputs": f"{row['error with rounded inputs']:.1g}",
        }
        for row in records.read("serving", "xnnpack")[-1]["rows"]
    ]


def loading() -> list[Row]:
    """A line for each net and way: seconds into a net that is there, how many times those of
    torch.load, and the peak into a net on the meta device."""
    rows = {(row["net"], row["way"], row["meta"], row["threads"]): row for row in loads()}
    found: list[Row] = []
    for net, way in dict.fromkeys((net, way) for net, way, _, _ in rows):
        one = rows[net, way, False, 1]
        line = {
            "net": NAMES[net],
            "way": way,
            "file, MB": f"{one['bytes'] / 1e6:.1f}",
            "peak, MB": f"{one['peak_bytes'] / 1e6:.1f}",
        }
        for count in dict.fromkeys(threads for *_, threads in rows):
            for key, unit in (("cpu_seconds", "processor"), ("seconds", "clock")):
                own, dense = (rows[net, w, False, count][key] for w in (way, "torch.load"))
                name = f"{unit} s, {count} thread{'s' * (count > 1)}"
                line[name] = f"{own:.3f} ({own / dense:.2f})"
        found.append(line)
    return found


def loads() -> list[Row]:
    """All rows of loading, of the newest record of each net."""
    newest = {run["net"]: run for run in records.read("serving", "loading")}
    return [row for net in NAMES if net in newest for row in newest[net]["rows"]]


def _by_way() -> dict[tuple[str, str], dict[int, Row]]:
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in products():
        found.setdefault((row["form"], row["way"]), {})[row["batch"]] = row
    return found


def _vectors(count: int) -> str:
    return f"{count} vector{'s' if count > 1 else ''}"


def every() -> list[Row]:
    """All rows, the newest of each net and variant."""
    newest: dict[str, dict[str, Row]] = {}
    for run in records.read("serving", "runtimes"):
        for row in run["rows"]:
            own = newest.setdefault(row["net"], {})
            own.pop(row["variant"], None)  # the newest last
            own[row["variant"]] = row
    return [row for net in NAMES if net in newest for row in newest[net].values()]


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"

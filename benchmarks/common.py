"""Timing in one process, and the record of a benchmark."""

import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import leco
from leco.atomic import atomically

RESULTS = Path(__file__).parent / "results"
# whose nets and data the benchmarks use too
sys.path.append(str(Path(__file__).parent.parent / "examples"))


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], Any], yardstick: Callable[[], Any], repeats: int
) -> tuple[float, float, float]:
    """Medians of ours and of the yardstick, and of their ratio pair by pair (A B A B ...), after a
    warm-up of each."""
    ours()
    yardstick()
    pairs = [(seconds(ours), seconds(yardstick)) for _ in range(repeats)]
    return tuple(
        statistics.median(values)
        for values in (*zip(*pairs, strict=True), [a / b for a, b in pairs])
    )  # pyright: ignore[reportReturnType]


def in_turn(
    ways: Mapping[str, Callable[[], Any]], repeats: int, sample: float = 2e-3
) -> dict[str, list[float]]:
    """Seconds of each, A B C A B C ...; as many calls of each at a time as take about `sample`
    seconds."""
    calls = {
        name: max(1, round(sample / min(seconds(way) for _ in range(3))))
        for name, way in ways.items()
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(
                seconds(lambda way=way, name=name: [way() for _ in range(calls[name])])
                / calls[name]
            )
    return found


def peak_bytes(function: Callable[[], Any]) -> int:
    """How far the process's resident memory rises above its start while the function runs
    (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(key + ":")
    )
    return int(line.split()[1]) * 1024


def show(title: str, rows: list[dict[str, Any]], width: int) -> None:
    """Print the rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    Console(width=width).print(table)


def load(pattern: str) -> list[dict[str, Any]]:
    """The records whose file names match."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def how(run: dict[str, Any]) -> str:
    """How a record was made, for a page."""
    return f"`{run['command']}`, {where(run)}"


def where(run: dict[str, Any]) -> str:
    """The version of torch, and the GPU or the processor, of a record."""
    of = run["machine"]
    threads = f"{of['processor']}, {of['threads']} thread{'s' * (of['threads'] > 1)}"
    return f"torch {run['versions']['torch']}, {of.get('gpu') or threads}"


def machine() -> dict[str, Any]:
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    found = {
        "processor": names[0] if names else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    return {**found, "gpu": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else found


def origin() -> dict[str, Any]:
    """The command, without folders of this machine, versions and machine."""
    return {
        "command": shlex.join(
            ["python", *(Path(a).name if a.startswith(("/", "..")) else a for a in sys.argv)]
        ),
        "versions": {
            "leco": leco.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": machine(),
    }


def write(path: Path, content: Any) -> None:
    """The content as JSON, all of it or none."""
    text = json.dumps(content, indent=1) + "\n"

    def to(temporary: str) -> None:
        Path(temporary).write_text(text)

    atomically(path, to)


def record(name: str, rows: list[dict[str, Any]], **extra: Any) -> None:
    """Write the rows with their origin to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / f"{name}.json", {**origin(), **extra, "rows": rows})


def record_part(name: str, part: str, rows: list[dict[str, Any]], **extra: Any) -> None:
    """Write the rows with their origin as one part of results/NAME.json; its other parts stay."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    parts = json.loads(path.read_text()) if path.exists() else {}
    write(path, {**parts, part: {**origin(), **extra, "rows": rows}})

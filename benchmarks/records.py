"""Records of runs: one line of JSON a run, in results/NAME.jsonl, with its command, the versions
and the machine."""

import json
import math
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import leco

RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]


def append(name: str, benchmark: str, **found: Any) -> None:
    """Add a line to results/NAME.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    line = written({"benchmark": benchmark, **origin(), **found})
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def written(record: Record) -> str:
    """The record as a line of JSON, without spaces."""
    return json.dumps(short(record), allow_nan=False, separators=(",", ":"))


def short(value: Any) -> Any:
    """The value with floats of seven digits, and None for infinities and NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [short(part) for part in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def read(name: str, benchmark: str) -> list[Record]:
    """The lines of one benchmark, from the oldest to the newest."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [r for r in map(json.loads, lines) if r["benchmark"] == benchmark]


def origin() -> Record:
    """The command (without folders of this machine), the versions and the machine."""
    spec = sys.modules["__main__"].__spec__
    module = ["-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    rest = [Path(a).name if a.startswith(("/", "..")) else a for a in sys.argv[1:]]
    versions = {"leco": leco.__version__, "torch": torch.__version__}
    return {
        "command": shlex.join(["python", *module, *rest]),
        "versions": {**versions, "python": platform.python_version()},
        "machine": machine(),
    }


def machine() -> Record:
    """The processor, torch's threads, and the GPU where the process has used one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    found: Record = {"processor": processor, "threads": torch.get_num_threads()}
    return {**found, "gpu": torch.cuda.get_device_name()} if torch.cuda.is_initialized() else found


def where(run: Record) -> str:
    """The version of torch, and the GPU or the processor, of a record."""
    of = run["machine"]
    threads = f"{of['processor']}, {of['threads']} thread{'s' * (of['threads'] > 1)}"
    return f"torch {run['versions']['torch']}, {of.get('gpu') or threads}"


def flat(row: Record, before: str = "") -> Record:
    """The row with the numbers of nested records as its own."""
    found: Record = {}
    for key, value in row.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{before}{key} ") if inner else {before + key: value}
    return found


def show(title: str, rows: list[Record], width: int = 160) -> None:
    """Print the rows as a table."""
    plain = [flat(row) for row in rows]
    table = Table(*plain[0], title=title)
    for row in plain:
        table.add_row(*map(text, row.values()))
    Console(width=width).print(table)


def text(value: Any) -> str:
    """A number with four digits, an integer with commas."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

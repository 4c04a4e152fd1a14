"""Time and memory of functions in one process, side by side."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], Any], yardstick: Callable[[], Any], repeats: int
) -> tuple[float, float, float]:
    """The median of ours, of the yardstick, and of their ratio pair by pair.

    The order is A B A B ..., after one call of each.
    """
    ours()
    yardstick()
    pairs = [(seconds(ours), seconds(yardstick)) for _ in range(repeats)]
    first, second = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    return statistics.median(first), statistics.median(second), statistics.median(ratios)


def in_turn(
    ways: Mapping[str, Callable[[], Any]], repeats: int, sample: float = 2e-3
) -> dict[str, list[float]]:
    """Seconds of each way, in the order A B C A B C ...

    A sample makes as many calls as take about `sample` seconds.
    """
    calls = {
        name: max(1, round(sample / min(seconds(way) for _ in range(3))))
        for name, way in ways.items()
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            whole = seconds(lambda way=way, name=name: [way() for _ in range(calls[name])])
            found[name].append(whole / calls[name])
    return found


def peak_bytes(function: Callable[[], Any]) -> int:
    """How far the resident memory of the process rises while the function runs (Linux).

    What earlier work has freed goes back to the system first, so that it does not hide the rise.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024

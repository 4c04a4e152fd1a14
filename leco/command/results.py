"""The layers and the parts of a compressed file, and its speed, for the report."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leco.algorithm.lc import LC
from leco.command.plan import Plan
from leco.layers.packed import pack
from leco.layerwise.record import Calibration
from leco.layerwise.stream import call
from leco.measure.breakdown import breakdown

REPEATS, TIMED = 5, 10.0  # calls, and seconds after which there are no more
PARTS = {
    "indices": "codes",
    "symbols": "codes",
    "mask": "positions",
    "pattern": "positions",
    "scale": "scales",
    "zero_point": "scales",
    "codebook": "scales",
}
"""The purpose of a field of a Theta; other fields are values."""


def layers_of(
    file: Path,
    plan: Plan,
    words: Mapping[str, str],
    dense: Mapping[str, int],
    calibration: Calibration | None,
) -> list[dict[str, Any]]:
    """Return a row for each parameter: its compression, its bytes, and its error if it is known."""
    found = breakdown(file)
    owner = {name: task for task, row in found.tasks.items() for name in row.params}
    errors = {r.task: r for r in calibration.records} if calibration else {}
    left = calibration.left if calibration else {}
    rest = {row.field: row.bytes for row in found.tensors if row.kind == "rest"}
    rows = list[dict[str, Any]]()
    for row in plan.rows:
        own: dict[str, Any] = {
            "name": row.name,
            "shape": list(row.shape),
            "word": words.get(row.name, ""),
            "before": dense[row.name],
            "why": row.why,
        }
        task = owner.get(row.name)
        if task is None:
            rows.append({**own, "after": rest.get(row.name, 0)})
            continue
        described, record = found.tasks[task], errors.get(task)
        count = max(described.weights, 1)
        share = _count(row.shape) / count
        rows.append(
            {
                **own,
                "how": f"{described.compression} of {described.view}",
                "after": round(described.bytes * share),
                "bits": 8 * described.bytes / count,
                "direct": record.direct if record else None,
                "error": record.error if record else None,
                "why": left.get(task, ""),
            }
        )
    return rows


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def parts_of(file: Path) -> list[dict[str, Any]]:
    """Return the bytes of a file by purpose, the largest first."""
    sizes = dict[str, int]()
    for row in breakdown(file).tensors:
        if row.kind == "overhead":
            part = "description and checksums"
        elif row.kind == "rest":
            part = "not compressed"
        else:
            part = PARTS.get(row.field.rpartition(".")[2], "values")
        sizes[part] = sizes.get(part, 0) + row.bytes
    order = sorted(sizes.items(), key=lambda item: -item[1])
    return [{"part": part, "bytes": size} for part, size in order]


@torch.inference_mode()
def latency_of(model: nn.Module, lc: LC, batch: Any) -> dict[str, float]:
    """Return the seconds of a batch with dense weights, as before compression, and with packed
    weights: the medians of up to 5 calls in turns, within about 10 seconds."""
    nets = {"dense": model.eval(), "packed": pack(model, lc).eval()}
    times: dict[str, list[float]] = {name: [] for name in nets}
    began = time.perf_counter()
    for _ in range(REPEATS):
        for name, net in nets.items():
            start = time.perf_counter()
            call(net, batch)
            times[name].append(time.perf_counter() - start)
        if time.perf_counter() - began > TIMED:
            break
    return {name: statistics.median(found) for name, found in times.items()}

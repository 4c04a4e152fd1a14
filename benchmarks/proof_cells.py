"""The cells in results/proof/: read, chosen from, averaged; where and how they were run."""

import functools
import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import common
import nets
from artifact_tables import folded

FOLDER = common.RESULTS / "proof"
Cells = list[dict[str, Any]]
COLUMNS = ("ablation", "cost")  # groups whose tables have a column for the note


@functools.cache
def _records() -> Cells:
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def cells(net: str, group: str = "") -> Cells:
    return [
        {**cell, "method": _method(cell), "row": _timed(cell)}
        for cell in _records()
        if cell["net"] == net and cell["group"] == group
    ]


def tabled(net: str, group: str = "") -> Cells:
    """The cells of a net's tables: LeNets train with soft targets, ResNets without."""
    return [
        cell
        for cell in cells(net, group)
        if net in nets.LENETS or cell["method"] == "DC" or not cell["settings"]["soft"]
    ]


def _timed(cell: dict[str, Any]) -> dict[str, Any]:
    """The row; a cell that was cut off and went on has the seconds of all its parts, from its
    curve."""
    parts = (r.get(key) for r in cell["curve"] for key in ("seconds", "l_seconds", "c_seconds"))
    whole = sum(s for s in parts if isinstance(s, float) and s == s)
    return {**cell["row"], "seconds": max(cell["row"]["seconds"], whole)}


def _method(cell: dict[str, Any]) -> str:
    """The method's name, with what is special about its settings."""
    if cell["method"] == "LC" and not cell["settings"]["multipliers"]:
        return "quadratic penalty"
    return (
        f"{cell['method']} ({cell['note']})"
        if cell["note"] and cell["group"] not in COLUMNS
        else cell["method"]
    )


def chosen(found: Cells) -> Cells:
    """LC with the settings that did best on validation data, of those that have the most seeds."""
    variants = [
        of(found, method=m) for m in names(found, "method") if m == "LC" or m.startswith("LC (")
    ]
    return min(
        variants,
        key=lambda runs: (-len(runs), mean(runs, lambda cell: cell["row"]["validation_error"])),
        default=[],
    )


def of(found: Cells, **wanted: Any) -> Cells:
    return [cell for cell in found if all(cell[key] == value for key, value in wanted.items())]


def names(found: Cells, key: str, first: Iterable[str] = ()) -> list[str]:
    """In the order of `first`, then as they come."""
    every = list(dict.fromkeys(cell[key] for cell in found))
    return [
        *(name for name in first if name in every),
        *(name for name in every if name not in first),
    ]


def mean(found: Cells, read: Callable[[dict[str, Any]], float]) -> float:
    return statistics.mean(read(cell) for cell in found)


def error(cell: dict[str, Any]) -> float:
    return cell["row"]["test_error"]


def above(cell: dict[str, Any]) -> float:
    """Points of test error above the reference's."""
    return cell["row"]["test_error"] - cell["reference"]["test_error"]


def seeds(found: Cells) -> str:
    return f" ({len(found)})" if len(found) > 1 else ""


def points(found: Cells, read: Callable[[dict[str, Any]], float] = above) -> str:
    return f"{mean(found, read):+.2f}{seeds(found)}"


def held_out(cell: dict[str, Any]) -> float:
    """Points of validation error above the reference's."""
    return cell["row"]["validation_error"] - cell["reference"]["validation_error"]


def size(found: Cells) -> str:
    return f"{mean(found, lambda cell: cell['row']['bytes']):,.0f}"


def commands(found: Cells) -> str:
    return folded(
        "The commands",
        "\n".join(f"    {line}" for line in dict.fromkeys(cell["command"] for cell in found)),
    )


def origin(found: Cells) -> str:
    """The machines."""
    groups: dict[str, Cells] = {}
    for cell in found:
        groups.setdefault(common.where(cell), []).append(cell)
    texts = []
    for where, own in groups.items():
        minutes = sum(cell["row"]["seconds"] for cell in own) / 60
        how = (
            "several processes shared the GPU, seconds are no timings"
            if "gpu" in own[0]["machine"]
            else f"{minutes:.0f} minutes"
        )
        texts.append(f"{where}: {len(own)} cell{'s' * (len(own) > 1)}, {how}.")
    return " ".join(texts)

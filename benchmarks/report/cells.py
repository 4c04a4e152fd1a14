"""The recorded cells of benchmarks.proof: read, chosen from, averaged."""

import functools
import statistics
from typing import Any

from benchmarks import nets, records

Cell = dict[str, Any]
# points of test error above the reference net's, weights only, after 200 epochs from scratch
# (arXiv 2503.15748, table of ResNets)
PUBLISHED = {
    ("resnet20", "binary, channels", "straight-through"): 91.82 - 89.56,
    ("resnet20", "binary, channels", "BinaryRelax"): 91.82 - 89.98,
    ("resnet20", "binary, channels", "PARQ"): 91.82 - 90.48,
    ("resnet20", "ternary, channels", "straight-through"): 91.82 - 90.94,
    ("resnet20", "ternary, channels", "BinaryRelax"): 91.82 - 91.25,
    ("resnet20", "ternary, channels", "PARQ"): 91.82 - 91.45,
}
FROM_DELTA = "LC (L steps from Delta)"
PIECES = ("DC", "DC + retraining", "iterated DC", "quadratic penalty")
NOTED = (
    "ablation",
    "cost",
    "metric",
)  # groups in which a note does not belong to the method's name
TITLES = {
    "lenet300": "LeNet300",
    "lenet300-relu": "LeNet300 (ReLU)",
    "lenet5": "LeNet5",
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (20, 32, 56, 110)},
    "vgg16": "VGG16",
    "minilm": "all-MiniLM-L6-v2",
}


@functools.cache
def every() -> list[Cell]:
    """All cells; of those that were run again, the newest."""
    keys = ("net", "group", "compression", "method", "note", "seed")
    found = {tuple(cell[key] for key in keys): cell for cell in records.read("proof", "proof")}
    return [{**cell, "method": _method(cell)} for cell in found.values()]


def _method(cell: Cell) -> str:
    """The method's name, with what is special about its settings."""
    if cell["method"] == "LC" and not cell["settings"]["multipliers"]:
        return "quadratic penalty"
    noted = cell["note"] and cell["group"] not in NOTED
    return f"{cell['method']} ({cell['note']})" if noted else cell["method"]


def of(found: list[Cell] | None = None, **wanted: Any) -> list[Cell]:
    """The cells with these values."""
    cells = every() if found is None else found
    return [cell for cell in cells if all(cell[key] == value for key, value in wanted.items())]


def tabled(**wanted: Any) -> list[Cell]:
    """Likewise, LeNets with soft targets and the others without."""
    return [
        cell
        for cell in of(**wanted)
        if cell["net"] in nets.LENETS or cell["method"] == "DC" or not cell["settings"]["soft"]
    ]


def names(found: list[Cell], key: str) -> list[str]:
    return list(dict.fromkeys(cell[key] for cell in found))


def chosen(found: list[Cell]) -> list[Cell]:
    """LC with the settings that did best on validation data, of those that have the most seeds."""
    methods = [m for m in names(found, "method") if m == "LC" or m.startswith("LC (")]
    variants = [of(found, method=method) for method in methods]
    return min(variants, key=lambda runs: (-len(runs), mean(runs, "validation_error")), default=[])


def others(found: list[Cell]) -> list[Cell]:
    """The best method that is neither LC nor a piece of it."""
    methods = [m for m in names(found, "method") if m not in PIECES and m.split(" (")[0] != "LC"]
    variants = [of(found, method=method) for method in methods]
    return min(variants, key=lambda runs: mean(runs, "test_error"), default=[])


def mean(found: list[Cell], key: str, less: str = "") -> float:
    """Of a number of the rows, less a number of the reference nets."""

    def read(cell: Cell) -> float:
        return cell["row"][key] - (cell["reference"][less] if less else 0.0)

    return statistics.mean(map(read, found))


def above(found: list[Cell], key: str = "test_error") -> float:
    """Points above the reference's."""
    return mean(found, key, less=key)


def seeds(found: list[Cell]) -> str:
    return f" ({len(found)})" if len(found) > 1 else ""


def error(found: list[Cell]) -> str:
    """The mean test error, and the number of seeds in brackets where there are several."""
    return f"{mean(found, 'test_error'):.2f}{seeds(found)}" if found else ""


def summaries() -> list[dict[str, Any]]:
    """A row for each net, compression and method: means over the seeds."""
    keys = ("net", "group", "compression", "method", "note")
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in every():
        noted = cell["note"] if cell["group"] in NOTED else ""
        key = (*(cell[key] for key in keys[:-1]), noted)
        groups.setdefault(key, []).append(cell)
    return [dict(zip(keys, key, strict=True)) | summary(runs) for key, runs in groups.items()]


def summary(runs: list[Cell]) -> dict[str, Any]:
    """Numbers of the same cell with several seeds; seconds, choices and clean are the first's."""
    first, reference = runs[0], {"reference": statistics.mean(_reference(cell) for cell in runs)}
    kinds = ("validation_error", "train_loss", "bytes", "ratio")
    found = {"seeds": len(runs), "epochs": first["settings"]["epochs"]} | reference
    found |= {"test_error": mean(runs, "test_error"), "above_reference": above(runs)}
    found |= {kind: mean(runs, kind) for kind in kinds}
    found["validation_error_above_reference"] = above(runs, "validation_error")
    found["seconds"] = first["row"]["seconds"]
    if "changed" in first["trace"]:
        found["choices_that_left_dc"] = first["trace"]["changed"]["last"]
    before = [c["trace"]["before_retraining"] for c in runs if "before_retraining" in c["trace"]]
    if before:
        found["validation_error_before_retraining"] = statistics.mean(before)
    for kind in ("validation_error", "test_error"):
        if "clean_statistics" in first:
            found[f"clean_statistics_{kind}"] = first["clean_statistics"][kind]
    published = PUBLISHED.get((first["net"], first["compression"], first["method"]))
    return found | ({} if published is None else {"published_above_reference": published})


def _reference(cell: Cell) -> float:
    return cell["reference"]["test_error"]

"""Compression without training in many formats: the tables of MiniLM and of ResNet-20."""

from collections.abc import Iterable

from benchmarks import records
from benchmarks.layerwise import resnet as resnet20
from benchmarks.layerwise.rows import ROWS
from benchmarks.report import cells as proof
from benchmarks.report.layerwise import STYLES, Row, seconds

BATCHES = {"minilm": 32, "resnet20": 16}  # of the tables of formats
SIZES = ("bytes", "coded_bytes")
TRAINED = {"ternary": "ternary, channels", "binary": "binary, channels"}


def cells(kind: str, formats: Iterable[str]) -> list[Row]:
    """The newest record of each cell, in the order of the formats, then of the methods."""
    newest = {
        (run["row"], cell["method"], run["batches"]): cell
        for run in records.read("layerwise", kind)
        for cell in run["cells"]
    }
    rows, methods = [*formats], [*STYLES]
    order = sorted(newest, key=lambda key: (rows.index(key[0]), methods.index(key[1]), key[2]))
    return [newest[key] | {"row": key[0], "batches": key[2]} for key in order]


def minilm() -> list[Row]:
    """A line for each cell with the usual number of batches."""
    return [
        {
            **_format(cell, 1e6, "MB"),
            "mean cosine": f"{cell['cosine']:.3f}",
            "least cosine": f"{cell['least_cosine']:.3f}",
            "same nearest sentence, %": f"{cell['same_nearest']:.1f}",
            **_cost(cell),
        }
        for cell in cells("minilm", ROWS)
        if cell["batches"] == BATCHES["minilm"]
    ]


def minilm_samples() -> list[Row]:
    """A line for each format and method with several numbers of batches: the mean cosines."""
    found: dict[tuple[str, str], Row] = {}
    for cell in sorted(cells("minilm", ROWS), key=lambda cell: cell["batches"]):
        key = cell["row"], cell["method"]
        line = found.setdefault(key, {"format": cell["row"], "method": cell["method"]})
        line[f"{cell['batches']} batches"] = f"{cell['cosine']:.3f}"
    most = max(map(len, found.values()))
    return [line for line in found.values() if len(line) == most > 3]


def resnet() -> list[Row]:
    """A line for each cell, and LC in training where the proof has it."""
    found, own = [], cells("resnet20", resnet20.ROWS)
    for row in dict.fromkeys(cell["row"] for cell in own):
        found += [
            _format(c, 1e3, "kB") | {"test error, %": f"{c['test_error']:.2f}"} | _cost(c)
            for c in own
            if c["row"] == row
        ]
        if row in TRAINED:
            runs = proof.of(net="resnet20", group="", compression=TRAINED[row], seed=0)
            trained = proof.error(proof.chosen(runs))
            names = {"format": row, "method": "LC in training, 20 epochs"}
            found.append(dict.fromkeys(found[-1], "") | names | {"test error, %": trained})
    return found


def _format(cell: Row, unit: float, name: str) -> Row:
    sizes = {key: f"{cell[key] / unit:.2f}" if key in cell else "" for key in SIZES}
    return {
        "format": cell["row"],
        name: sizes["bytes"],
        f"{name} in a file": sizes["coded_bytes"],
        "method": cell["method"],
    }


def _cost(cell: Row) -> Row:
    return {
        "layer error, %": f"{100 * cell['error']:.2f}" if "error" in cell else "",
        "solves, s": seconds(cell, "solve_cpu_seconds"),
        "whole, s": seconds(cell, "cpu_seconds"),
        "memory, MB": f"{cell['memory_bytes'] / 1e6:,.0f}",
    }

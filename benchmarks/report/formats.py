"""Compression without training in many formats: the tables of SmolLM2, MiniLM and ResNet-20."""

from benchmarks.report import cells as proof
from benchmarks.report.layerwise import NETS, Row, cells, usual

SIZES = ("bytes", "coded_bytes")
TRAINED = {"ternary": "ternary, channels", "binary": "binary, channels"}


def every() -> list[Row]:
    """All cells of the three nets."""
    return [{"net": net} | cell for net in NETS for cell in cells(net)]


def smollm2() -> list[Row]:
    """A line for each cell with the usual number of batches."""
    return [
        {
            **_format(cell, 1e6, "MB"),
            "perplexity, 16 sequences": _short(cell["perplexity_16"]),
            "perplexity, 32 sequences": _short(cell["perplexity"]),
            **_cost(cell),
        }
        for cell in usual("smollm2")
    ]


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
        for cell in usual("minilm")
    ]


def minilm_samples() -> list[Row]:
    """The mean cosines with several numbers of batches."""
    return _samples("minilm", "cosine", 3)


def smollm2_samples() -> list[Row]:
    """The perplexities on 16 test sequences with several numbers of batches."""
    return _samples("smollm2", "perplexity_16", 1)


def _samples(kind: str, measure: str, digits: int) -> list[Row]:
    """A line for each format and method with several numbers of batches."""
    found: dict[tuple[str, str], Row] = {}
    for cell in sorted(cells(kind), key=lambda cell: cell["batches"]):
        key = cell["row"], cell["method"]
        line = found.setdefault(key, {"format": cell["row"], "method": cell["method"]})
        line[f"{cell['batches']} batches"] = f"{cell[measure]:.{digits}f}"
    most = max(map(len, found.values()), default=0)
    return [line for line in found.values() if len(line) == most > 3]


def resnet() -> list[Row]:
    """A line for each cell, and LC in training where the proof has it."""
    found, own = [], usual("resnet20")
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
        "solves, s": _seconds(cell, "solve_cpu_seconds"),
        "whole, s": _seconds(cell, "cpu_seconds"),
        "memory, MB": f"{cell['memory_bytes'] / 1e6:,.0f}",
    }


def _short(perplexity: float) -> str:
    return f"{perplexity:,.0f}" if perplexity >= 1000 else f"{perplexity:.1f}"


def _seconds(cell: Row, key: str) -> str:
    """Whole seconds; empty for a calibration that was cut off and went on."""
    return f"{cell[key]:,.0f}" if key in cell else ""

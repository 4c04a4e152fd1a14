"""Compression without training: the cells of nets, the table of single layers, and the figure of
perplexity against bytes."""

from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks import records
from benchmarks.layerwise import resnet
from benchmarks.layerwise.layers import STEPS
from benchmarks.layerwise.rows import ROWS
from benchmarks.report.figure import label, plt

Row = dict[str, Any]
STYLES = {  # marker and colour: red for LC, grey for direct compression, the rest for others
    "dense": ("*", "black"),
    "DC": ("x", "0.6"),
    "DC in the metric": ("s", "0.6"),
    "RTN": ("v", "tab:green"),
    "HQQ": ("^", "tab:green"),
    "AWQ": ("1", "tab:green"),
    "GPTQ": ("P", "tab:green"),
    "GPTQ, static groups": ("X", "tab:green"),
    "magnitude": ("<", "tab:olive"),
    "Wanda": (">", "tab:olive"),
    "SparseGPT": ("p", "tab:olive"),
    "ALPS": ("h", "tab:olive"),
    "SVD, whitened": ("d", "tab:purple"),
    "LC": ("o", "tab:red"),
    "LC, polished": ("D", "tab:red"),
    "LC, distilled": ("*", "tab:red"),
}
NETS = {"smollm2": ROWS, "minilm": ROWS, "resnet20": resnet.ROWS}
BATCHES = {"smollm2": 32, "minilm": 32, "resnet20": 16}  # of the tables of formats
TICKS = (35, 40, 50, 60, 80, 100, 150, 200, 300)
MOST = 300.0  # perplexities above stand at the upper edge


def cells(kind: str) -> list[Row]:
    """The newest record of each cell of a net, in the order of the formats, then of the methods."""
    newest = {
        (run["row"], run["method"], run["batches"]): run for run in records.read("layerwise", kind)
    }
    rows, methods = [*NETS[kind]], [*STYLES]
    order = sorted(newest, key=lambda key: (rows.index(key[0]), methods.index(key[1]), key[2]))
    return [newest[key] for key in order]


def usual(kind: str) -> list[Row]:
    """The cells of a net with the usual number of batches."""
    return [cell for cell in cells(kind) if cell["batches"] == BATCHES[kind]]


def every_layer() -> list[Row]:
    """The errors of single layers, a row for each method of each format."""
    runs = records.read("layerwise", "layers")
    return [{"row": run["row"], **row} for run in runs for row in run["rows"]]


def newest_layers() -> dict[str, dict[str, Row]]:
    """The newest record of single layers of each format, by methods."""
    runs = {run["row"]: run["rows"] for run in records.read("layerwise", "layers")}
    return {row: {own["method"]: own for own in runs[row]} for row in ROWS if row in runs}


def steps() -> list[Row]:
    """The errors and times of LC on single layers with fewer steps."""
    return [
        {
            "format": row,
            "steps": f"{count}",
            "layer error / that of 40 steps": f"{_level(own[name]) / _level(own['LC']):.3f}",
            "time / GPTQ or SparseGPT": _times(own[name], own),
        }
        for row, own in newest_layers().items()
        if own.keys() >= STEPS.keys() and _times(own["LC"], own)
        for name, count in STEPS.items()
    ]


def layers() -> list[Row]:
    """LC beside the best method of others on single layers, by the newest record of each row."""
    found = []
    for row, methods in newest_layers().items():
        lc, direct = methods["LC"], methods["DC in the metric"]
        own = {"DC", "DC in the metric", *STEPS}
        others = [each for name, each in methods.items() if name not in own]
        best = min(others, key=_level, default=None)
        line = {
            "format": row,
            "direct, in the metric": _percent(direct),
            "best method of others": best["method"] if best else "",
            "its error": _percent(best) if best else "",
            "LC": _percent(lc),
            "LC / best of others": f"{_level(lc) / _level(best):.2f}" if best else "",
            "LC / direct": f"{_level(lc) / _level(direct):.2f}",
            "time, LC / GPTQ or SparseGPT": _times(lc, methods),
        }
        found.append(line)
    return found


def _level(of: Row) -> float:
    return geometric_mean(of["errors"].values())


def _percent(of: Row) -> str:
    """The errors of the layers in %, three digits."""
    return " ".join(f"{100 * error:.3g}" for error in of["errors"].values())


def _times(lc: Row, methods: dict[str, Row]) -> str:
    """The time of LC in that of the greedy method for the format, where there is one."""
    for name in ("GPTQ", "SparseGPT"):
        if name in methods:
            return f"{lc['cpu_seconds'] / methods[name]['cpu_seconds']:.1f}"
    return ""


def draw(path: Path) -> None:
    """Perplexity of SmolLM2 on 16 test sequences against the bytes of the matrices, those in a file
    where nothing else is known, a marker a cell."""
    every = usual("smollm2")
    found = [run for run in every if run["method"] != "dense"]
    fig, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")

    # a marker for each cell
    drawn, best = [], {}
    for run in found:
        marker, colour = STYLES[run["method"]]
        filled = colour if run["method"].startswith("LC") else "none"
        size = run["bytes" if "bytes" in run else "coded_bytes"]
        point = size / 1e6, min(run["perplexity_16"], MOST)
        axes.plot(*point, marker=marker, color=colour, mfc=filled, ms=6, ls="")
        drawn.append(point)
        if run["row"] not in best or point[1] < best[run["row"]][1]:
            best[run["row"]] = point
    for method in [method for method in STYLES if any(run["method"] == method for run in found)]:
        marker, colour = STYLES[method]
        filled = colour if method.startswith("LC") else "none"
        axes.plot([], [], marker=marker, color=colour, mfc=filled, ls="", label=method)

    # the dense net, the axes and the names
    for run in every:
        if run["method"] == "dense":
            axes.axhline(run["perplexity_16"], color="black", lw=0.6, ls=":", label="dense")
    axes.set(yscale="log", xlabel="MB of the compressed matrices")
    axes.set_ylabel("perplexity, 16 test sequences")
    low, high = axes.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick}" + " or more" * (tick == MOST) for tick in ticks])
    axes.minorticks_off()
    axes.set_title("SmolLM2-135M without training")
    axes.legend(fontsize=7)
    fig.draw_without_rendering()  # the layout, which the names are placed in
    label(axes, best, drawn)
    fig.savefig(path, dpi=130)
    plt.close(fig)

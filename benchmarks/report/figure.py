"""The figure of test error against bytes: a marker for each method, a name for each compression."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from benchmarks.report.cells import FROM_DELTA, TITLES, chosen, mean, names, of, tabled

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLES = {  # marker and colour: grey for the pieces of LC, green and brown for methods of others
    "DC": ("x", "0.6"),
    "DC + retraining": ("s", "0.45"),
    "iterated DC": ("v", "0.6"),
    "quadratic penalty": ("^", "0.6"),
    "LC": ("o", "tab:blue"),
    FROM_DELTA: ("D", "tab:red"),
    "straight-through": ("P", "tab:green"),
    "BinaryRelax": ("X", "tab:green"),
    "PARQ": ("*", "tab:green"),
    "gradual magnitude": ("<", "tab:olive"),
    "magnitude, rewound": (">", "tab:olive"),
    "SVD, uniform ranks": ("d", "tab:purple"),
    "SVD, greedy ranks": ("p", "tab:purple"),
    "Deep Compression": ("h", "tab:brown"),
}
TICKS = (1, 1.5, 2, 3, 5, 10, 15, 20, 30, 50, 90)
SIZES = [k * 10**e for e in (3, 4, 5, 6) for k in (1, 2, 5)]
DISTANCES = (11, 16, 24, 34, 46, 60, 80, 100, 130)  # of a name from its point, in pixels
Point = tuple[float, float]


def kind_of(method: str) -> str:
    """A method with no note on its settings but where the L steps start."""
    return FROM_DELTA if method.startswith(FROM_DELTA[:-1]) else method.split(" (")[0]


def style(kind: str) -> dict[str, Any]:
    """Of the marker, which is filled for LC."""
    marker, colour = STYLES[kind]
    filled = colour if kind.startswith("LC") else "none"
    return {"marker": marker, "color": colour, "ls": "", "mfc": filled}


def draw(net: str, most: float, path: Path) -> None:
    """Test error against bytes, of seed 0. Errors above `most` stand at the upper edge."""
    found = tabled(net=net, group="", seed=0)
    fig, axes = plt.subplots(figsize=(10, 6), layout="constrained")

    # a marker for each compression and method
    drawn, labels = [], {}
    for compression in names(found, "compression"):
        own = of(found, compression=compression)
        best = chosen(own)
        for method in names(own, "method"):
            runs, kind = of(own, method=method), kind_of(method)
            point = mean(runs, "bytes"), min(mean(runs, "test_error"), most)
            axes.plot(*point, ms=5, zorder=3 if kind.startswith("LC") else 2, **style(kind))
            drawn.append(point)
            if best and method == best[0]["method"]:
                labels[compression] = point
    kinds = {kind_of(method) for method in names(found, "method")}
    for kind in (kind for kind in STYLES if kind in kinds):
        axes.plot([], [], label=kind, **style(kind))

    # the reference, the axes and the names
    whole = found[0]["reference"]["bytes"], found[0]["reference"]["test_error"]
    axes.plot(*whole, "k*", ms=12)
    axes.axhline(whole[1], color="black", lw=0.5, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="bytes of the file", ylabel="test error (%)")
    axes.set_title(f"{TITLES[net]} on {found[0]['data']}, seed 0")
    _ticks(axes, most)
    axes.legend(fontsize=7, loc="upper right")
    fig.draw_without_rendering()  # the layout, which the names are placed in
    label(axes, {**labels, "reference": whole}, drawn)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _ticks(axes: Axes, most: float) -> None:
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" + " or more" * (tick == most) for tick in ticks])
    sizes = [size for size in SIZES if left <= size <= right]
    axes.set_xticks(sizes, [f"{size / 1000:g} kB" for size in sizes])
    axes.minorticks_off()


def label(axes: Axes, points: dict[str, Point], drawn: Iterable[Point]) -> None:
    """Each point's name beside it, where it covers no marker and no other name.

    A thin line leads to it.
    """
    places = axes.transData.transform([*points.values()])
    every = [*axes.transData.transform([*drawn]), *places]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in every]
    turns = [math.pi * turn / 8 for turn in range(16)]
    for (name, point), place in sorted(zip(points.items(), places, strict=True), key=_first):
        for far, turn in itertools.product(DISTANCES, turns):
            x, y = axes.transData.inverted().transform(
                (place[0] + far * math.cos(turn), place[1] + far * math.sin(turn))
            )
            side = (
                "center" if abs(math.cos(turn)) < 0.5 else "left" if math.cos(turn) > 0 else "right"
            )
            text = axes.text(x, y, name, fontsize=6.5, ha=side, va="center")
            box = text.get_window_extent()
            if axes.bbox.count_contains(box.corners()) == 4 and not box.count_overlaps(taken):
                taken.append(box)
                axes.plot((point[0], x), (point[1], y), color="0.4", lw=0.4, zorder=1)
                break
            text.remove()


def _first(item: tuple[tuple[str, Point], Any]) -> str:
    return item[0][0]

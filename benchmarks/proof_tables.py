"""Tables and figures of LC against other methods, from the cells in results/proof/."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from artifact_tables import TITLES, table
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from proof_aims import most
from proof_cells import Cells, above, chosen, error, mean, names, of, seeds

FROM_DELTA = "LC (L steps from Delta)"
METHODS = ("DC", "DC + retraining", "iterated DC", "quadratic penalty", "LC", FROM_DELTA)
STYLES = {  # marker and colour: grey for the pieces of LC, green for methods of others
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
# test error in % above the reference net's, weights only; 200 epochs from scratch (arXiv
# 2503.15748, table of ResNets)
PUBLISHED = {
    ("resnet20", "binary, channels", "straight-through"): 91.82 - 89.56,
    ("resnet20", "binary, channels", "BinaryRelax"): 91.82 - 89.98,
    ("resnet20", "binary, channels", "PARQ"): 91.82 - 90.48,
    ("resnet20", "ternary, channels", "straight-through"): 91.82 - 90.94,
    ("resnet20", "ternary, channels", "BinaryRelax"): 91.82 - 91.25,
    ("resnet20", "ternary, channels", "PARQ"): 91.82 - 91.45,
}


def rows_by_methods(found: Cells, order: Iterable[str]) -> str:
    """A line for each compression, the test errors of the methods side by side, the file of the
    last one."""
    methods = names(found, "method", METHODS)
    lines = []
    for compression in names(found, "compression", order):
        own = of(found, compression=compression)
        texts = []
        for method in methods:
            runs = of(own, method=method)
            texts.append(f"{mean(runs, error):.2f}{seeds(runs)}" if runs else "")
        last = (chosen(own) or own)[0]["row"]
        aim = most("lenet300").get(compression)
        lines.append(
            [
                compression,
                *texts,
                f"{last['bytes']:,}",
                f"{last['ratio']:.1f}",
                "" if aim is None else f"{aim:.2f}",
            ]
        )
    return table(["compression", *methods, "file bytes (LC)", "ratio", "published LC"], lines)


def details(found: Cells, order: Iterable[str]) -> str:
    """A line for each compression and method: means over seeds, and the seconds of the first
    (others may be of another machine)."""
    head = [
        "compression",
        "method",
        "test error %",
        "above the reference",
        "validation error %",
        "train loss",
        "file bytes",
        "ratio",
        "seconds",
    ]
    lines = []
    for compression in names(found, "compression", order):
        for method in names(of(found, compression=compression), "method", METHODS):
            runs = of(found, compression=compression, method=method)
            row = {
                key: mean(runs, lambda cell, key=key: cell["row"][key]) for key in runs[0]["row"]
            }
            numbers = [
                f"{row['validation_error']:.2f}",
                f"{row['train_loss']:.4f}",
                f"{row['bytes']:,.0f}",
                f"{row['ratio']:.1f}",
            ]
            numbers.append(f"{runs[0]['row']['seconds']:.0f}")
            lines.append(
                [
                    compression,
                    f"{method}{seeds(runs)}",
                    f"{row['test_error']:.2f}",
                    f"{mean(runs, above):+.2f}",
                    *numbers,
                ]
            )
    return table(head, lines)


def against_published(found: Cells, longer: Cells) -> str:
    """Points above the reference, here and in the papers; of LC with more epochs, too."""
    lines = []
    for compression in (
        "binary, channels",
        "binary, channels, inner",
        "binary + 1 %",
        "ternary, channels",
    ):
        own, more = of(found, compression=compression), of(longer, compression=compression)
        runs = {
            **{
                method: of(own, method=method)
                for method in ("straight-through", "BinaryRelax", "PARQ")
            },
            "LC": chosen(own),
        }
        for method, cells in (
            ("straight-through", of(more, method="straight-through")),
            ("LC", chosen(more)),
        ):
            runs |= {f"{method}, {cells[0]['group']}": cells} if cells else {}
        for method, cells in runs.items():
            there = PUBLISHED.get(("resnet20", compression, method))
            aim = most("resnet20", ours=True).get(compression) if method.startswith("LC") else None
            if cells or there is not None or aim is not None:
                here = f"{mean(cells, above):+.2f}{seeds(cells)}" if cells else "not run"
                published = "" if there is None else f"{there:+.2f}"
                lines.append(
                    [compression, method, here, published, "" if aim is None else f"at most {aim}"]
                )
    return table(["compression", "method", "points above the reference", "published", "aim"], lines)


def ablation(found: Cells) -> str:
    lines = []
    for note in names(found, "note"):
        for cell in of(found, note=note):
            row = cell["row"]
            changed = next(
                (r["changed"] for r in reversed(cell["curve"]) if r.get("changed") is not None),
                float("nan"),
            )
            numbers = [
                f"{row['validation_error']:.2f}",
                f"{row['train_loss']:.4f}",
                "" if changed != changed else f"{100 * changed:.1f}",
            ]
            lines.append(
                [cell["compression"], cell["method"], note, *numbers, f"{row['seconds']:.0f}"]
            )
    return table(
        [
            "compression",
            "method",
            "what is different",
            "validation error %",
            "train loss",
            "choices that left DC, %",
            "seconds",
        ],
        lines,
    )


def kind_of(method: str) -> str:
    """A method with no note on its settings but where the L steps start."""
    return FROM_DELTA if method.startswith(FROM_DELTA[:-1]) else method.split(" (")[0]


def style(kind: str) -> dict[str, Any]:
    """Of the marker, which is filled for LC."""
    marker, colour = STYLES[kind]
    return {
        "marker": marker,
        "color": colour,
        "ls": "",
        "mfc": colour if kind.startswith("LC") else "none",
    }


def figure(net: str, found: Cells, path: Path, most: float) -> None:
    """Test error against bytes: a marker for each method, the compression's name beside LC. Errors
    above `most` stand at the upper edge."""
    fig, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    drawn, labels = [], {}
    for compression in names(found, "compression"):
        own = of(found, compression=compression)
        best = chosen(own)
        for method in names(own, "method", METHODS):
            runs, kind = of(own, method=method), kind_of(method)
            point = mean(runs, lambda cell: cell["row"]["bytes"]), min(mean(runs, error), most)
            axes.plot(*point, ms=5, zorder=3 if kind.startswith("LC") else 2, **style(kind))
            drawn.append(point)
            if best and method == best[0]["method"]:
                labels[compression] = point
    for kind in dict.fromkeys(kind_of(method) for method in names(found, "method", METHODS)):
        axes.plot([], [], label=kind, **style(kind))
    reference = found[0]["reference"]
    whole = reference["bytes"], reference["test_error"]
    axes.plot(*whole, "k*", ms=12)
    axes.axhline(whole[1], color="black", lw=0.5, ls=":")
    title = f"{TITLES.get(net, net)} on {found[0]['data']}, seed {found[0]['seed']}"
    axes.set(
        xscale="log", yscale="log", xlabel="bytes of the file", ylabel="test error (%)", title=title
    )
    ticks = [
        tick
        for tick in (1, 1.5, 2, 3, 5, 10, 15, 20, 30, 50, 90)
        if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]
    ]
    axes.set_yticks(ticks, [f"{tick:g}" + " or more" * (tick == most) for tick in ticks])
    sizes = [
        k * 10**e
        for e in (3, 4, 5, 6)
        for k in (1, 2, 5)
        if axes.get_xlim()[0] <= k * 10**e <= axes.get_xlim()[1]
    ]
    axes.set_xticks(sizes, [f"{size / 1000:g} kB" for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=7, loc="upper right")
    fig.draw_without_rendering()  # the layout, which the names are placed in
    label(axes, {**labels, "reference": whole}, drawn)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def label(
    axes: Axes, points: dict[str, tuple[float, float]], drawn: Iterable[tuple[float, float]]
) -> None:
    """Each point's name beside it, where it covers no marker and no other name; a thin line leads
    to it."""
    places = axes.transData.transform([*points.values()])
    taken = [
        Bbox.from_extents(x - 6, y - 6, x + 6, y + 6)
        for x, y in [*axes.transData.transform([*drawn]), *places]
    ]
    turns = [math.pi * turn / 8 for turn in range(16)]
    for (name, point), place in sorted(
        zip(points.items(), places, strict=True), key=lambda item: item[0][1]
    ):
        for far, turn in itertools.product((11, 16, 24, 34, 46, 60, 80, 100, 130), turns):
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


def scaling_figure(run: dict[str, Any], path: Path) -> None:
    fig, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name in dict.fromkeys(row["c_step"] for row in run["rows"]):
        points = [
            (row["weights"], row["seconds"])
            for row in run["rows"]
            if row["c_step"] == name and "seconds" in row
        ]
        style = (
            "k--"
            if name == "torch.sort"
            else "s:"
            if name.startswith(("scikit", "kmeans1d"))
            else "o-"
        )
        axes.plot(*zip(*points, strict=True), style, ms=4, lw=1.2, label=name)
    axes.set(xscale="log", yscale="log", xlabel="weights", ylabel="seconds")
    axes.legend(fontsize=7)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def scaling_table(run: dict[str, Any]) -> str:
    sizes = sorted({row["weights"] for row in run["rows"]})
    lines = []
    for name in dict.fromkeys(row["c_step"] for row in run["rows"]):
        own = {
            row["weights"]: row["seconds"]
            for row in run["rows"]
            if row["c_step"] == name and "seconds" in row
        }
        lines.append([name, *(f"{own[size]:.2g}" if size in own else "" for size in sizes)])
    return table(["C step, seconds", *(f"{size:,}" for size in sizes)], lines)

"""The part of docs/benchmarks.md about LC against other methods, and its figures, from the cells in results/proof/."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common
from artifact_tables import TITLES, table
from matplotlib import pyplot as plt
from proof_cells import Cells, above, cells, chosen, commands, error, mean, names, of, origin, seeds

FROM_DELTA = "LC (L steps from Delta)"
METHODS = ("DC", "DC + retraining", "iterated DC", "quadratic penalty", "LC", FROM_DELTA)
MARKERS = {
    "DC": "x",
    "DC + retraining": "s",
    "iterated DC": "v",
    "quadratic penalty": "^",
    "LC": "o",
    FROM_DELTA: "D",
    "straight-through": "P",
    "BinaryRelax": "X",
    "PARQ": "*",
    "gradual magnitude": "<",
    "magnitude, rewound": ">",
    "SVD, uniform ranks": "d",
    "SVD, greedy ranks": "p",
    "Deep Compression": "h",
}
PUBLISHED = {  # test error in % above the reference net's, weights only; 200 epochs from scratch (arXiv 2503.15748, table of ResNets)
    ("resnet20", "binary, channels", "straight-through"): 91.82 - 89.56,
    ("resnet20", "binary, channels", "BinaryRelax"): 91.82 - 89.98,
    ("resnet20", "binary, channels", "PARQ"): 91.82 - 90.48,
    ("resnet20", "ternary, channels", "straight-through"): 91.82 - 90.94,
    ("resnet20", "ternary, channels", "BinaryRelax"): 91.82 - 91.25,
    ("resnet20", "ternary, channels", "PARQ"): 91.82 - 91.45,
}
AIMS = {"binary, channels": 0.8, "ternary, channels": 0.2, "binary + 1 %": 0.2}  # points above the reference, ResNet-20, LC
LENET_AIMS = {
    "2 values": 2.56,
    "5% of the weights": 2.18,
    "2 values + 1 %": 2.17,
    "mixed": 2.51,
    "1% of the weights": 3.2,
    "ranks, alpha 1e-06": 1.90,
}


def rows_by_methods(found: Cells, order: Iterable[str]) -> str:
    """A line for each compression, the test errors of the methods side by side, the file of the last one."""
    methods = names(found, "method", METHODS)
    lines = []
    for compression in names(found, "compression", order):
        own = of(found, compression=compression)
        texts = []
        for method in methods:
            runs = of(own, method=method)
            texts.append(f"{mean(runs, error):.2f}{seeds(runs)}" if runs else "")
        last = (chosen(own) or own)[0]["row"]
        aim = LENET_AIMS.get(compression)
        lines.append([compression, *texts, f"{last['bytes']:,}", f"{last['ratio']:.1f}", "" if aim is None else f"{aim:.2f}"])
    return table(["compression", *methods, "file bytes (LC)", "ratio", "published LC"], lines)


def details(found: Cells, order: Iterable[str]) -> str:
    """A line for each cell."""
    head = ["compression", "method", "test error %", "above the reference", "validation error %", "train loss", "file bytes", "ratio", "seconds"]
    lines = []
    for compression in names(found, "compression", order):
        for method in names(of(found, compression=compression), "method", METHODS):
            runs = of(found, compression=compression, method=method)
            row = {key: mean(runs, lambda cell, key=key: cell["row"][key]) for key in runs[0]["row"]}
            numbers = [f"{row['validation_error']:.2f}", f"{row['train_loss']:.4f}", f"{row['bytes']:,.0f}", f"{row['ratio']:.1f}"]
            numbers.append(f"{row['seconds']:.0f}")
            lines.append([compression, f"{method}{seeds(runs)}", f"{row['test_error']:.2f}", f"{mean(runs, above):+.2f}", *numbers])
    return table(head, lines)


def against_published(found: Cells) -> str:
    """Points above the reference, here and in the papers."""
    lines = []
    for compression in ("binary, channels", "binary, channels, inner", "binary + 1 %", "ternary, channels"):
        for method in ("straight-through", "BinaryRelax", "PARQ", "LC"):
            own = of(found, compression=compression)
            runs, there = chosen(own) if method == "LC" else of(own, method=method), PUBLISHED.get(("resnet20", compression, method))
            aim = AIMS.get(compression) if method == "LC" else None
            if runs or there is not None or aim is not None:
                here = f"{mean(runs, above):+.2f}{seeds(runs)}" if runs else "not run"
                published = "" if there is None else f"{there:+.2f}"
                lines.append([compression, method, here, published, "" if aim is None else f"at most {aim}"])
    return table(["compression", "method", "points above the reference", "published", "aim"], lines)


def ablation(found: Cells) -> str:
    lines = []
    for note in names(found, "note"):
        for cell in of(found, note=note):
            row = cell["row"]
            changed = next((r["changed"] for r in reversed(cell["curve"]) if r.get("changed") is not None), float("nan"))
            numbers = [f"{row['validation_error']:.2f}", f"{row['train_loss']:.4f}", "" if changed != changed else f"{100 * changed:.1f}"]
            lines.append([cell["compression"], cell["method"], note, *numbers, f"{row['seconds']:.0f}"])
    return table(["compression", "method", "what is different", "validation error %", "train loss", "choices that left DC, %", "seconds"], lines)


def _kind(method: str) -> str:
    """A method with no note on its settings but where the L steps start."""
    return FROM_DELTA if method.startswith(FROM_DELTA[:-1]) else method.split(" (")[0]


def figure(net: str, found: Cells, path: Path) -> None:
    """Test error against bytes: a colour for each compression, a marker for each method."""
    fig, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    colours = plt.get_cmap("tab20")
    for number, compression in enumerate(names(found, "compression")):
        for method in names(of(found, compression=compression), "method", METHODS):
            runs, kind = of(found, compression=compression, method=method), _kind(method)
            size, ours = mean(runs, lambda cell: cell["row"]["bytes"]), kind.startswith("LC")
            style: dict[str, Any] = {"ms": 7, "zorder": 2} if ours else {"ms": 5, "mfc": "none", "zorder": 3}
            axes.plot(size, mean(runs, error), MARKERS[kind], color=colours(number % 20), **style)
        axes.plot([], [], color=colours(number % 20), lw=3, label=compression)
    for kind in dict.fromkeys(_kind(method) for method in names(found, "method", METHODS)):
        axes.plot([], [], MARKERS[kind], color="black", mfc=None if kind.startswith("LC") else "none", label=kind)
    reference = found[0]["reference"]
    axes.plot(reference["bytes"], mean(found, lambda cell: cell["reference"]["test_error"]), "k*", ms=12)
    axes.axhline(reference["test_error"], color="black", lw=0.5, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="bytes of the file", ylabel="test error (%)", title=f"{TITLES.get(net, net)} on {found[0]['data']}")
    ticks = [tick for tick in (1, 1.5, 2, 3, 5, 10, 15, 20, 30, 50, 90) if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} kB")
    axes.legend(fontsize=6, ncols=2)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def scaling_figure(run: dict[str, Any], path: Path) -> None:
    fig, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name in dict.fromkeys(row["c_step"] for row in run["rows"]):
        points = [(row["weights"], row["seconds"]) for row in run["rows"] if row["c_step"] == name and "seconds" in row]
        style = "k--" if name == "torch.sort" else "s:" if name.startswith(("scikit", "kmeans1d")) else "o-"
        axes.plot(*zip(*points, strict=True), style, ms=4, lw=1.2, label=name)
    axes.set(xscale="log", yscale="log", xlabel="weights", ylabel="seconds")
    axes.legend(fontsize=7)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def scaling_table(run: dict[str, Any]) -> str:
    sizes = sorted({row["weights"] for row in run["rows"]})
    lines = []
    for name in dict.fromkeys(row["c_step"] for row in run["rows"]):
        own = {row["weights"]: row["seconds"] for row in run["rows"] if row["c_step"] == name and "seconds" in row}
        lines.append([name, *(f"{own[size]:.2g}" if size in own else "" for size in sizes)])
    return table(["C step, seconds", *(f"{size:,}" for size in sizes)], lines)


CIFAR_ROWS = (
    *("binary, channels", "binary", "2 values", "2 values, channels", "binary, channels, inner", "binary + 1 %", "binary + 3 %"),
    *("ternary, channels", "4 values", *(f"{p}% of the weights" for p in (20, 10, 5, 2)), "5% in 4 values"),
    *("ranks, alpha 1e-08", "low rank + 3 %"),
)
LENET_ROWS = (
    *(*(f"{k} values" for k in (2, 4, 8, 16)), "binary", "ternary", "powers of two", *(f"{p}% of the weights" for p in (10, 5, 2, 1))),
    *("5% in 4 values", "rank 10", "ranks, alpha 1e-06", "ranks, alpha 1e-05", "mixed", "2 values + 1 %", "8000 bytes"),
)
PLANNED = {  # compressions and methods of the full tables
    "lenet300": (LENET_ROWS, METHODS),
    **dict.fromkeys(("resnet20", "resnet32", "resnet56", "resnet110", "vgg16"), (CIFAR_ROWS, ("DC", "DC + retraining", "LC"))),
}
PEERS = {
    "binary, channels": ("straight-through", "BinaryRelax", "PARQ"),
    "ternary, channels": ("straight-through", "BinaryRelax", "PARQ"),
    "5% of the weights": ("gradual magnitude", "magnitude, rewound"),
    "1% of the weights": ("gradual magnitude", "magnitude, rewound"),
    "5% in 4 values": ("Deep Compression",),
    "ranks, alpha 1e-06": ("SVD, uniform ranks", "SVD, greedy ranks"),
    "ranks, alpha 1e-08": ("SVD, uniform ranks", "SVD, greedy ranks"),
}


def missing(net: str, found: Cells) -> str:
    """The cells of the full table that have no record."""
    compressions, methods = PLANNED[net]
    done = {(cell["compression"], cell["method"]) for cell in found}
    lines = []
    for compression in compressions:
        left = [m for m in (*methods, *PEERS.get(compression, ())) if (compression, m) not in done]
        if left:
            lines.append(f"{compression} ({', '.join(left)})")
    return "; ".join(lines)


def budget(found: Cells) -> str:
    s = found[0]["settings"]
    return f"""Every method that trains has {s["epochs"]:g} epochs in batches of {s["batch"]}, SGD with Nesterov momentum 0.9, a cosine
from {s["lr"]:g} to 0, weight decay {s["weight_decay"]:g}, and the reference's probabilities
as soft targets (a share of 0.7, temperature 3). LC: {s["steps"]} steps,
mu from {s["start"]:g} to {s["end"]:g} times the curvature (`leco.automatic`, power {s["power"]:g}), {100 * s["retrain"]:.0f} % of the epochs
to retrain what is free; its net is the last one."""


def references(found: Cells) -> str:
    errors = {cell["seed"]: cell["reference"]["test_error"] for cell in found}
    return ", ".join(f"{error:.2f} %" for _, error in sorted(errors.items()))


def lenet() -> str:
    found = cells("lenet300")
    if not found:
        return ""
    order = PLANNED["lenet300"][0]
    return f"""## LeNet300 on MNIST: every kind of compression, every baseline

784-300-100-10 (tanh), trained on 55,000 images; 5,000 are held out for choices, and the test error is that of the net loaded from the file.
{budget(of(found, method="LC"))} *L steps from Delta*: 40 values of mu, which grows tenfold
in all from 0.0005 times the curvature, and at each 10 L steps of 14 or 15 iterations that start at w = Delta(Theta)
([where an L step starts](algorithm.md#where-an-l-step-starts)). Iterated DC: 6 rounds, each with the whole cosine. References (by seed):
{references(found)}. Means over seeds, their number in brackets where there are several. "Published LC" is the authors' figure, for 12 to
13 times as many epochs and a reference at 2.13 %.

{rows_by_methods(of_methods(found, METHODS), order)}

Each cell, methods of others included (straight-through estimation, BinaryRelax, PARQ, magnitude pruning, SVD, Deep Compression):

{details(found, order)}

{_not_run("lenet300", found)}{origin(found)}

![error against bytes, LeNet300](figures/proof-lenet300.png)

{commands(found)}
"""


def _not_run(net: str, found: Cells) -> str:
    left = missing(net, found)
    return f"Not run: {left}.\n\n" if left else ""


def of_methods(found: Cells, methods: Iterable[str]) -> Cells:
    return [cell for cell in found if cell["method"] in tuple(methods)]


def settled(found: Cells) -> str:
    """How many signs left direct compression by when, in LC's runs at 1 bit."""
    texts = []
    for method in names(found, "method"):
        for cell in of(found, compression="binary, channels", method=method):
            shares = [record["changed"] for record in cell["curve"] if record.get("changed") is not None]
            if method.startswith("LC") and shares:
                third = shares[len(shares) // 3]
                texts.append(f"{method}: {100 * third:.1f} % of the signs differ after a third of the steps, {100 * shares[-1]:.1f} % at the end")
    return ". ".join(texts)


def resnet() -> str:
    found = cells("resnet20")
    if not found:
        return ""
    reference = common.load("reference-resnet20.json")[0]
    return f"""## ResNet-20 on {found[0]["data"]}: 1 bit, and more

The reference was trained for {reference["epochs"]} epochs to {references(found)} test error ({reference["seconds"] / 60:.0f} minutes,
`{reference["command"]}`). {budget(of(found, method="LC"))}
Other rates stand with the method's name. *L steps from Delta* are 40 values of mu, which grows tenfold in all unless said otherwise, and at each
11 L steps of 16 iterations that start at w = Delta(Theta) ([where an L step starts](algorithm.md#where-an-l-step-starts)), and no
retraining. One seed. The images are JPEG copies, on which nets are worse than on the lossless ones: read the differences. "Published" are
the differences of arXiv 2503.15748 and 1801.06313: 200 epochs from scratch, lossless images.

{against_published(found)}

{details(found, PLANNED["resnet20"][0])}

{_at_one_bit(found)}

{_not_run("resnet20", found)}{origin(found)}

![error against bytes, ResNet-20](figures/proof-resnet20.png)

{commands(found)}
{_longer()}{_other_nets()}"""


def _at_one_bit(found: Cells) -> str:
    warm = settled([cell for cell in found if not cell["settings"].get("from_delta")])
    return f"""**At 1 bit no method comes near LC's aim here; LC with L steps from Delta(Theta) is level with straight-through estimation, and
both are better than BinaryRelax and PARQ.** With L steps that start where the last one ended LC is worse, and the records say why. {warm}.
So the choices settle early, and what follows trains scales and batch norms alone. A sign changes in a C step only where its multiplier is
above mu a, and the multipliers grow more slowly than mu does.

**At 5 % of the weights LC with L steps from Delta(Theta) leads.** Direct compression destroys the net, and the loss's first gradients there are huge:
they are clipped to a norm of 1, without which batch norm lets the first L step blow up the weights. This run has 10 L steps at each mu and
retraining."""


def _longer() -> str:
    """ResNet-20 with more epochs."""
    found = cells("resnet20", "60 epochs")
    if not found:
        return ""
    plain, rest = of(found, method="plain training"), [cell for cell in found if cell["method"] != "plain training"]
    last = plain[0]["curve"][-1]["validation_error"] if plain else float("nan")
    return f"""
### 60 epochs

{details(rest, PLANNED["resnet20"][0])}

Three times the epochs bring nothing at these rates. The reference trained on without compression ends at {last:.2f} % validation error. At
1 bit the rate sets a level of loss at which signs that flip undo what others gain, and only the last epochs, at small rates, count: LC's loss
is {_loss_at(rest, 0.3):.2f} after 30 % of its steps, {_loss_at(rest, 0.6):.2f} after 60 % and {_loss_at(rest, 1.0):.2f} at the end.

{origin(rest)}

{commands(found)}
"""


def _loss_at(found: Cells, share: float) -> float:
    """The training loss of LC at 1 bit after a share of its steps."""
    losses = [record["loss"] for record in of(found, compression="binary, channels", method="LC")[0]["curve"] if record.get("step")]
    return losses[round(share * (len(losses) - 1))]


def _other_nets() -> str:
    text = ""
    for net in PLANNED:
        found = cells(net)
        if not found or net in ("lenet300", "resnet20"):
            continue
        for record in common.load(f"reference-{net}.json"):
            text += f"\n## {TITLES.get(net, net)} on {found[0]['data']}\n\nThe reference: {record['epochs']} epochs, {references(found)} test error "
            text += f"(`{record['command']}`). One seed; the epochs stand in the commands.\n\n{details(found, PLANNED[net][0])}\n\n"
            text += f"{origin(found)}\n\n{commands(found)}\n"
    missing_nets = [net for net in PLANNED if not cells(net)]
    return text + (f"\nOf {', '.join(TITLES.get(net, net) for net in missing_nets)} no cell was run.\n" if missing_nets else "")


def ablations() -> str:
    parts = []
    for net in ("lenet300", "resnet20"):
        found = cells(net, "ablation")
        if found:
            base = {"LC": "LC as above: nothing", FROM_DELTA: "L steps from Delta as above: nothing"}
            same = [{**cell, "note": base[cell["method"]]} for cell in of(cells(net), compression=found[0]["compression"]) if cell["method"] in base]
            found = [*(cell for cell in sorted(same, key=lambda cell: cell["note"]) if cell["seed"] == found[0]["seed"]), *found]
            parts.append(f"{TITLES.get(net, net)}:\n\n{ablation(found)}\n\n{commands(found)}\n")
    return (
        f"""## What makes LC good

One change of the settings at a time, one seed. Where an L step starts matters most: from Delta(Theta) LC is better than from the last w in
nearly every row of quantization and pruning above, and it bears other settings well. Rates from 0.05 to 0.2, AdamW, momentum anew in each L
step, no retraining, L steps of 1 to 72 iterations and a mu that grows tenfold or a thousandfold are within what one seed shows. A mu that
does not grow is worse, and straight-through estimation, which has neither mu nor longer L steps, worse still.

With L steps from the last w, multipliers matter most (the quadratic penalty in the tables above: at 2 values its error is more than three
times LC's), then the number of L steps (few long ones keep the choices of direct compression, too many short ones leave a gap), a mu_0 that
lets some choices go and no more, soft targets, and the penalty's gradient in the optimizer's step rather than as a proximal step.
`leco.automatic` has the best start of these; `leco.run(from_delta=True)` is the other way. Not run: the penalty in the loss, a scale by
channel on LeNet300, and batch norms that are not recalibrated (`--set` and `--group ablation` run them).

{chr(10).join(parts)}"""
        if parts
        else ""
    )


def cost() -> str:
    parts = []
    for net in ("lenet300", "resnet20"):
        found = cells(net, "cost")
        plain = of(found, method="plain training")
        for cell in of(found, method="LC") if plain else []:
            ratios = [cell["row"][key] / plain[0]["row"][key] for key in ("seconds", "peak_bytes")]
            parts.append([TITLES.get(net, net), cell["compression"], f"{plain[0]['row']['seconds']:.0f}", f"{cell['row']['seconds']:.0f}"])
            parts[-1] += [f"{ratios[0]:.2f}", f"{ratios[1]:.2f}"]
    head = ["net", "compression", "plain training, s", "LC, s", "ratio (aim: at most 1.1)", "peak memory of the process, ratio"]
    text = (
        "## What an LC run costs\n\nWhole runs of the same number of epochs, evaluations included.\n\n" + table(head, parts) + "\n" if parts else ""
    )
    for run in common.load("scaling.json"):
        scaling_figure(run, common.RESULTS.parent.parent / "docs" / "figures" / "scaling.png")
        text += f"\n## C steps from 10^4 to 10^8 weights\n\nNormal weights. {common.how(run)}.\n\n{scaling_table(run)}\n\n"
        text += "![seconds against weights](figures/scaling.png)\n"
    return text


README_ROWS = ("2 values", "5% of the weights", "2 values + 1 %", "1% of the weights", "5% in 4 values", "binary, channels", "binary + 1 %")


def readme() -> str:
    """LC beside the best of its own pieces and of the others."""
    lines = []
    for net in ("lenet300", "resnet20"):
        found = cells(net)
        for compression in names(found, "compression", README_ROWS):
            own = of(found, compression=compression)
            if compression not in README_ROWS or not chosen(own):
                continue
            ways = (of(own, method="DC"), of(own, method="DC + retraining"), chosen(own))
            texts = [f"{mean(runs, error):.2f}{seeds(runs)}" if runs else "" for runs in ways]
            others = [(mean(of(own, method=m), error), m) for m in names(own, "method") if m not in METHODS and not m.startswith("LC (")]
            peer = "{:.2f} ({})".format(*min(others)) if others else ""
            reference = {cell["seed"]: cell["reference"]["test_error"] for cell in own}
            row = chosen(own)[0]["row"]
            start = [TITLES.get(net, net), f"{statistics.mean(reference.values()):.2f}", compression]
            lines.append([*start, *texts, peer, f"{row['bytes']:,}", f"{row['ratio']:.1f}"])
    return table(["net", "reference", "compression", "DC", "DC + retraining", "LC", "best method of others", "file bytes (LC)", "ratio"], lines)


def sections() -> str:
    for net in ("lenet300", "resnet20"):
        found = cells(net)
        if found:
            figure(net, found, common.RESULTS.parent.parent / "docs" / "figures" / f"proof-{net}.png")
    return "".join(f"\n{text}" for text in (lenet(), resnet(), ablations(), cost()) if text)

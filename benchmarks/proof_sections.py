"""The part of docs/benchmarks.md about LC against other methods, and the README's table: what is
met, what is missed, how to repeat it."""

import statistics
from collections.abc import Iterable

import common
import nets
from artifact_tables import TITLES, folded, table
from proof_aims import aims
from proof_cells import (
    Cells,
    above,
    cells,
    chosen,
    commands,
    error,
    held_out,
    mean,
    names,
    of,
    origin,
    points,
    seeds,
    size,
    tabled,
)
from proof_findings import ablations, cost
from proof_tables import (
    FROM_DELTA,
    METHODS,
    against_published,
    details,
    figure,
    kind_of,
    rows_by_methods,
)

CLIPPED = f"{FROM_DELTA[:-1]}, clipped)"
TIGHTENED = f"{CLIPPED[:-1]}, tightening)"
CIFAR_ROWS = (
    *(
        "binary, channels",
        "binary",
        "2 values",
        "2 values, channels",
        "binary, channels, inner",
        "binary + 1 %",
        "binary + 3 %",
    ),
    *(
        "ternary, channels",
        "4 values",
        *(f"{p}% of the weights" for p in (20, 10, 5, 2)),
        "20% in 4 values",
        "5% in 4 values",
    ),
    *(
        "34000 bytes",
        "11500 bytes",
        "26.4 M multiply-adds",
        "17.4 M multiply-adds",
        "low rank + 3 %",
    ),
)
LENET_ROWS = (
    *(
        *(f"{k} values" for k in (2, 4, 8, 16)),
        "binary",
        "ternary",
        "powers of two",
        *(f"{p}% of the weights" for p in (10, 5, 2, 1)),
    ),
    *(
        "5% in 4 values",
        "rank 10",
        "ranks, alpha 1e-06",
        "ranks, alpha 1e-05",
        "mixed",
        "2 values, layers 1 and 3",
        "2 values + 1 %",
    ),
    "8000 bytes",
)
PLANNED = {  # compressions and methods of the full tables
    "lenet300": (LENET_ROWS, METHODS),
    **dict.fromkeys(
        ("lenet300-relu", "lenet5"), (LENET_ROWS, ("DC", "DC + retraining", FROM_DELTA))
    ),
    **dict.fromkeys(
        ("resnet20", "resnet32", "resnet56", "resnet110", "vgg16"),
        (CIFAR_ROWS, ("DC", "DC + retraining", FROM_DELTA)),
    ),
}
PEERS = {
    "binary, channels": ("straight-through", "BinaryRelax", "PARQ"),
    "ternary, channels": ("straight-through", "BinaryRelax", "PARQ"),
    "5% of the weights": ("gradual magnitude", "magnitude, rewound"),
    "1% of the weights": ("gradual magnitude", "magnitude, rewound"),
    **dict.fromkeys(("20% in 4 values", "5% in 4 values"), ("Deep Compression",)),
    "ranks, alpha 1e-06": ("SVD, uniform ranks", "SVD, greedy ranks"),
    "26.4 M multiply-adds": ("SVD, uniform ranks", "SVD, greedy ranks"),
}


def missing(net: str, found: Cells) -> str:
    """The cells of the full table that have no record."""
    compressions, methods = PLANNED[net]
    done = {(cell["compression"], kind_of(cell["method"])) for cell in found}
    lines = []
    for compression in compressions:
        left = [m for m in (*methods, *PEERS.get(compression, ())) if (compression, m) not in done]
        if left:
            lines.append(f"{compression} ({', '.join(left)})")
    return "; ".join(lines)


def budget(found: Cells) -> str:
    s = found[0]["settings"]
    targets = (
        "the reference's probabilities as soft targets (a share of 0.7, temperature 3)"
        if s["soft"]
        else "hard targets"
    )
    return f"""Every method that trains has {s["epochs"]:g} epochs in batches of {s["batch"]}, SGD with Nesterov momentum 0.9, a cosine
from {s["lr"]:g} to 0, weight decay {s["weight_decay"]:g}, and {targets}."""


def references(found: Cells) -> str:
    errors: dict[int, list[str]] = {}
    for cell in found:
        own, text = errors.setdefault(cell["seed"], []), f"{cell['reference']['test_error']:.2f}"
        own += [text] if text not in own else []
    again = (
        " (two figures: trained on two machines)"
        if any(len(own) > 1 for own in errors.values())
        else ""
    )
    return ", ".join(f"{' or '.join(own)} %" for _, own in sorted(errors.items())) + again


def lenet() -> str:
    found = cells("lenet300")
    if not found:
        return ""
    order = PLANNED["lenet300"][0]
    return f"""## LeNet300 on MNIST: every kind of compression, every baseline

784-300-100-10 (tanh), trained on 55,000 images; 5,000 are held out for choices, and the test error is that of the net loaded from the file.
{budget(of(found, method="LC"))} LC: 40 steps,
mu from 0.05 to 7 times the curvature (`leco.automatic`, power 1.5), 10 % of the epochs to retrain what is free; its net is the last one.
*L steps from Delta*: 40 values of mu, which grows tenfold in all from 0.0005 times the curvature, and at each 10 L steps of 14 or 15 iterations
that start at w = Delta(Theta) ([where an L step starts](algorithm.md#where-an-l-step-starts)). Iterated DC: 6 rounds, each with the
whole cosine. References (by seed): {references(found)}. Means over seeds, their number in brackets where there are several;
seconds are the first seed's. "Published LC" is the authors' figure, for 12 to 13 times as many epochs and a reference at 2.13 %.

{rows_by_methods(of_methods(found, METHODS), order)}

{folded("Each cell, with straight-through, BinaryRelax, PARQ, magnitude pruning, SVD and Deep Compression", details(found, order))}

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
    """How many signs left direct compression by when, in LC's runs at 1 bit whose L steps start at
    the last w."""
    texts = []
    for method in names(found, "method"):
        for cell in of(found, compression="binary, channels", method=method):
            shares = [
                record["changed"] for record in cell["curve"] if record.get("changed") is not None
            ]
            if method.startswith("LC") and shares and not cell["settings"].get("from_delta"):
                first, last = 100 * shares[len(shares) // 3], 100 * shares[-1]
                texts.append(
                    f"{first:.1f} % of the signs differ after a third of the steps, {last:.1f} % at the end"
                )
    return "; ".join(texts)


def resnet() -> str:
    every, found = cells("resnet20"), tabled("resnet20")
    if not found:
        return ""
    reference = common.load("reference-resnet20.json")[0]
    trained = [cell for cell in found if cell["method"] != "DC"]
    return f"""## ResNet-20 on {found[0]["data"]}: 1 bit, and more

The references, by seed, were trained for {reference["epochs"]} epochs to {references(found)} test error ({reference["seconds"] / 60:.0f} minutes
for the first: `{reference["command"]}`). {budget(trained)}
Batch-norm statistics are found again at the end, of augmented images. LC, by *L steps from Delta*: 40 values of mu, which grows tenfold in all
from 0.0005 times the curvature, and at each 11 L steps of 16 iterations that start at w = Delta(Theta)
([where an L step starts](algorithm.md#where-an-l-step-starts)); no retraining. *Clipped*: the loss's gradient to a norm of 1 (direct compression
destroys the net, and batch norm lets the first gradients there blow up the weights), 10 L steps at each mu, and at 5 % of the weights and 26.4 M
multiply-adds 10 % of the epochs to retrain what is free, which [did not help](#what-makes-lc-good). *N bytes*: entropy-coded values
(`EntropyCodebook`, at most 8 for each layer, 0 among them) of all layers in one `Budget`, 2 L steps at each mu; the file is larger by what is
not compressed, batch norms most of all. One seed, or means over two (2), each with its own reference: read the differences, as the images are
JPEG copies, on which nets are worse than on the lossless ones. "Published" are the differences of arXiv 2503.15748 and 1801.06313: 200 epochs
from scratch, lossless images.

{against_published(found, tabled("resnet20", "40 epochs"))}

{details(found, PLANNED["resnet20"][0])}

{_conclusions()}

{_not_run("resnet20", found)}{origin(found)}

![error against bytes, ResNet-20](figures/proof-resnet20.png)

{commands(found)}
{_longer("resnet20")}{_soft([cell for cell in every if cell not in found], [cell for net in PLANNED for cell in cells(net)])}{_other_nets()}"""


def _conclusions() -> str:
    plain, found, longer = (
        of(cells("resnet20", "cost"), method="plain training")[0],
        tabled("resnet20"),
        cells("resnet20", "40 epochs"),
    )
    deep = of(cells("resnet56", "40 epochs"), method=FROM_DELTA, compression="binary + 1 %")
    one, corrected = (
        of(longer, method=FROM_DELTA, compression=name)
        for name in ("binary, channels", "binary + 1 %")
    )
    straight = of(longer, method="straight-through")
    signs = of(found, compression="binary, channels")
    straight_signs = of(signs, method="straight-through")
    ways = [
        of(signs, method=method) for method in names(signs, "method") if not method.startswith("DC")
    ]
    coded, few, four = (
        of(found, compression=name, method=CLIPPED)
        for name in ("34000 bytes", "11500 bytes", "5% in 4 values")
    )
    retrained = of(found, compression="34000 bytes", method="DC + retraining")
    tightened = of(found, compression="11500 bytes", method=TIGHTENED)
    more = [
        of(found, compression="20% in 4 values", method=method)
        for method in (CLIPPED, "Deep Compression")
    ]
    han = of(found, compression="5% in 4 values", method="Deep Compression")
    seconds = statistics.mean(record["c_seconds"] for record in coded[0]["curve"][1:])
    own = coded[0]["settings"]
    c_steps, iterations = (
        own["steps"] * own["rounds"],
        round(own["epochs"]) * (45000 // own["batch"]),
    )
    first, last, epochs = (
        plain["reference"]["validation_error"],
        plain["curve"][-1]["validation_error"],
        plain["settings"]["epochs"],
    )
    return f"""At 1 bit, at 5 % of the weights and at 26.4 M multiply-adds LC and the other methods are level: the standard error of 14 % on 10,000
images is 0.35 points, and these are one or two seeds. At 1 bit straight-through estimation is ahead on the 5,000 held-out images
({points(straight_signs, held_out)}, LC {points(chosen(signs), held_out)}). With ternary weights LC is ahead (PARQ's file, with more zeros, is
the smallest). Where weights are both pruned and quantized LC is ahead of Deep Compression: with 5 % of the weights in 4 values
{mean(four, error):.2f} % in {size(four)} bytes against {mean(han, error):.2f} % in {size(han)}, which has 4 values of each layer's own; with 20 %
{mean(more[0], error):.2f} % in {size(more[0])} against {mean(more[1], error):.2f} % in {size(more[1])}.
At 1 bit all are nearer to the reference than the published figures, whose nets train from scratch, on lossless images. The differences include
what any further training brings: the reference itself, trained on for the same {epochs:g} epochs without compression, goes from {first:.2f} to
{last:.2f} % validation error.

**A bit per weight costs little where bits are limited, not the number of values**: with the pruning, the values and the bits of each layer
left to one budget of 34,000 bytes, a bit for each of the 270,000 weights, LC is at {points(coded)} in {size(coded)} bytes
({points(coded, held_out)} on the held-out images; by straight-through estimation with signs
{points(straight_signs, held_out)}). That is a smaller file than those with signs and a scale by channel of LC and of others' methods,
whose errors are {min(mean(runs, above) for runs in ways):+.2f} or more; retraining of direct compression, with as many bytes, is at
{points(retrained)}. Here it pays that L and C steps are apart: LC has {c_steps} C steps, of {seconds:.1f} seconds each, where straight-through
estimation would have one at each of its {iterations:,} iterations.
At half of these bytes the order turns: {mean(few, error):.2f} % in {size(few)} bytes by the budget,
{mean(four, error):.2f} % in {size(four)} with 5 % of the weights, the largest of all layers, in 4 values. A
[budget that tightens](algorithm.md#bounds-that-tighten) to them from {tightened[0]["settings"]["loose"]:g} times as many does not help:
{mean(tightened, error):.2f} %.

[With 40 epochs](#resnet-20-40-epochs) LC is at {points(one)} at
1 bit, level with straight-through estimation ({points(straight)}; on the held-out images {points(one, held_out)} and
{points(straight, held_out)}), and at 1 bit + 1 %, where 20 epochs miss the aim, at {points(corrected)}. With as
many [ResNet-56](#resnet-56-40-epochs) at 1 bit + 1 % is at {points(deep)} (aim: at most 0.0), in {size(deep)} bytes."""


def _longer(net: str) -> str:
    """The tables of cells with more epochs."""
    text = ""
    for group in ("40 epochs", "60 epochs"):
        found = tabled(net, group)
        if found:
            text += f"\n### {TITLES[net]}, {group}\n\n{details(found, PLANNED[net][0])}\n\n{origin(found)}\n\n{commands(found)}\n"
    return text


def _soft(found: Cells, every: Cells) -> str:
    """The same with soft targets, and batch-norm statistics of images that are not augmented."""
    if not found:
        return ""
    plain = of(cells("resnet20", "60 epochs"), method="plain training")[0]
    first, last = plain["reference"]["validation_error"], plain["curve"][-1]["validation_error"]
    lines = []
    for cell in every:
        if "clean_statistics" in cell:
            errors = (
                f"{part[kind]:.2f}"
                for part in (cell["clean_statistics"], cell["row"])
                for kind in ("validation_error", "test_error")
            )
            lines.append(
                [TITLES.get(cell["net"], cell["net"]), cell["compression"], cell["method"], *errors]
            )
    head = [
        "net",
        "compression",
        "method",
        "clean: validation error %",
        "test error %",
        "augmented: validation error %",
        "test error %",
    ]
    return f"""
### Soft targets, and whose statistics a batch norm has

The same with the reference's own probabilities as soft targets (a share of 0.7, temperature 3, of the images as they are). They help LeNet300
([below](#what-makes-lc-good)) and hurt here: a net learns what its teacher, as small as itself, gets wrong. Without compression, 60 epochs on
top of the reference's 30 take its validation error from {first:.2f} to {last:.2f} % only. A better teacher (ResNet-56) is between the two.
*LC* is LC with L steps from the last w, 20 steps, mu from 0.07 to 7 times the curvature: it is worse than from Delta(Theta), and the records
say why. Its choices settle early ({settled(found)}), and what follows trains scales and batch norms alone: a sign changes in a C step only
where its multiplier is above mu a, and the multipliers grow more slowly than mu does.

{details(found, PLANNED["resnet20"][0])}

{origin(found)}

{commands([*found, plain])}

Batch-norm statistics belong to the weights, and are found again for the compressed ones, with images like those of training: random crops of
padded images, flipped or not. Those of images as they are ("clean") cost 2 to 5 points, as the crops' black borders are then missing from
them. The same files, with either (`leco.recalibrate_`):

{table(head, lines)}
"""


def _averaged(found: Cells) -> str:
    several = len({cell["seed"] for cell in found}) > 1
    return (
        "By seed; means over seeds, their number in brackets where there are several, seconds of the first"
        if several
        else "One seed"
    )


def _other_nets() -> str:
    text = ""
    for net in PLANNED:
        found = cells(net)
        if not found or net in ("lenet300", "resnet20"):
            continue
        for record in common.load(f"reference-{net}.json"):
            text += f"\n## {TITLES.get(net, net)} on {found[0]['data']}\n\nThe reference: {record['epochs']} epochs, {references(found)} test error"
            text += (
                f" (`{record['command']}`). {_averaged(found)}; the epochs stand in the commands."
            )
            text += f"\n\n{details(found, PLANNED[net][0])}\n\n"
            text += f"{origin(found)}\n\n{commands(found)}\n{_longer(net)}"
    missing_nets = [net for net in PLANNED if not cells(net)]
    return text + (
        f"\nOf {', '.join(TITLES.get(net, net) for net in missing_nets)} no cell was run.\n"
        if missing_nets
        else ""
    )


README_ROWS = (
    *(
        "2 values",
        "5% of the weights",
        "2 values + 1 %",
        "1% of the weights",
        "20% in 4 values",
        "5% in 4 values",
    ),
    *(
        "8000 bytes",
        "3500 bytes",
        "2600 bytes",
        "binary, channels",
        "binary + 1 %",
        "34000 bytes",
        "ternary, channels",
        "11500 bytes",
    ),
    *("26.4 M multiply-adds", "68.7 M multiply-adds"),
)


def readme() -> str:
    """LC beside the best of its own pieces and of the others."""
    lines = []
    longer = [("resnet20", "40 epochs"), ("resnet56", "40 epochs")]
    for net, group in [
        *((net, "") for net in ("lenet300", "lenet300-relu", "lenet5", "resnet20")),
        *longer,
        ("vgg16", ""),
    ]:
        found = cells(net, group)
        for compression in names(found, "compression", README_ROWS):
            own = of(found, compression=compression)
            if compression not in README_ROWS or len(chosen(own)) < (
                3 if net in nets.LENETS else 1
            ):
                continue
            ways = (of(own, method="DC"), of(own, method="DC + retraining"), chosen(own))
            texts = [f"{mean(runs, error):.2f}{seeds(runs)}" if runs else "" for runs in ways]
            others = [
                of(own, method=m)
                for m in names(own, "method")
                if m not in METHODS and not m.startswith("LC (")
            ]
            best = min(others, key=lambda runs: mean(runs, error), default=[])
            peer = f"{best[0]['method']}, {mean(best, error):.2f}{seeds(best)}" if best else ""
            reference = {cell["seed"]: cell["reference"]["test_error"] for cell in own}
            ratio = mean(chosen(own), lambda cell: cell["row"]["ratio"])
            start = [
                ", ".join(part for part in (TITLES[net], group) if part),
                f"{statistics.mean(reference.values()):.2f}",
                compression,
            ]
            lines.append([*start, *texts, peer, size(chosen(own)), f"{ratio:.1f}"])
    return table(
        [
            "net",
            "reference",
            "compression",
            "DC",
            "DC + retraining",
            "LC",
            "best method of others",
            "file bytes (LC)",
            "ratio",
        ],
        lines,
    )


def sections() -> str:
    for net, most in (("lenet300", 100.0), ("resnet20", 30.0)):
        found = of(tabled(net), seed=0)  # every compression has it: one reference for all points
        if found:
            figure(
                net,
                found,
                common.RESULTS.parent.parent / "docs" / "figures" / f"proof-{net}.png",
                most,
            )
    return "".join(f"\n{text}" for text in (aims(), lenet(), resnet(), ablations(), cost()) if text)

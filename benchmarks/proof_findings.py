"""The parts of docs/benchmarks.md on what makes LC good and what it costs."""

import statistics

import common
from artifact_tables import TITLES, table
from proof_cells import Cells, cells, commands, of, tabled
from proof_tables import FROM_DELTA, METHODS, ablation, kind_of, scaling_figure, scaling_table


def ablations() -> str:
    parts = []
    for net in ("lenet300", "resnet20"):
        found = cells(net, "ablation")
        if found:
            base = {
                "LC": "LC as above: nothing",
                FROM_DELTA: "L steps from Delta as above: nothing",
            }
            alike = [
                c
                for c in of(cells(net), compression=found[0]["compression"], seed=found[0]["seed"])
                if c["method"] in base
            ]
            same = [
                {**c, "note": base[c["method"]]}
                for c in alike
                if c["settings"]["epochs"] == found[0]["settings"]["epochs"]
            ]
            found = [*sorted(same, key=lambda cell: cell["note"]), *found]
            parts.append(f"{TITLES.get(net, net)}:\n\n{ablation(found)}\n\n{commands(found)}\n")
    return (
        f"""## What makes LC good

One change of the settings at a time, one seed. Where an L step starts matters most: from Delta(Theta) LC is better than from the last w in
nearly every row of quantization and pruning above, and it bears other settings well. On LeNet300 rates from 0.05 to 0.2, AdamW, momentum anew in
each L step, no retraining, L steps of 1 to 72 iterations, a mu that grows tenfold or a thousandfold, the penalty in the loss or as a proximal
step, and values or scales by unit rather than by layer are within what one seed shows. A mu that does not grow is worse, and straight-through
estimation, which has neither mu nor longer L steps, worse still.

With L steps from the last w, multipliers matter most (the quadratic penalty in the tables above: at 2 values its error is more than three
times LC's), then the number of L steps (few long ones keep the choices of direct compression, too many short ones leave a gap), a mu_0 that
lets some choices go and no more, soft targets, and the penalty's gradient in the optimizer's step, or in the loss, rather than as a proximal
step. `leco.automatic` has the best start of these, and that of L steps from Delta(Theta), `leco.run(from_delta=True)`, where it is told so.

On ResNet-20 at 1 bit (8 epochs; "from Delta": mu grows tenfold in 40 values, 4 L steps of 17 or 18 iterations at each) the order is the
same: without multipliers no more than some signs in a thousand leave direct compression, and the error is half as large again; from the
last w it is more than 2 points higher than from Delta; a mu that does not grow leaves a gap and is worse. A mu ten times as large or one that
grows threefold, a rate of 0.1, L steps of 4 or 70 iterations, a proximal step and one scale by layer rather than by channel are within the
standard error of a validation error here (0.5), and so is straight-through estimation; of these the rate and the long L steps leave a higher
training loss. AdamW's training loss is that of SGD, its error is not: its weight decay, of the same 0.0005, is decoupled and so far weaker.
[Two things matter more than all of these](#soft-targets-and-whose-statistics-a-batch-norm-has): batch-norm statistics of inputs that are
augmented as in training, and targets no worse than the classes themselves.

What the last tenth of the epochs brings, which retrains what is free (scales, codebooks, kept weights, factors) by Adam, in the cells of the
tables above that have it: much where w ends away from Delta(Theta), nothing after L steps from Delta.

{retraining()}

{chr(10).join(parts)}"""
        if parts
        else ""
    )


def retraining() -> str:
    """What training of the free values after LC brings, over the cells that have it."""
    lines = []
    for net in ("lenet300", "resnet20"):
        pairs: dict[str, list[tuple[float, float]]] = {}
        for cell in tabled(net):
            before = [
                record["validation_error"]
                for record in cell["curve"]
                if record.get("part") == "before retraining"
            ]
            if before:
                pairs.setdefault(kind_of(cell["method"]), []).append(
                    (before[0], cell["row"]["validation_error"])
                )
        for method in (m for m in METHODS if m in pairs):
            before, after = (statistics.mean(errors) for errors in zip(*pairs[method], strict=True))
            lines.append(
                [
                    TITLES.get(net, net),
                    method,
                    f"{len(pairs[method])}",
                    f"{before:.2f}",
                    f"{after:.2f}",
                ]
            )
    return table(["net", "method", "cells", "mean validation error before, %", "after, %"], lines)


def _parts(found: Cells) -> str:
    """Where the seconds of the first cell went."""
    if not found:
        return ""
    retrain, records = (
        found[0]["settings"]["retrain"],
        [record for record in found[0]["curve"][1:] if "l_seconds" in record],
    )
    l_seconds, c_seconds = (
        sum(record[key] for record in records) for key in ("l_seconds", "c_seconds")
    )
    return (
        f"Of LC's {found[0]['row']['seconds']:.0f} seconds on LeNet300 {l_seconds:.0f} are L steps ({1 - retrain:.0%} of the epochs), "
        f"{c_seconds:.1f} C steps; the rest, and what exceeds plain training, is the retraining by Adam of what is free ({retrain:.0%}) and the "
        "evaluations.\n\n"
    )


def cost() -> str:
    parts, used = [], Cells()
    for net in ("lenet300", "resnet20"):
        found = cells(net, "cost")
        plain = of(found, method="plain training")
        whole = of(found, method="LC") or of(
            cells(net), method=FROM_DELTA, compression="binary, channels"
        )
        used += [*plain, *whole] if plain else []
        for cell in whole if plain else []:
            ratios = [cell["row"][key] / plain[0]["row"][key] for key in ("seconds", "peak_bytes")]
            how = cell["note"] or "L steps from the last w, retraining"
            parts.append(
                [
                    TITLES.get(net, net),
                    cell["compression"],
                    how,
                    f"{plain[0]['row']['seconds']:.0f}",
                    f"{cell['row']['seconds']:.0f}",
                ]
            )
            parts[-1] += [f"{ratios[0]:.2f}", f"{ratios[1]:.2f}"]
    head = [
        "net",
        "compression",
        "LC by",
        "plain training, s",
        "LC, s",
        "ratio (aim: at most 1.1)",
        "peak memory of the process, ratio",
    ]
    text = (
        "## What an LC run costs\n\nWhole runs of the same number of epochs, evaluations included, on one thread each; ResNet-20's (LC by L steps "
        "from Delta) beside another process, plain training evaluated after each of 20 epochs, LC 11 times."
        f"\n\n{table(head, parts)}\n\n{_parts(of(used, net='lenet300', method='LC', note=''))}{commands(used)}\n"
        if parts
        else ""
    )
    for run in common.load("scaling.json"):
        scaling_figure(run, common.RESULTS.parent.parent / "docs" / "figures" / "scaling.png")
        text += f"\n## C steps from 10^4 to 10^8 weights\n\nNormal weights. {common.how(run)}.\n\n{scaling_table(run)}\n\n"
        text += "![seconds against weights](figures/scaling.png)\n"
    return text

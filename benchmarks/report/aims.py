"""The aims of the comparison: published errors, and errors that LC should not exceed."""

from dataclasses import dataclass
from typing import Any

from benchmarks.report.cells import TITLES, Cell, above, chosen, error, mean, of, seeds, tabled

OURS = "ours"


@dataclass(frozen=True)
class Aim:
    """At most so many % of test error, or so many points above the reference's."""

    net: str
    compression: str
    most: float
    whose: str
    points: bool = False
    groups: tuple[str, ...] = ("",)


LONGER = ("", "40 epochs")
AIMS = (
    Aim("lenet300", "2 values", 2.56, "LC"),
    Aim("lenet300", "2 values, layers 1 and 3", 2.26, "LC"),
    Aim("lenet300", "5% of the weights", 2.18, "LC"),
    Aim("lenet300", "1% of the weights", 3.2, "LC"),
    Aim("lenet300", "2 values + 1 %", 2.17, "LC"),
    Aim("lenet300", "mixed", 2.51, "LC"),
    Aim("lenet300", "ranks, alpha 1e-06", 1.90, "LC"),
    Aim("lenet300-relu", "5% of the weights", 1.53, "sparse momentum"),
    Aim("lenet300-relu", "2% of the weights", 1.99, "sparse momentum"),
    Aim("lenet300-relu", "1% of the weights", 2.36, "sparse momentum"),
    Aim("lenet300-relu", "8000 bytes", 1.9, "entropy-penalised, 8,560 bytes"),
    Aim("lenet5", "1% of the weights", 1.1, "LC"),
    Aim("lenet5", "1% of the weights", 0.83, "sparse momentum"),
    Aim("lenet5", "2600 bytes", 0.69, "MIRACLE, 3,030 bytes"),
    Aim("lenet5", "1000 bytes", 0.96, "MIRACLE, 1,520 bytes"),
    Aim("resnet20", "binary, channels", 0.8, OURS, points=True, groups=LONGER),
    Aim("resnet20", "binary + 1 %", 0.2, OURS, points=True, groups=LONGER),
    Aim("resnet20", "ternary, channels", 0.2, OURS, points=True),
    Aim("resnet20", "4 values", 0.11, "PARQ", points=True),
    Aim("resnet20", "26.4 M multiply-adds", 0.41, "LC", points=True),
    Aim("resnet20", "17.4 M multiply-adds", 1.14, "LC", points=True),
    Aim("resnet56", "binary, channels", 0.5, OURS, points=True),
    Aim("resnet56", "binary + 1 %", 0.0, OURS, points=True, groups=LONGER),
    Aim("vgg16", "68.7 M multiply-adds", 0.0, OURS, points=True),
    Aim("vgg16", "68.7 M multiply-adds", 0.03, "LC", points=True),
)


def rows() -> list[dict[str, Any]]:
    """What is met, and by how much the others are missed."""
    found = []
    for aim in AIMS:
        for runs in filter(None, (measured(aim, group) for group in aim.groups)):
            over = (above(runs) if aim.points else mean(runs, "test_error")) - aim.most
            here = f"{above(runs):+.2f}{seeds(runs)}" if aim.points else error(runs)
            row = {
                "net": TITLES[aim.net],
                "compression": aim.compression,
                "aim": f"{aim.most:{'+' * aim.points}.2f}",
                "whose": aim.whose,
                "measured": here,
                "file bytes": f"{mean(runs, 'bytes'):,.0f}",
                "epochs": f"{runs[0]['settings']['epochs']:g}",
                "minutes": f"{max(runs[0]['row']['seconds'] / 60, 1):.0f}",
                "verdict": "met" if over < 1e-6 else f"missed by {over:.2f}",
            }
            found.append(row)
    return found


def measured(aim: Aim, group: str) -> list[Cell]:
    """LC with the settings that did best on held-out images.

    A ResNet's is with hard targets where that was run.
    """
    wanted: dict[str, Any] = {"net": aim.net, "group": group, "compression": aim.compression}
    return chosen(tabled(**wanted)) or chosen(of(**wanted))

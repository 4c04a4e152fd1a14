"""Tables of a plan and of a run."""

import math
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from leco.algorithm.lc import LC
from leco.algorithm.record import Record


def render(table: Table, width: int = 160) -> str:
    console = Console(width=width, no_color=True, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def plan(lc: LC) -> str:
    """Return a table of the plan: each parameter of the model with its task, shape, view and
    compression, or with none.

    >>> import leco, torch
    >>> lc = leco.LC(torch.nn.Linear(4, 2), leco.each(["weight"], leco.Vector(), leco.Binary()))
    >>> print(leco.plan(lc).splitlines()[-1])
    8 of 10 weights (80.00%) are in a task.
    """
    table = Table("parameter", "shape", "weights", "task", "view", "array", "compression")
    owner = {param: task for task, params in lc.names.items() for param in params}
    total = inside = 0
    for name, p in lc.model.named_parameters():
        total += p.numel()
        task = owner.get(name)
        row = [name, str(tuple(p.shape)), f"{p.numel():,}"]
        if task is None:
            table.add_row(*row, "-", "", "", "not compressed")
            continue
        inside += p.numel()
        array = lc.tasks[task].view.shape([lc.params[n].shape for n in lc.names[task]])
        how = lc.tasks[task].compression.label(array)
        table.add_row(*row, task, str(lc.tasks[task].view), _shape(array), how)
    share = inside / total if total else 0.0
    return render(table) + f"{inside:,} of {total:,} weights ({share:.2%}) are in a task.\n"


def _shape(array: Any) -> str:
    return (
        str(tuple(array))
        if isinstance(array, torch.Size)
        else " + ".join(str(tuple(block)) for block in array)
    )


def history(records: list[Record]) -> str:
    """Return a table of a run's records."""
    columns = (
        "step",
        "mu",
        "loss",
        "gap",
        "relative gap",
        "|lambda|",
        "price",
        "compressed loss",
        "compressed error",
        "bytes",
        "L s",
        "C s",
    )
    table = Table(*columns)
    for r in records:
        numbers = (
            r.mu,
            r.loss,
            r.gap,
            r.relative_gap,
            r.multiplier_norm,
            r.price,
            r.compressed_loss,
            r.compressed_error,
        )
        texts = ["" if math.isnan(n) else f"{n:.4g}" for n in numbers]
        seconds = ["" if math.isnan(n) else f"{n:.2f}" for n in (r.l_seconds, r.c_seconds)]
        table.add_row(
            str(r.step), *texts, "" if r.bits is None else f"{-(-r.bits // 8):,}", *seconds
        )
    return render(table)

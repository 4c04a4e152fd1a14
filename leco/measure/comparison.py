"""The changes from one net to another, and their tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table

from leco.measure.latency import Speed
from leco.measure.tables import render


class Change(NamedTuple):
    """A number of the net before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class LayerChange:
    """A layer of both nets, known by its qualified name: its classes, whether its class, weights or
    inputs differ, and what it costs."""

    kinds: tuple[str, str]
    changed: bool
    memory: Change
    multiply_adds: Change
    speeds: Mapping[int, Speed]

    def verdict(self, batch: int) -> str:
        """What compression does to the layer's time: "faster 3.10x", "slower 0.70x", "the same",
        "unclear"; "as it was" if nothing of it changed."""
        return self.speeds[batch].verdict if self.changed else "as it was"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; `print` it for the tables.

    Attributes:
        memory: bytes of the distinct tensors that the modules hold after they have run: parameters,
            buffers and others, such as caches.
        file: `dense_bytes` of the net before, and the file's length; None if no file was given.
        multiply_adds: for one input, of matrix products and convolutions
            (torch.utils.flop_counter).
        speeds: of the whole net, by batch size.
        layers: those that both nets call by name, on the inputs that reach them.
        skipped: why the other modules with tensors of their own are not among them, by name.
        setting: machine, threads, dtype, repeats.
    """

    memory: Change
    file: Change | None
    multiply_adds: Change
    speeds: Mapping[int, Speed]
    layers: Mapping[str, LayerChange]
    skipped: Mapping[str, str]
    setting: str

    def __str__(self) -> str:
        skipped = (
            f"not timed: {name or 'the net itself'}: {why}\n" for name, why in self.skipped.items()
        )
        return totals(self) + by_layer(self) + "".join(skipped)


def totals(c: Comparison) -> str:
    table = Table("", "before", "after", "")
    counts = {
        "bytes in memory": c.memory,
        "bytes on disk": c.file,
        "multiply-adds, one input": c.multiply_adds,
    }
    for name, change in counts.items():
        if change is not None:
            table.add_row(
                name,
                f"{change.before:,}",
                f"{change.after:,}",
                f"{change.before / change.after:.2f}x" if change.after else "",
            )
    for batch, speed in c.speeds.items():
        table.add_row(
            f"ms, batch {batch}",
            _ms(speed.before),
            _ms(speed.after),
            f"{speed.verdict} ({speed.low:.2f} to {speed.high:.2f})",
        )
    return render(table) + c.setting + "\n"


def by_layer(c: Comparison) -> str:
    """One row for each layer that changed, one for all others together."""
    table = Table(
        "layer",
        "before -> after",
        "bytes",
        "multiply-adds",
        *(f"ms, batch {batch}" for batch in c.speeds),
    )
    changed = {name: layer for name, layer in c.layers.items() if layer.changed}
    for name, layer in changed.items():
        times = [
            f"{_ms(s.before)} -> {_ms(s.after)}  {layer.verdict(batch)}"
            for batch, s in layer.speeds.items()
        ]
        table.add_row(
            name,
            " -> ".join(dict.fromkeys(layer.kinds)),
            _short([layer.memory]),
            _short([layer.multiply_adds]),
            *times,
        )
    rest = [layer for name, layer in c.layers.items() if name not in changed]
    if rest:
        table.add_row(*_others(c, rest))
    return render(table)


def _others(c: Comparison, rest: Sequence[LayerChange]) -> list[str]:
    """Return the row of all layers that did not change."""
    times = []
    for batch in c.speeds:
        before = sum(layer.speeds[batch].before for layer in rest)
        after = sum(layer.speeds[batch].after for layer in rest)
        times.append(f"{_ms(before)} -> {_ms(after)}  as they were")
    name = f"{len(rest)} other{'s' if len(rest) > 1 else ''}"
    sums = [_short([r.memory for r in rest]), _short([r.multiply_adds for r in rest])]
    return [name, "", *sums, *times]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:#.3g}".rstrip(".")


def _short(changes: Sequence[Change]) -> str:
    totals = dict.fromkeys(sum(values) for values in zip(*changes, strict=True))
    return " -> ".join(f"{n:,}" if n < 10**6 else f"{n / 10**6:,.2f} M" for n in totals)

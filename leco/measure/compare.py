"""A net before and after compression: bytes, multiply-adds, and the time that this machine takes,
for the net and for each layer."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from leco.files.save import dense_bytes
from leco.layers.flops import module_multiply_adds
from leco.measure.latency import Speed, layer_speeds, net_speed
from leco.measure.tables import render
from leco.theta.tree import leaves


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
    """What `compare` measured; `print` it for the tables.

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
        return (
            _totals(self)
            + _layers(self)
            + "".join(
                f"not timed: {name or 'the net itself'}: {why}\n"
                for name, why in self.skipped.items()
            )
        )


def compare(
    before: nn.Module,
    after: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    file: str | os.PathLike[str] | int | None = None,
    batches: Sequence[int] = (1, 64),
    repeats: int = 30,
) -> Comparison:
    """What compression changes: bytes in memory and on disk, multiply-adds, and measured time, of
    the net and of each layer by its name.

    The nets run in turns, in evaluation mode and inference mode, with torch's present number of
    threads, and are left as they were. Times of layers are taken in the running nets by forward
    hooks (which switch off fused paths such as that of nn.TransformerEncoderLayer), so that weights
    are as cold as they are in use. A layer is faster or slower if the interval of the ratio and a
    margin of 10 % say so.

    Args:
        before: the reference.
        after: the net in its compressed form: dense at Delta, factorised, packed, narrow.
        example_inputs: one tensor or several, all with the batch first. Rows are repeated, or left
            out, to make the batches.
        file: of the net after: its path, or its length in bytes.
        batches: batch sizes to time.
        repeats: samples for each net, of a millisecond at least; medians count.

    Raises:
        TypeError: `before` or `after` is no module, an input no tensor.
        ValueError: inputs of no or of different batch sizes, a batch or repeats below 1, nets that
            call no layer of the same name.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    >>> lc = leco.LC(net, leco.each(["0.weight"], leco.Matrix(), leco.LowRank(4)))
    >>> lc.mu = 1.0
    >>> found = leco.compare(net, leco.factorize(net, lc), torch.randn(8, 64), batches=[1], repeats=3)
    >>> found.multiply_adds, found.layers["0"].kinds, found.layers["2"].verdict(1)
    (Change(before=2368, after=704), ('Linear', 'Linear x 2'), 'as it was')
    """
    inputs = _check(before, after, example_inputs, batches, repeats)
    names = [
        name
        for name, module in before.named_modules()
        if list(_own(module)) and ".parametrizations." not in f".{name}."
    ]
    common = [name for name in names if _has(after, name)]
    speeds, timed = dict[int, Speed](), dict[int, dict[str, Speed]]()
    for batch in batches:
        rows = [x[torch.arange(batch, device=x.device) % len(x)] for x in inputs]
        speeds[batch] = net_speed(before, after, rows, repeats)
        timed[batch] = layer_speeds(before, after, common, rows, repeats)
    called = list(timed[batches[0]])
    layers = [name for name in called if not any(_inside(other, name) for other in called)]
    if not layers:
        others = [name for name, _ in after.named_modules() if name]
        raise ValueError(
            f"compare: the nets call no layer of the same name; before has {names[:3]}, after {others[:3]}"
        )
    one = [x[:1] for x in inputs]
    counts = [module_multiply_adds(net, *one) for net in (before, after)]
    return Comparison(
        Change(_memory(before), _memory(after)),
        None
        if file is None
        else Change(
            dense_bytes(before), file if isinstance(file, int) else Path(file).stat().st_size
        ),
        Change(*(count.get("", 0) for count in counts)),
        speeds,
        {
            name: _layer(
                name, before, after, counts, {batch: own[name] for batch, own in timed.items()}
            )
            for name in layers
        },
        {name: _why(name, common, called) for name in names if name not in layers},
        _setting(before, inputs, repeats),
    )


def _check(
    before: object, after: object, example_inputs: object, batches: Sequence[int], repeats: int
) -> tuple[Tensor, ...]:
    for what, net in (("before", before), ("after", after)):
        if not isinstance(net, nn.Module):
            raise TypeError(f"compare: {what} is a {type(net).__name__}, must be an nn.Module")
    inputs = (
        (example_inputs,)
        if isinstance(example_inputs, Tensor)
        else tuple(example_inputs)
        if isinstance(example_inputs, Sequence)
        else None
    )
    if inputs is None or not all(isinstance(x, Tensor) for x in inputs):
        kinds = (
            [type(x).__name__ for x in inputs]
            if inputs is not None
            else type(example_inputs).__name__
        )
        raise TypeError(
            f"compare: example_inputs are {kinds}, must be a tensor or a sequence of tensors"
        )
    sizes = {tuple(x.shape[:1]) for x in inputs}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        shapes = [tuple(x.shape) for x in inputs]
        raise ValueError(
            f"compare: example_inputs of shapes {shapes} must have one batch size, of at least 1, as their first one"
        )
    if not batches or min(batches) < 1 or repeats < 1:
        raise ValueError(
            f"compare: batches = {tuple(batches)} and repeats = {repeats} must be at least 1, with one batch or more"
        )
    return inputs


def _own(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that the module itself holds: parameters, buffers, and attributes such as a cache of
    decoded weights."""
    for held in (module._parameters, module._buffers, vars(module)):
        for value in held.values():
            yield from leaves(value) if isinstance(value, Tensor | tuple) else ()


def _memory(module: nn.Module) -> int:
    return sum({id(t): t.nbytes for m in module.modules() for t in _own(m)}.values())


def _has(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), nn.Module)
    except AttributeError:
        return False


def _inside(name: str, container: str) -> bool:
    return name != container and name.startswith(f"{container}." if container else "")


def _why(name: str, common: Sequence[str], called: Sequence[str]) -> str:
    if name not in common:
        return "the net after has no module of this name"
    return "it holds layers that are" if name in called else "not both nets call it as a module"


def _layer(
    name: str,
    before: nn.Module,
    after: nn.Module,
    counts: Sequence[Mapping[str, int]],
    speeds: Mapping[int, Speed],
) -> LayerChange:
    one, other = before.get_submodule(name), after.get_submodule(name)
    states = [dict(net.state_dict()) for net in (one, other)]
    same = type(one) is type(other) and states[0].keys() == states[1].keys()
    same = same and all(
        torch.equal(value, states[1][key])
        for key, value in states[0].items()
        if isinstance(value, Tensor)
    )
    adds = Change(*(count.get(name, 0) for count in counts))
    return LayerChange(
        (_kind(one), _kind(other)),
        not same or adds.before != adds.after,
        Change(_memory(one), _memory(other)),
        adds,
        speeds,
    )


def _kind(module: nn.Module) -> str:
    if not isinstance(module, nn.Sequential):
        return type(module).__name__
    kinds = [type(layer).__name__ for layer in module]
    return f"{kinds[0]} x {len(kinds)}" if len(set(kinds)) == 1 else " + ".join(kinds)


def _setting(model: nn.Module, inputs: Sequence[Tensor], repeats: int) -> str:
    dtypes = sorted(
        {
            str(x.dtype).removeprefix("torch.")
            for x in (*model.parameters(), *inputs)
            if x.is_floating_point()
        }
    )
    threads = torch.get_num_threads()
    where = f"{inputs[0].device.type} ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"
    return f"{', '.join(dtypes)} on {where}; medians of {repeats} samples taken in turns"


def _totals(c: Comparison) -> str:
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


def _layers(c: Comparison) -> str:
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
        sums = [
            [
                sum(getattr(layer.speeds[batch], when) for layer in rest)
                for when in ("before", "after")
            ]
            for batch in c.speeds
        ]
        times = [f"{_ms(before)} -> {_ms(after)}  as they were" for before, after in sums]
        name = f"{len(rest)} other{'s' if len(rest) > 1 else ''}"
        table.add_row(
            name,
            "",
            _short([r.memory for r in rest]),
            _short([r.multiply_adds for r in rest]),
            *times,
        )
    return render(table)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:#.3g}".rstrip(".")


def _short(changes: Sequence[Change]) -> str:
    totals = dict.fromkeys(sum(values) for values in zip(*changes, strict=True))
    return " -> ".join(f"{n:,}" if n < 10**6 else f"{n / 10**6:,.2f} M" for n in totals)

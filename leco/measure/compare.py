"""A net before and after compression: bytes, multiply-adds, and the time that this machine takes,
for the net and for each layer."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from leco.files.save import dense_bytes
from leco.layers.flops import module_multiply_adds
from leco.layers.inputs import Given, Inputs, given
from leco.measure.comparison import Change, Comparison
from leco.measure.latency import Speed, layer_speeds, net_speed
from leco.measure.layer_changes import layer_change, memory, own_tensors


def compare(
    before: nn.Module,
    after: nn.Module,
    example_inputs: Inputs,
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
        after: the net in its compressed form: dense at Delta, factorised, packed or narrow.
        example_inputs: one tensor, several, or a dict of arguments by name; all tensors with the
            batch first. Rows are repeated, or left
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
    >>> small = leco.factorize(net, lc)
    >>> found = leco.compare(net, small, torch.randn(8, 64), batches=[1], repeats=3)
    >>> found.multiply_adds, found.layers["0"].kinds, found.layers["2"].verdict(1)
    (Change(before=2368, after=704), ('Linear', 'Linear x 2'), 'as it was')
    """
    inputs = _check(before, after, example_inputs, batches, repeats)
    names = _layer_names(before)
    common = [name for name in names if _has(after, name)]

    # measured time
    speeds, timed = dict[int, Speed](), dict[int, dict[str, Speed]]()
    for batch in batches:
        rows = inputs.mapped(lambda x, n=batch: x[torch.arange(n, device=x.device) % len(x)])
        speeds[batch] = net_speed(before, after, rows, repeats)
        timed[batch] = layer_speeds(before, after, common, rows, repeats)
    called = list(timed[batches[0]])
    layers = [name for name in called if not any(_inside(other, name) for other in called)]
    _check_layers(layers, names, after)

    # counts
    counts = [module_multiply_adds(net, inputs.mapped(lambda x: x[:1])) for net in (before, after)]
    changes = {}
    for name in layers:
        own = {batch: found[name] for batch, found in timed.items()}
        changes[name] = layer_change(name, before, after, counts, own)
    return Comparison(
        Change(memory(before), memory(after)),
        None if file is None else Change(dense_bytes(before), _bytes_of(file)),
        Change(*(count.get("", 0) for count in counts)),
        speeds,
        changes,
        {name: _why(name, common, called) for name in names if name not in layers},
        _setting(before, inputs, repeats),
    )


def _layer_names(net: nn.Module) -> list[str]:
    """The modules with tensors of their own."""
    return [
        name
        for name, module in net.named_modules()
        if list(own_tensors(module)) and ".parametrizations." not in f".{name}."
    ]


def _check_layers(layers: Sequence[str], names: Sequence[str], after: nn.Module) -> None:
    """Raise ValueError where there is nothing to compare."""
    if not layers:
        others = [name for name, _ in after.named_modules() if name]
        raise ValueError(
            f"compare: the nets call no layer of the same name; before has {names[:3]}, "
            f"after {others[:3]}"
        )


def _bytes_of(file: str | os.PathLike[str] | int) -> int:
    return file if isinstance(file, int) else Path(file).stat().st_size


def _check(
    before: object, after: object, example_inputs: object, batches: Sequence[int], repeats: int
) -> Given:
    """The inputs, after all checks."""
    for what, net in (("before", before), ("after", after)):
        if not isinstance(net, nn.Module):
            raise TypeError(f"compare: {what} is a {type(net).__name__}, must be an nn.Module")
    inputs = _tensors(example_inputs)
    sizes = {tuple(x.shape[:1]) for x in inputs.tensors}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        shapes = [tuple(x.shape) for x in inputs.tensors]
        raise ValueError(
            f"compare: example_inputs of shapes {shapes} must have one batch size, "
            "of at least 1, as their first one"
        )
    if not batches or min(batches) < 1 or repeats < 1:
        raise ValueError(
            f"compare: batches = {tuple(batches)} and repeats = {repeats} must be at least 1, "
            "with one batch or more"
        )
    return inputs


def _tensors(example_inputs: object) -> Given:
    if isinstance(example_inputs, Tensor | Mapping):
        return given(example_inputs)
    kinds: object = type(example_inputs).__name__
    if isinstance(example_inputs, Sequence):
        if all(isinstance(x, Tensor) for x in example_inputs):
            return given(example_inputs)
        kinds = [type(x).__name__ for x in example_inputs]
    raise TypeError(
        f"compare: example_inputs are {kinds}, must be a tensor, a sequence of tensors or a dict"
    )


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


def _setting(model: nn.Module, inputs: Given, repeats: int) -> str:
    dtypes = sorted(
        {
            str(x.dtype).removeprefix("torch.")
            for x in (*model.parameters(), *inputs.tensors)
            if x.is_floating_point()
        }
    )
    threads = torch.get_num_threads()
    machine = f"{inputs.tensors[0].device.type} ({platform.machine()})"
    where = f"{machine}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"
    return f"{', '.join(dtypes)} on {where}; medians of {repeats} samples taken in turns"

"""Methods that compress the blocks of a net: those of others, direct compression, and LC."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

import leco
from benchmarks import timing
from benchmarks.baselines.oneshot import layer_error
from benchmarks.layerwise import stream
from benchmarks.layerwise.rows import Layer, Row
from benchmarks.layerwise.stream import Batch

WITHOUT_INPUTS = ("RTN", "HQQ", "magnitude", "DC", "dense")
# epochs of each block and, towards the dense net's outputs, of the whole
POLISH = {"LC": (0, 0), "LC, polished": (4, 0), "LC, distilled": (4, 1)}
EFFECTS = 4  # batches that measure what the net's output suffers from each layer
Found = dict[str, Any]


def direct(row: Row, *, metric: bool) -> Layer:
    """One C step of the weights, in the metric of the layer's inputs or without."""

    def compress(w0: Tensor, h: Tensor) -> Tensor:
        compression = row.compression((w0.shape[0], w0.shape[1]))
        x = row.view.forward([w0])
        if metric:
            d = h.diagonal() + 0.01 * h.diagonal().mean()
            mu: Any = row.view.forward([d.expand_as(w0).contiguous().to(w0.dtype)])
        else:
            mu = 1.0
        theta = compression.compress(x, mu)
        return row.view.backward(theta.decompress(), [w0.shape])[0]

    return compress


def by_layers(row: Row) -> dict[str, Layer]:
    """The methods of a row that compress one layer at a time."""
    own = {"DC": direct(row, metric=False), "DC in the metric": direct(row, metric=True)}
    return {**row.peers, **own}


def of(row: Row) -> tuple[str, ...]:
    """The names of all methods of a row."""
    return (*POLISH,) if row.mixed else (*by_layers(row), *POLISH)


def run_(
    net: nn.Module,
    blocks: Sequence[nn.Module],
    row: Row,
    method: str,
    batches: Sequence[Batch],
    checkpoint: Path | None = None,
    table: Path | None = None,
) -> Found:
    """Compress the net by a method in the format of a row; its seconds, errors and memory.

    The arguments are those of `lc_`.
    """
    found: Found = {}

    def solve() -> None:
        if method in POLISH:
            found.update(lc_(net, blocks, row, batches, *POLISH[method], checkpoint, table))
            return
        layer = by_layers(row)[method]
        if method in WITHOUT_INPUTS:
            found.update(compress_without_inputs_(blocks, layer))
        else:
            found.update(compress_(net, blocks, layer, batches))

    memory = timing.peak_bytes(solve)
    return {**found, "memory_bytes": memory}


def compress_(
    net: nn.Module, blocks: Sequence[nn.Module], layer: Layer, batches: Sequence[Batch]
) -> Found:
    """Replace the weights of all blocks, with inputs from the compressed blocks before.

    Returns: processor seconds of the solves and of the whole, and the mean relative error of each
    kind of layer.
    """
    errors: dict[str, list[float]] = {}

    def compress(name: str, w0: Tensor, h: Tensor) -> Tensor:
        found = layer(w0, h)
        errors.setdefault(name.rsplit(".", 1)[-1], []).append(layer_error(found, w0, h))
        return found

    times = stream.compress_(net, blocks, batches, compress)
    means = {kind: sum(every) / len(every) for kind, every in errors.items()}
    return {**times, "errors": means}


@torch.no_grad()
def compress_without_inputs_(blocks: Sequence[nn.Module], layer: Layer) -> Found:
    """The same for methods that look at the weights alone."""
    start = time.process_time()
    for block in blocks:
        for module in stream.layers_of(block).values():
            w0 = module.weight.flatten(1)
            module.weight.copy_(layer(w0, torch.eye(w0.shape[1])).view_as(module.weight))
    seconds = time.process_time() - start
    return {"solve_cpu_seconds": seconds, "cpu_seconds": seconds, "errors": {}}


def lc_(
    net: nn.Module,
    blocks: Sequence[nn.Module],
    row: Row,
    batches: Sequence[Batch],
    polish: int = 0,
    distill: int = 0,
    checkpoint: Path | None = None,
    table: Path | None = None,
) -> Found:
    """Replace the weights of all blocks by those of `leco.calibrate`, then of `leco.distill`.

    Args:
        net: overwritten.
        blocks: of the net, in order.
        row: its view and compression make a task for each matrix; or it has tasks for all.
        batches: named arguments of the net.
        polish: epochs of each block.
        distill: epochs of the whole net towards the dense one.
        checkpoint: a folder; a later call goes on from there.
        table: a file for the sensitivities of all matrices; a later call reads it.

    Returns: like `compress_`; the solves have the share of the processor time that they have of the
    seconds, and what is resumed has no times. `coded_bytes` is what the Thetas take in a file. Rows
    with tasks for all matrices count the time in which they find these in the whole.
    """
    files = {file.name for file in checkpoint.glob("*.pt")} if checkpoint is not None else set()
    start, found = time.process_time(), dict[str, Any]()
    dense = copy.deepcopy(net) if distill else None
    lc = leco.LC(net, tasks_of(net, blocks, row, batches, table))
    begin = time.process_time()
    kept: Any = {"progress": False, "checkpoint": checkpoint}
    result = leco.calibrate(lc, batches, blocks=blocks, polish=polish, **kept)
    end = time.process_time()
    solves = sum(record.seconds for record in result.records) / result.seconds
    if dense is not None:
        losses = leco.distill(lc, dense, batches, epochs=distill, **kept)
        found["first_loss"], found["last_loss"] = mean(losses[:4]), mean(losses[-4:])
        if "distill.pt" not in files:
            found["distill_cpu_seconds"] = time.process_time() - end
    if not files:
        found["solve_cpu_seconds"] = solves * (end - begin)
        found["cpu_seconds"] = time.process_time() - start

    # errors by kinds of layers
    errors: dict[str, list[float]] = {}
    for record in result.records:
        errors.setdefault(record.task.split(".")[-2], []).append(record.error)
    return {
        **found,
        "errors": {kind: sum(every) / len(every) for kind, every in errors.items()},
        "coded_bytes": sum(leco.bits(theta) for theta in lc.thetas.values()) / 8,
    }


def tasks_of(
    net: nn.Module,
    blocks: Sequence[nn.Module],
    row: Row,
    batches: Sequence[Batch],
    kept: Path | None = None,
) -> dict[str, leco.Task]:
    """The tasks of a row: one for each matrix in its format, or by the sensitivity of all."""
    own = matrices(net, blocks)
    if row.mixed is None:
        return {
            name: leco.Task(name, row.view, row.compression((len(p), p[0].numel())))
            for name, p in own.items()
        }
    if kept is not None and kept.exists():
        table = leco.Sensitivity.load(kept)
    else:
        options: Any = {"blocks": blocks, "effects": EFFECTS, "progress": False}
        table = leco.sensitivity(net, own, row.mixed.candidates, batches, **options)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            table.save(kept)
    if not row.mixed.weighed:
        table.weights = {}
    limit = sum(sizes[row.mixed.size_of] for sizes in table.bits.values()) / 8
    return table.tasks(row.mixed.candidates, limit)


def matrices(net: nn.Module, blocks: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """The weights of all layers of the blocks by their names in the net."""
    of_blocks = {id(m) for block in blocks for m in stream.layers_of(block).values()}
    names = [f"{name}.weight" for name, m in net.named_modules() if id(m) in of_blocks]
    return {name: net.get_parameter(name) for name in names}

"""Methods that compress the blocks of a net: those of others, direct compression, and LC."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import leco
from benchmarks.baselines.oneshot import layer_error
from benchmarks.layerwise import stream
from benchmarks.layerwise.rows import Layer, Row

WITHOUT_INPUTS = ("RTN", "HQQ", "magnitude", "DC", "dense")
POLISH = {"LC": 0, "LC, polished": 4}  # epochs of each block
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
    return (*by_layers(row), *POLISH)


def compress_(net: Any, layer: Layer, sequences: Tensor) -> Found:
    """Replace the weights of all blocks, with inputs from the compressed blocks before.

    Returns: processor seconds of the solves and of the whole, and the mean relative error of each
    kind of layer.
    """
    errors: dict[str, list[float]] = {}

    def compress(name: str, w0: Tensor, h: Tensor) -> Tensor:
        found = layer(w0, h)
        errors.setdefault(name.rsplit(".", 1)[-1], []).append(layer_error(found, w0, h))
        return found

    times = stream.compress_(net, sequences, compress)
    means = {kind: sum(every) / len(every) for kind, every in errors.items()}
    return {**times, "errors": means}


@torch.no_grad()
def compress_without_inputs_(net: Any, layer: Layer) -> Found:
    """The same for methods that look at the weights alone."""
    start = time.process_time()
    for block in net.model.layers:
        for module in stream.linears(block).values():
            identity = torch.eye(module.in_features)
            module.weight.copy_(layer(module.weight, identity))
    seconds = time.process_time() - start
    return {"solve_cpu_seconds": seconds, "cpu_seconds": seconds, "errors": {}}


def lc_(
    net: Any, row: Row, sequences: Tensor, polish: int, checkpoint: Path | None = None
) -> Found:
    """Replace the weights of all blocks by those of `leco.calibrate`.

    Args:
        net: overwritten.
        row: its view and compression make a task for each matrix.
        sequences: of tokens (count, length).
        polish: epochs of each block.
        checkpoint: a folder; a later call goes on from there.

    Returns: like `compress_`; the solves have the share of the processor time that they have of the
    seconds, and a resumed calibration has no times. `coded_bytes` is what the Thetas take in a
    file.
    """
    resumed = checkpoint is not None and any(checkpoint.glob("*.pt"))
    tasks = {
        name: leco.Task(name, row.view, row.compression((p.shape[0], p.shape[1])))
        for name, p in matrices(net).items()
    }
    lc = leco.LC(net, tasks)
    batches = [{"input_ids": ids[None], "use_cache": False} for ids in sequences]
    start = time.process_time()
    found = leco.calibrate(lc, batches, polish=polish, progress=False, checkpoint=checkpoint)
    seconds = time.process_time() - start

    # errors by kinds of layers
    errors: dict[str, list[float]] = {}
    for record in found.records:
        errors.setdefault(record.task.split(".")[-2], []).append(record.error)
    solves = sum(record.seconds for record in found.records) / found.seconds
    times = {"solve_cpu_seconds": solves * seconds, "cpu_seconds": seconds}
    return {
        **({} if resumed else times),
        "errors": {kind: sum(every) / len(every) for kind, every in errors.items()},
        "coded_bytes": sum(leco.bits(theta) for theta in lc.thetas.values()) / 8,
    }


def matrices(net: Any) -> dict[str, torch.nn.Parameter]:
    """The weights of all Linear layers of the blocks by their names in the net."""
    of_blocks = {id(m) for block in net.model.layers for m in stream.linears(block).values()}
    return {f"{n}.weight": m.weight for n, m in net.named_modules() if id(m) in of_blocks}

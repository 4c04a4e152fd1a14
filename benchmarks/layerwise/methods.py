"""Methods that compress the blocks of a net: those of others, and direct compression."""

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines.oneshot import layer_error
from benchmarks.layerwise import stream
from benchmarks.layerwise.rows import Layer, Row

WITHOUT_INPUTS = ("RTN", "HQQ", "magnitude", "DC", "dense")
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

"""How much the output of a net suffers from the error of each layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines.oneshot import layer_error
from benchmarks.layerwise import stream
from benchmarks.layerwise.rows import Layer
from benchmarks.layerwise.stream import Batch

JUDGED = 4  # batches that the outputs are compared on


@torch.no_grad()
def effects(
    net: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Batch], layer: Layer
) -> dict[str, float]:
    """Of each weight the relative squared error of the net's output by that of its layer's, where
    `layer`, a method such as GPTQ, compresses this weight alone. The net stays as it is.

    Its layer's error is of the kind that LC leaves, small where the inputs are large.
    """
    compressed, errors = dict[str, Tensor](), dict[str, float]()

    def keep(name: str, w0: Tensor, h: Tensor) -> Tensor:
        compressed[name] = layer(w0, h)
        errors[name] = layer_error(compressed[name], w0, h)
        return w0

    stream.compress_(net, blocks, batches, keep)
    every = len(batches) // JUDGED or 1
    some = batches[every // 2 :: every]
    dense, found = outputs(net, some), {}
    for name, own in compressed.items():
        weight = net.get_parameter(f"{name}.weight")
        before = weight.clone()
        weight.copy_(own.view_as(weight))
        found[f"{name}.weight"] = distance(outputs(net, some), dense) / errors[name]
        weight.copy_(before)
    return found


def outputs(net: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
    """The first output of each batch."""
    found: list[Any] = [net(**batch) for batch in batches]
    return [each if isinstance(each, Tensor) else each[0] for each in found]


def distance(ours: Sequence[Tensor], dense: Sequence[Tensor]) -> float:
    """The relative squared error of all outputs."""
    error = sum(float((a - b).square().sum()) for a, b in zip(ours, dense, strict=True))
    return error / sum(float(b.square().sum()) for b in dense)

"""Blocks in order: each block's second moments from the compressed blocks before it.

A batch is the named arguments of the net. Convolutions are matrices (out, in) here: their inputs
are the patches.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = dict[str, Any]
Layer = nn.Linear | nn.Conv2d
Others = list[dict[str, Any]]
Compress = Callable[[str, Tensor, Tensor], Tensor]
"""A layer's name, its weights W0 (out, in) and its second moments H (in, in) to new weights."""


class ReachedError(Exception):
    """Raised by a hook once the first block's inputs are known."""


def layers_of(block: nn.Module) -> dict[str, Layer]:
    """The Linear layers and convolutions of a block, which may be one, by their names in it."""
    return {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def rows_of(layer: Layer, x: Tensor) -> Tensor:
    """What the layer's matrix is multiplied with (n, in): inputs, or the patches of images."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert layer.groups == 1
    assert not isinstance(layer.padding, str)
    found = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return found.mT.flatten(0, 1)


@torch.no_grad()
def inputs(
    net: nn.Module, first: nn.Module, batches: Sequence[Batch]
) -> tuple[list[Tensor], Others]:
    """Of each batch the hidden states before the first block, and the blocks' other inputs."""
    hidden: list[Tensor] = []
    others: Others = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0] if args else kwargs.pop("hidden_states"))
        others.append({**dict(zip(_names(first), args[1:], strict=False)), **kwargs})
        raise ReachedError

    handle = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for batch in batches:
            try:
                net(**batch)
            except ReachedError:
                continue
    finally:
        handle.remove()
    return hidden, others


def _names(block: nn.Module) -> list[str]:
    """Of the arguments of a block after the first."""
    return list(inspect.signature(block.forward).parameters)[1:]


def through(block: nn.Module, hidden: Tensor, others: dict[str, Any]) -> Tensor:
    """The block's output, a tensor."""
    found = block(hidden, **others)
    return found[0] if isinstance(found, tuple) else found


class Moments:
    """Sums of X X' of the inputs of layers, one sum for layers that get the same tensor."""

    def __init__(self, layers: dict[str, Layer]) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = dict.fromkeys(layers, 0)
        self.same: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None
        self._handles = [
            layer.register_forward_pre_hook(self._adding(name, layer))
            for name, layer in layers.items()
        ]

    def _adding(self, name: str, layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if self._last is not None and self._last[1] is x:  # q, k and v
                self.same[name] = self._last[0]
                return
            self._last = name, x
            flat = rows_of(layer, x)
            own = self.sums.setdefault(name, flat.new_zeros(flat.shape[1], flat.shape[1]))
            own.addmm_(flat.T, flat)
            self.counts[name] += len(flat)

        return add

    def of(self, name: str) -> Tensor:
        """H = X X'/n of a layer."""
        own = self.same.get(name, name)
        return self.sums[own] / self.counts[own]

    def close(self) -> None:
        self._last = None
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def blockwise(
    blocks: Sequence[nn.Module], hidden: list[Tensor], others: Others
) -> Iterator[tuple[int, dict[str, Layer], Moments]]:
    """Each block with the moments of its layers; when you have compressed it, its output follows.

    `hidden` is overwritten by the outputs of each block, sequence by sequence.
    """
    for k, block in enumerate(blocks):
        layers = layers_of(block)
        moments = Moments(layers)
        try:
            for state, own in zip(hidden, others, strict=True):
                if layers:
                    through(block, state, own)
        finally:
            moments.close()
        yield k, layers, moments
        if k + 1 < len(blocks):
            for i, state in enumerate(hidden):
                hidden[i] = through(block, state, others[i])


@torch.no_grad()
def compress_(
    net: nn.Module, blocks: Sequence[nn.Module], batches: Sequence[Batch], compress: Compress
) -> dict[str, float]:
    """Replace the weights of all layers of the blocks, block after block.

    Returns: seconds of processor time of the solves and of the whole.
    """
    start, solves = time.process_time(), 0.0
    names = {id(module): name for name, module in net.named_modules()}
    hidden, others = inputs(net, blocks[0], batches)
    for _, layers, moments in blockwise(blocks, hidden, others):
        begin = time.process_time()
        for name, layer in layers.items():
            found = compress(names[id(layer)], layer.weight.flatten(1), moments.of(name))
            layer.weight.copy_(found.view_as(layer.weight))
        solves += time.process_time() - begin
    return {"solve_cpu_seconds": solves, "cpu_seconds": time.process_time() - start}

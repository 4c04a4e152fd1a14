"""Blocks in order: each block's second moments from the compressed blocks before it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Compress = Callable[[str, Tensor, Tensor], Tensor]
"""A layer's name, its weights W0 (out, in) and its second moments H (in, in) to new weights."""


class ReachedError(Exception):
    """Raised by a hook once the first block's inputs are known."""


def linears(block: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers of a block by their names in it."""
    return {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}


@torch.no_grad()
def inputs(net: nn.Module, first: nn.Module, sequences: Tensor) -> tuple[list[Tensor], Any]:
    """The hidden states of each sequence before the first block, and the block's other inputs."""
    hidden: list[Tensor] = []
    others: dict[str, Any] = {}

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0] if args else kwargs.pop("hidden_states"))
        others.update(kwargs)
        raise ReachedError

    handle = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for ids in sequences:
            try:
                net(ids[None], use_cache=False)
            except ReachedError:
                continue
    finally:
        handle.remove()
    return hidden, others


def through(block: nn.Module, hidden: Tensor, others: dict[str, Any]) -> Tensor:
    """The block's output, a tensor."""
    found = block(hidden, **others)
    return found[0] if isinstance(found, tuple) else found


class Moments:
    """Sums of X X' of the inputs of layers, one sum for layers that get the same tensor."""

    def __init__(self, layers: dict[str, nn.Linear]) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = dict.fromkeys(layers, 0)
        self.same: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None
        self._handles = [
            layer.register_forward_pre_hook(self._adding(name)) for name, layer in layers.items()
        ]

    def _adding(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if self._last is not None and self._last[1] is x:  # q, k and v
                self.same[name] = self._last[0]
                return
            self._last = name, x
            flat = x.reshape(-1, x.shape[-1])
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
    blocks: list[nn.Module], hidden: list[Tensor], others: dict[str, Any]
) -> Iterator[tuple[int, dict[str, nn.Linear], Moments]]:
    """Each block with the moments of its layers; when you have compressed it, its output follows.

    `hidden` is overwritten by the outputs of each block, sequence by sequence.
    """
    for k, block in enumerate(blocks):
        layers = linears(block)
        moments = Moments(layers)
        try:
            for state in hidden:
                through(block, state, others)
        finally:
            moments.close()
        yield k, layers, moments
        if k + 1 < len(blocks):
            for i, state in enumerate(hidden):
                hidden[i] = through(block, state, others)


@torch.no_grad()
def compress_(net: Any, sequences: Tensor, compress: Compress) -> dict[str, float]:
    """Replace the weights of all Linear layers of the blocks, block after block.

    Returns: seconds of processor time of the solves and of the whole.
    """
    start, solves = time.process_time(), 0.0
    blocks: list[nn.Module] = list(net.model.layers)
    hidden, others = inputs(net, blocks[0], sequences)
    for k, layers, moments in blockwise(blocks, hidden, others):
        begin = time.process_time()
        for name, layer in layers.items():
            found = compress(f"model.layers.{k}.{name}", layer.weight, moments.of(name))
            layer.weight.copy_(found)
        solves += time.process_time() - begin
    return {"solve_cpu_seconds": solves, "cpu_seconds": time.process_time() - start}

"""Training what Theta leaves free in a block, and the block's norms and biases, towards the dense
block's output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import leco.distributed as distributed
from leco.compressions.checks import full_dtype
from leco.layerwise.stream import Stream
from leco.task import Task
from leco.theta import Theta
from leco.theta.tree import free_leaves, with_free_leaves

RATE = 0.01  # of Adam, as a share of the root mean square of each tensor
TOKENS = 3  # dimensions of hidden states (batch, tokens, features)


@dataclass
class Piece:
    """A task of a block: its Theta, and the names and shapes of its parameters in the block."""

    task: Task
    theta: Theta
    names: list[str]
    shapes: list[torch.Size]

    def weights(self, theta: Theta) -> dict[str, Tensor]:
        parts = self.task.view.backward(theta.decompress(), self.shapes)
        return dict(zip(self.names, parts, strict=True))


def polished(
    stream: Stream,
    block: int,
    targets: Callable[[int], Tensor],
    pieces: Mapping[str, Piece],
    rest: Mapping[str, Tensor],
    epochs: int,
) -> tuple[dict[str, Theta], dict[str, Tensor], float, float]:
    """Minimise the error of the block's outputs by Adam, a batch of each rank a step, with a rate
    that falls to 0 linearly.

    The error is `error_of`: relative to each token's output, as the norms of later layers see it.

    Args:
        stream: the hidden states before the block, of the compressed net.
        block: its number.
        targets: the dense block's output of a batch, of the dense net's hidden states.
        pieces: the block's tasks by name.
        rest: the block's norms and biases, by name in the block.
        epochs: passes over the batches.

    Returns:
        The Thetas, the rest, and the relative error before and after. Where it is no better, they
        are the ones given.
    """
    module = stream.blocks[block]
    free = {n: [leaf.detach().clone() for leaf in free_leaves(p.theta)] for n, p in pieces.items()}
    own = {name: value.detach().clone() for name, value in rest.items()}
    leaves = [leaf for each in free.values() for leaf in each] + list(own.values())
    leaves = [leaf.requires_grad_() for leaf in leaves if leaf.numel()]

    def thetas() -> dict[str, Theta]:
        return {n: with_free_leaves(p.theta, free[n]) for n, p in pieces.items()}

    def error(number: int, found: Mapping[str, Theta]) -> Tensor:
        weights = dict(own)
        for n, piece in pieces.items():
            weights |= piece.weights(found[n])
        return _error(stream, module, block, number, targets(number), weights)

    def total(found: Mapping[str, Theta]) -> float:
        with torch.no_grad():
            errors = [error(number, found) for number in range(len(stream.hidden))]
        return distributed.mean([float(torch.stack(errors).mean())])[0]

    before = total(thetas())
    if not leaves:
        return thetas(), dict(rest), before, before

    # train
    groups = [
        {"params": [leaf], "lr": RATE * float(leaf.detach().square().mean().sqrt())}
        for leaf in leaves
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    steps = epochs * len(stream.hidden)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    for k in range(steps):
        with torch.enable_grad():
            loss = error(k % len(stream.hidden), thetas())
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = None if gradient is None else distributed.mean_(gradient.contiguous())
        optimizer.step()
        schedule.step()

    # in the set, and better than before
    with torch.no_grad():
        found = {
            n: piece.task.compression.feasible(
                with_free_leaves(piece.theta, [leaf.detach() for leaf in free[n]])
            )
            for n, piece in pieces.items()
        }
    after = total(found)
    if not after < before:
        return {n: p.theta for n, p in pieces.items()}, dict(rest), before, before
    return found, {name: value.detach() for name, value in own.items()}, before, after


def _error(
    stream: Stream,
    module: nn.Module,
    block: int,
    number: int,
    target: Tensor,
    weights: dict[str, Tensor],
) -> Tensor:
    """`error_of` the block with these weights on a batch."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return functional_call(module, weights, args, kwargs)

    return error_of(stream.run(forward, block, number), target)


def error_of(output: Tensor, target: Tensor) -> Tensor:
    """The mean over tokens of ||output - target||^2 / ||target||^2 for hidden states (batch,
    tokens, features); for other shapes that ratio of the whole batch.

    Few tokens have a hundred times the norm of the others (Sun et al., arXiv 2402.17762). In a
    ratio of the whole batch the others do not count. Tokens whose target is 0 do not count.
    """
    dtype = full_dtype(target.dtype)
    gap, energy = (output - target).to(dtype).square(), target.to(dtype).square()
    if target.dim() != TOKENS:
        return gap.sum() / energy.sum()
    energy = energy.sum(-1)
    return (gap.sum(-1) / energy.where(energy > 0, torch.inf)).mean()

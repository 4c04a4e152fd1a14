"""What the output of a net suffers from the error of each layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor, nn

from leco.layerwise.stream import Stream, call, tensors
from leco.layerwise.units import units_of
from leco.task import Task
from leco.theta import Theta


class Alone(NamedTuple):
    """A task with a Theta that is to be the only one in the net, the relative error of its layer,
    and its parameters by name."""

    task: Task
    theta: Theta
    error: float
    params: Mapping[str, nn.Parameter]


@torch.no_grad()
def effects_of(
    model: nn.Module,
    every: Mapping[str, Alone],
    batches: Sequence[Any],
    blocks: Sequence[nn.Module] = (),
    progress: bool = False,
) -> dict[str, float]:
    """Of each task the relative squared error of the model's output where its weights alone are
    Delta(Theta), by its layer's error. The model stays as it is.

    A task inside a block takes a pass from that block on: the inputs of the block are those in the
    dense net. On average this is half a pass. Other tasks take a whole pass.
    """
    stream = Stream(model, blocks, batches)
    dense = [_first(call(model, batch)) for batch in batches]
    params = {n: p for alone in every.values() for n, p in alone.params.items()}
    at = units_of({name: list(alone.params) for name, alone in every.items()}, params, blocks)
    found = dict[str, float]()
    with Progress(disable=not progress) as bar:
        line = bar.add_task("effects", total=len(every))

        # outside of the blocks, or in several
        for name in (n for n, block in at.items() if block in (None, -1)):
            with _alone(every[name]):
                ours = [_first(call(model, batch)) for batch in batches]
            found[name] = _distance(ours, dense) / every[name].error
            bar.advance(line)

        # block by block
        if blocks:
            stream.check()
            stream.before()
        for i in range(len(blocks)):
            for name in (n for n, block in at.items() if block == i):
                with _alone(every[name]):
                    ours = _outputs_from(stream, i)
                found[name] = _distance(ours, dense) / every[name].error
                bar.advance(line)
            stream.advance(i)
    return found


def _outputs_from(stream: Stream, i: int) -> list[Tensor]:
    """The outputs of the net for hidden states that are the inputs of block i."""
    own = stream.fork()
    for j in range(i, len(own.blocks)):
        own.advance(j)
    return [_first(returned) for returned in own.outputs()]


@contextmanager
def _alone(alone: Alone) -> Iterator[None]:
    """Inside, the parameters of the task are Delta(Theta)."""
    task, theta, _, params = alone
    before = [p.clone() for p in params.values()]
    parts = task.view.backward(theta.decompress(), [p.shape for p in before])
    try:
        for p, part in zip(params.values(), parts, strict=True):
            p.copy_(part)
        yield
    finally:
        for p, w0 in zip(params.values(), before, strict=True):
            p.copy_(w0)


def _first(returned: Any) -> Tensor:
    """The first tensor in what the model returns."""
    found = next(tensors(returned), None)
    if found is None:
        raise ValueError(
            "sensitivity: effects compare the model's outputs, and there is no tensor in a "
            f"{type(returned).__name__}; give effects = 0"
        )
    return found.float()


def _distance(ours: Sequence[Tensor], dense: Sequence[Tensor]) -> float:
    """The relative squared error of all outputs."""
    error = sum(float((a - b).square().sum()) for a, b in zip(ours, dense, strict=True))
    return error / sum(float(b.square().sum()) for b in dense)

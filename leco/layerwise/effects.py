"""What the output of a net suffers from the error of each layer."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leco.layerwise.stream import call
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
    model: nn.Module, every: Mapping[str, Alone], batches: Sequence[Any]
) -> dict[str, float]:
    """Of each task the relative squared error of the model's output where its weights alone are
    Delta(Theta), by its layer's error. The model stays as it is."""
    dense, found = [_output(model, batch) for batch in batches], dict[str, float]()
    for name, (task, theta, error, params) in every.items():
        before = [p.clone() for p in params.values()]
        parts = task.view.backward(theta.decompress(), [p.shape for p in before])
        try:
            for p, part in zip(params.values(), parts, strict=True):
                p.copy_(part)
            found[name] = _distance([_output(model, batch) for batch in batches], dense) / error
        finally:
            for p, w0 in zip(params.values(), before, strict=True):
                p.copy_(w0)
    return found


def _output(model: nn.Module, batch: Any) -> Tensor:
    """The first tensor of what the model returns: a tensor, a sequence, a mapping, an object."""
    returned = found = call(model, batch)
    while not isinstance(found, Tensor):
        named = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
        parts = found if isinstance(found, (tuple, list)) else named.values()
        found = next(iter(parts), None)
        if found is None:
            raise ValueError(
                f"sensitivity: effects compare the model's outputs, and a "
                f"{type(returned).__name__} does not begin with a tensor; give effects = 0"
            )
    return found.float()


def _distance(ours: Sequence[Tensor], dense: Sequence[Tensor]) -> float:
    """The relative squared error of all outputs."""
    error = sum(float((a - b).square().sum()) for a, b in zip(ours, dense, strict=True))
    return error / sum(float(b.square().sum()) for b in dense)

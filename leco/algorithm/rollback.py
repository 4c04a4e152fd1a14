"""The state of a model and its LC at one moment, to go back to."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.algorithm.interrupts import uninterrupted
from leco.algorithm.lc import LC
from leco.distributed import local
from leco.names import named_state
from leco.task import Task


class Moment(NamedTuple):
    """Copies of the weights, buffers and multipliers, in main memory; mu, Thetas and tasks. Of
    sharded tensors it has this rank's parts."""

    tasks: dict[str, Task]
    lc: dict[str, Any]
    multipliers: dict[str, Tensor]
    model: dict[str, Tensor]


def moment(lc: LC) -> Moment:
    """The present state of the LC and of its model."""
    state = lc.state_dict()
    multipliers = {n: _copy(value) for n, value in state.pop("multipliers").items()}
    model = {name: _copy(value) for name, value in named_state(lc.model).items()}
    return Moment(dict(lc.tasks), state, multipliers, model)


@torch.no_grad()
def back_(lc: LC, then: Moment) -> None:
    """Put the LC and its model back into the state of that moment, also from inside
    `lc.compressed()`."""
    with uninterrupted():
        lc.leave()
        now = named_state(lc.model)
        for name, value in then.model.items():
            local(now[name]).copy_(value)
        for name, value in then.multipliers.items():
            local(lc.multipliers[name]).copy_(value)
        lc.tasks = dict(then.tasks)
        lc.load_state_dict({**then.lc, "multipliers": lc.multipliers})


def _copy(value: Tensor) -> Tensor:
    return local(value).to("cpu", copy=True)

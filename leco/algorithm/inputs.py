"""What a task's C step takes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.metric import task_mu
from leco.distributed import local, whole, with_part
from leco.task import Task


@torch.no_grad()
def c_step_input(
    task: Task,
    mu: float,
    params: Mapping[str, nn.Parameter],
    multipliers: Mapping[str, Tensor],
    metric: Mapping[str, Tensor],
) -> tuple[Any, Any]:
    """x = w - lambda/(mu d) and mu d through the task's view, as whole tensors on the device of the
    first parameter. Half precision becomes float32.

    Args:
        task: whose C step it is.
        mu: the penalty parameter.
        params: the task's parameters by name. Every rank must call this where they are sharded.
        multipliers: lambda by name; empty for the quadratic penalty.
        metric: d by name; mu itself is returned where it has none of the parameters.
    """
    device = next(iter(params.values())).device
    tensors = []
    for name, p in params.items():
        w = local(p)
        w = w.float() if w.element_size() < 4 else w
        if multipliers and name in metric:
            w = torch.addcdiv(w, local(multipliers[name]), local(metric[name]), value=-1 / mu)
        elif multipliers:
            w = torch.sub(w, local(multipliers[name]), alpha=1 / mu)
        tensors.append(whole(with_part(w, p)).to(device))
    return task.view.forward(tensors), task_mu(mu, task, params, metric, device)

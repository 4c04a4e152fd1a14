"""The metric of an LC: a positive number d_i for each weight, so that mu_i = mu d_i.

    penalty       -lambda'(w - Delta) + mu/2 sum_i d_i (w_i - Delta_i)^2
    C step        argmin sum_i mu d_i/2 (x_i - Delta_i)^2 + alpha C
                  with x_i = w_i - lambda_i/(mu d_i)
    multipliers   lambda_i <- lambda_i - mu d_i (w_i - Delta_i)

This is the augmented Lagrangian with a penalty parameter for each constraint w_i = Delta_i.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm import penalty
from leco.compressions.checks import full_dtype
from leco.compressions.protocol import check_metric
from leco.names import known
from leco.task import Task

Metric = Mapping[str, Tensor]


def checked_metric(
    metric: Metric | None, params: Mapping[str, nn.Parameter], tied: Mapping[str, str]
) -> dict[str, Tensor]:
    """The metric by the first names of the parameters, in their dtype (float32 at least) and on
    their devices.

    Args:
        metric: name to a number or tensor that broadcasts to the parameter.
        params: the compressed parameters.
        tied: every name of a compressed parameter to its first one.

    Raises:
        TypeError: something that is no mapping, or no real number.
        ValueError: a name of no compressed parameter, or one that stands twice; a tensor that does
            not broadcast to the parameter's shape, or with entries that are not positive and
            finite.
    """
    if metric is None:
        return {}
    if not isinstance(metric, Mapping):
        raise TypeError(
            "LC: metric must be a mapping from parameter names to tensors, not "
            f"{type(metric).__name__}"
        )
    found: dict[str, Tensor] = {}
    for given, value in metric.items():
        name = tied.get(known(given, tied))
        if name is None:
            raise ValueError(f"LC: metric: {given!r} is the name of no compressed parameter")
        if name in found:
            raise ValueError(f"LC: metric: parameter {name!r} stands in it twice")
        found[name] = _checked(name, value, params[name])
    return found


@torch.no_grad()
def _checked(name: str, value: Any, p: nn.Parameter) -> Tensor:
    d = torch.as_tensor(value)
    if d.is_complex() or d.dtype == torch.bool:
        raise TypeError(f"LC: metric: parameter {name!r}: {d.dtype} holds no positive numbers")
    try:
        fits = torch.broadcast_shapes(d.shape, p.shape) == p.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"LC: metric: parameter {name!r}: shape {tuple(d.shape)} does not broadcast to "
            f"{tuple(p.shape)}"
        )
    dtype = full_dtype(p.dtype)
    d = d.detach().to(p.device, dtype, copy=True)
    placed, d = distributed.sharded_like(d, p), distributed.local(d)
    wrong = ~((d > 0) & torch.isfinite(d))
    if wrong.any():
        raise ValueError(
            f"LC: metric: parameter {name!r} has {int(wrong.sum())} of {d.numel()} entries that "
            f"are not positive and finite in {dtype}, such as {float(d[wrong][0]):g}; damp it, as "
            "leco.fisher does"
        )
    return placed


def check_tasks(
    tasks: Mapping[str, Task],
    params: Mapping[str, Mapping[str, nn.Parameter]],
    metric: Metric,
) -> None:
    """Raise ValueError, naming the task, where a compression of weighed parameters takes no
    metric."""
    for name, task in tasks.items():
        own = params[name]
        if own.keys().isdisjoint(metric):
            continue
        try:
            check_metric(task.compression, task.view.shape([p.shape for p in own.values()]))
        except ValueError as error:
            weighed = ", ".join(n for n in own if n in metric)
            raise ValueError(f"task {name!r}, metric of {weighed}: {error}") from error


def task_mu(
    mu: float, task: Task, own: Mapping[str, nn.Parameter], metric: Metric, device: torch.device
) -> Any:
    """mu for the task's C step: the number, or mu d through the task's view."""
    if own.keys().isdisjoint(metric):
        return mu
    each = []
    for name, p in own.items():
        one = torch.ones((), dtype=full_dtype(p.dtype))
        d = distributed.whole(metric.get(name, one))
        each.append((mu * d).to(device).expand(p.shape))
    return task.view.forward(each)


def largest(metric: Metric, params: Mapping[str, Any]) -> float:
    """The largest d_i; 1 counts for parameters without one."""
    parts = [distributed.local(d) for d in metric.values()]
    ends = [float(part.max()) for part in parts if part.numel()]
    if any(distributed.is_sharded(d) for d in metric.values()):
        ends = [end for others in distributed.gathered(ends) for end in others]
    return max(ends) if len(metric) == len(params) else max([1.0, *ends])


def weighed_gap(w: Tensor, delta: Tensor, d: Tensor | None) -> Tensor:
    """sqrt(d_i) (w_i - Delta_i), whose norm is the weighed gap of a parameter; d = 1 for None."""
    (gap,) = penalty.gap([w], [delta])
    return gap if d is None else gap.mul_(d.sqrt())

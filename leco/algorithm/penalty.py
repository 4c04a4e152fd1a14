"""The L step's side of the algorithm: the penalty, its gradient in an optimizer's step, and the
curvature of the loss that mu is compared with."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leco.algorithm.batchnorm import kept_statistics

if TYPE_CHECKING:
    from leco.algorithm.lc import LC


def penalty_value(lc: "LC") -> Tensor:
    """-lambda'(w - Delta(Theta)) + mu/2 ||w - Delta(Theta)||^2."""
    mu, deltas, multipliers, terms = lc.mu, lc.delta, lc.multipliers, list[Tensor]()
    for name, p in lc.params.items():
        gap = p - deltas[name]
        term = mu / 2 * gap.square().sum()
        terms.append(term - (multipliers[name] * gap).sum() if multipliers else term)
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def hooks(lc: "LC", optimizers: Sequence[torch.optim.Optimizer]) -> list[Any]:
    """The handles of hooks that add the penalty's gradient before each step, in the optimizer that
    holds the parameter."""
    held = [
        {id(p) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in optimizers
    ]
    params = lc.params
    for task, names in lc.names.items():
        for name in names:
            p = params[name]
            if not any(id(p) in ids for ids in held):
                raise ValueError(
                    f"LC: parameter {name!r} of task {task!r} is in none of the {len(optimizers)} optimizers"
                )
            if not p.requires_grad:
                raise ValueError(
                    f"LC: parameter {name!r} of task {task!r} is frozen (requires_grad = False): no L step moves it"
                )
    if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in optimizers):
        raise TypeError(
            "LC: LBFGS needs the value of the penalty in its line search; add lc.penalty() to the loss instead of attach"
        )
    handles = []
    for optimizer, ids in zip(optimizers, held, strict=True):
        names = [name for name, p in params.items() if id(p) in ids]
        handles.append(optimizer.register_step_pre_hook(_hook(lc, names)))
    return handles


def _hook(lc: "LC", names: list[str]) -> Callable[[Any, Any, Any], Any]:
    return lambda optimizer, args, kwargs: before_step(
        lambda: _add_gradient(lc, names, optimizer), args, kwargs
    )


@torch.no_grad()
def _add_gradient(lc: "LC", names: list[str], optimizer: Any) -> None:
    """.grad += mu (w - Delta(Theta)) - lambda, in place and without temporaries."""
    if not lc.thetas:
        return  # mu is not set: plain training
    every, deltas, multipliers = lc.params, lc.delta, lc.multipliers
    params: list[Any] = [every[name] for name in names]
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    # GradScaler leaves the unscaling to fused optimizers
    scaler = getattr(optimizer, "grad_scale", None)
    scale = 1.0 if scaler is None else float(scaler)
    gradients: list[Any] = [p.grad for p in params]
    torch._foreach_add_(gradients, params, alpha=scale * lc.mu)
    torch._foreach_sub_(gradients, [deltas[name] for name in names], alpha=scale * lc.mu)
    if multipliers:
        torch._foreach_sub_(gradients, [multipliers[name] for name in names], alpha=scale)


def before_step(change_gradients: Callable[[], None], args: Any, kwargs: dict[str, Any]) -> Any:
    """An optimizer's step pre-hook. A closure computes the gradients inside the step (Lightning's
    does): it is wrapped."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return change_gradients()

    def wrapped() -> Any:
        loss = closure()
        change_gradients()
        return loss

    return (args[0], wrapped), {name: value for name, value in kwargs.items() if name != "closure"}


def mean_curvature(lc: "LC", backward: Callable[[], Any]) -> float:
    """(grad L(Delta(Theta)) - grad L(w))'(Delta(Theta) - w) / ||Delta(Theta) - w||^2."""
    every, params = list(lc.model.parameters()), lc.params
    before = [p.grad for p in every]

    def gradients() -> list[Tensor]:
        for p in every:
            p.grad = None
        backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in params.values()]

    try:
        with kept_statistics(lc.model):
            here = gradients()
            with lc.compressed():
                there = gradients()
    finally:
        for p, gradient in zip(every, before, strict=True):
            p.grad = gradient
    with torch.no_grad():
        apart = [lc.delta[name] - p for name, p in params.items()]
        square = sum(float(d.double().square().sum()) for d in apart)
        rise = sum(
            float(((b - a) * d).double().sum()) for a, b, d in zip(here, there, apart, strict=True)
        )
    if not square:
        raise ValueError(
            f"LC: curvature: w is Delta(Theta) already at mu = {lc.mu:g}; call it before the net is compressed, "
            "and for a form with a price at a mu where it costs something"
        )
    if not any(bool(g.any()) for g in there) or math.isnan(rise):
        raise ValueError(
            f"LC: curvature: the gradients at Delta(Theta) are {'NaN' if math.isnan(rise) else '0'}; does `backward` call backward()?"
        )
    return rise / square

"""The penalty's gradient in an optimizer's step: the training code stays as it is."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from leco.algorithm import penalty
from leco.algorithm.schedules import stable_lr
from leco.distributed import local
from leco.names import check_current
from leco.theta import Theta


class Penalized(Protocol):
    """What the hook needs of an `LC`."""

    model: nn.Module
    thetas: dict[str, Theta]
    names: dict[str, tuple[str, ...]]

    @property
    def params(self) -> Mapping[str, nn.Parameter]: ...
    @property
    def multipliers(self) -> Mapping[str, Tensor]: ...
    @property
    def delta(self) -> Mapping[str, Tensor]: ...
    @property
    def mu(self) -> float: ...
    @property
    def metric(self) -> Mapping[str, Tensor]: ...
    @property
    def largest_mu(self) -> float: ...
    def applied(self, unstable: str) -> None: ...


class Hook:
    """An optimizer's step pre-hook that adds mu d (w - Delta(Theta)) - lambda to `.grad`, d the
    metric.

    A class, so that an attached optimizer can be pickled and copied.
    """

    def __init__(self, lc: Penalized, names: Sequence[str]):
        self.lc, self.names = lc, tuple(names)

    def __call__(self, optimizer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return before_step(lambda: self.add_gradient(optimizer), args, kwargs)

    @torch.no_grad()
    def add_gradient(self, optimizer: Any) -> None:
        """Nothing before mu is set: that is plain training."""
        lc = self.lc
        if not lc.thetas:
            return
        every, deltas, multipliers, metric = lc.params, lc.delta, lc.multipliers, lc.metric
        names = [name for name in self.names if every[name].requires_grad]  # frozen since
        params = {name: every[name] for name in names}
        check_current(lc.model, params)
        # GradScaler leaves the unscaling to fused optimizers
        scaler = getattr(optimizer, "grad_scale", None)
        weights = [metric.get(name) for name in names] if metric else []
        penalty.add_gradient_(
            [local(_gradient(p)) for p in params.values()],
            [local(p) for p in params.values()],
            [local(deltas[name]) for name in names],
            [local(multipliers[name]) for name in names] if multipliers else [],
            lc.mu,
            1.0 if scaler is None else float(scaler),
            [None if d is None else local(d) for d in weights],
        )
        lc.applied(_unstable(optimizer, lc.largest_mu, {id(p) for p in params.values()}))


def _gradient(p: nn.Parameter) -> Tensor:
    """`.grad`, dense: the penalty moves all weights."""
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    elif p.grad.layout != torch.strided:  # pyright: ignore
        p.grad = p.grad.to_dense()
    return p.grad


def hook(lc: Penalized, optimizers: Sequence[Any]) -> list[Any]:
    """Hook every optimizer that holds compressed parameters; return the handles.

    Raises:
        TypeError: something that is no optimizer, or one that can't take the penalty's gradient.
        ValueError: a compressed parameter that no optimizer holds, that is frozen, or that another
            LC adds its penalty to.
    """
    inner = [innermost(optimizer) for optimizer in optimizers]
    for optimizer in inner:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise TypeError(
                "LC: LBFGS needs the value of the penalty in its line search; add lc.penalty() to "
                "the loss instead of attach"
            )
        if isinstance(optimizer, torch.optim.SparseAdam):
            raise TypeError(
                "LC: SparseAdam takes sparse gradients only, and the penalty moves all weights; "
                "use torch.optim.Adam for compressed parameters"
            )
    held = [{id(p) for g in optimizer.param_groups for p in g["params"]} for optimizer in inner]
    _check(lc, inner, held)
    handles = []
    for optimizer, ids in zip(inner, held, strict=True):
        names = [name for name, p in lc.params.items() if id(p) in ids]
        if names:
            handles.append(optimizer.register_step_pre_hook(Hook(lc, names)))
    return handles


def innermost(optimizer: Any) -> Any:
    """The torch optimizer inside wrappers that keep it as `.optimizer`, as accelerate's does."""
    found = optimizer
    while "_optimizer_step_pre_hooks" not in getattr(found, "__dict__", {}):
        found = getattr(found, "optimizer", None)
        if found is None:
            raise TypeError(
                f"LC: attach takes optimizers of torch.optim, or wrappers that keep one as "
                f".optimizer, not {type(optimizer).__name__}; for others add lc.penalty() to the "
                "loss"
            )
    return found


def _check(lc: Penalized, optimizers: Sequence[Any], held: Sequence[set[int]]) -> None:
    others = {
        id(hook.lc.params[name])
        for optimizer in optimizers
        for hook in optimizer._optimizer_step_pre_hooks.values()
        if isinstance(hook, Hook) and hook.lc is not lc
        for name in hook.names
    }
    for task, names in lc.names.items():
        for name in names:
            p, place = lc.params[name], f"LC: parameter {name!r} of task {task!r}"
            if not any(id(p) in ids for ids in held):
                raise ValueError(f"{place} is in none of the {len(held)} optimizers")
            if not p.requires_grad:
                raise ValueError(f"{place} is frozen (requires_grad = False): no L step moves it")
            if id(p) in others:
                raise ValueError(
                    f"{place} gets the penalty of another LC in this optimizer; call detach() of "
                    "that LC first"
                )


def before_step(change_gradients: Callable[[], None], args: Any, kwargs: dict[str, Any]) -> Any:
    """Change the gradients before an optimizer's step. A closure computes them inside the step
    (Lightning's does): it is wrapped."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return change_gradients()

    def wrapped() -> Any:
        loss = closure()
        change_gradients()
        return loss

    rest = {name: value for name, value in kwargs.items() if name != "closure"}
    return (args[0], wrapped), rest


def _unstable(optimizer: Any, mu: float, penalized: set[int]) -> str:
    """Say what is wrong where plain SGD diverges on the penalty, of curvature mu; else "".

    The bound is twice `stable_lr`: lr mu < 2 (1 + beta), or 2 (1 + beta)/(1 + 2 beta) with
    Nesterov's momentum. Dampening divides the rate.
    """
    if type(optimizer) is not torch.optim.SGD:
        return ""
    for group in optimizer.param_groups:
        if not any(id(p) in penalized for p in group["params"]):
            continue
        lr, beta = float(group["lr"]), float(group["momentum"])
        rate = lr * (1 - float(group["dampening"])) if beta else lr
        known = 0 < rate < math.inf and 0 <= beta < 1
        if known and rate > 2 * stable_lr(rate, mu, beta, bool(group["nesterov"])):
            return (
                f"the learning rate {lr:g} is too high for the penalty at mu = {mu:g}; "
                "lower it with leco.stable_lr"
            )
    return ""

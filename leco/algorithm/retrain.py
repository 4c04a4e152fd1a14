"""Training a compressed net further within its compression: indices, masks and ranks stay fixed.

With `LC` this gives the usual baselines from the same pieces:

    direct compression (DC)         lc.mu = mu
    DC + retraining                 lc.mu = mu; then `Retraining`
    iterated DC                     `iterated_direct_compression`
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.attach import before_step
from leco.algorithm.lc import LC
from leco.algorithm.record import Record
from leco.theta import Theta
from leco.theta.tree import free_leaves, with_free_leaves
from leco.views import blocks


class Retraining:
    """Trains Theta's floats (codebook values, scales, kept weights, factors) and the uncompressed
    weights, with w = Delta(Theta).

    The training code stays as it is. During the backward pass the gradient by w becomes the
    gradient by Theta, by the chain rule through Delta: accumulation, closures, clipping and loss
    scaling see that of Theta. After an optimizer's step, Theta is projected on the compression's
    set (a ball, say) where the step has left it; w is Delta(Theta) again, and `lc` holds the new
    Theta. A shared value's gradient is the sum over its weights: use an optimizer that adapts to
    it, such as Adam.

    >>> import leco, torch
    >>> model = torch.nn.Linear(4, 1)
    >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> lc.mu = 1.0
    >>> free = leco.Retraining(lc)
    >>> optimizer = torch.optim.SGD(free.parameters(), lr=0.1)
    >>> free.attach(optimizer)
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> len(model.weight.abs().unique())  # still two values, -a and +a
    1
    """

    def __init__(self, lc: LC):
        lc.project_()
        self._lc = lc
        self._params = {name: [lc.params[n] for n in names] for name, names in lc.names.items()}
        self._free: dict[str, list[nn.Parameter]] = {}
        self._handles: list[Any] = []
        for name, theta in lc.thetas.items():
            self._free[name] = [
                nn.Parameter(field.detach().clone()) for field in free_leaves(theta)
            ]

    def parameters(self) -> list[nn.Parameter]:
        """The variables, for an optimizer: Theta's free floats, then the parameters that no task
        compresses."""
        compressed = {id(p) for p in self._lc.params.values()}
        others = [p for p in self._lc.model.parameters() if id(p) not in compressed]
        return [*(p for free in self._free.values() for p in free), *others]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer`, made of `parameters()`, move Theta whenever it steps.

        Raises:
            ValueError: attached already; the optimizer does not hold Theta; `lc` is attached, whose
                penalty has no place here.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if self._handles:
            raise ValueError("Retraining: attached already; call detach() first")
        if self._lc.attached:
            raise ValueError(
                "Retraining: the LC penalty is attached to an optimizer; call lc.detach() first"
            )
        for name, free in self._free.items():
            if not all(id(p) in held for p in free):
                raise ValueError(
                    f"Retraining: the optimizer does not hold the Theta of task {name!r}; make it "
                    "of retraining.parameters()"
                )
        if any(id(p) in held for p in self._lc.params.values()):
            raise ValueError(
                "Retraining: the optimizer holds compressed parameters of the model; make it of "
                "retraining.parameters()"
            )
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        for name, params in self._params.items():
            if self._free[name]:
                self._handles += [
                    p.register_post_accumulate_grad_hook(lambda _, name=name: self._arrived(name))
                    for p in params
                ]

    def detach(self) -> None:
        """Undo `attach`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _theta(self, name: str, free: Sequence[Tensor]) -> Theta:
        return with_free_leaves(self._lc.thetas[name], free)

    def _arrived(self, name: str) -> None:
        if all(p.grad is not None for p in self._params[name]):
            self._chain(name)

    def _chain(self, name: str) -> None:
        """d L/d Theta += (d Delta/d Theta)' d L/d w; then remove the gradient by w."""
        params, free = self._params[name], self._free[name]
        gradients: list[Tensor] = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in params
        ]
        with torch.enable_grad():
            delta = blocks(self._theta(name, free).decompress())
        wanted = [
            w.to(d)
            for w, d in zip(
                blocks(self._lc.tasks[name].view.forward(gradients)), delta, strict=True
            )
        ]
        # a block that nothing stands for is 0
        moved = [(d, w) for d, w in zip(delta, wanted, strict=True) if d.requires_grad]
        for variable, gradient in zip(
            free,
            torch.autograd.grad([d for d, _ in moved], free, [w for _, w in moved]),
            strict=True,
        ):
            variable.grad = gradient if variable.grad is None else variable.grad + gradient
        for p in params:
            p.grad = None

    def _collect(self) -> None:
        for name, params in self._params.items():
            # a task with parameters that the loss does not reach
            if self._free[name] and any(p.grad is not None for p in params):
                self._chain(name)

    def _before(self, optimizer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return before_step(self._collect, args, kwargs)

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        thetas = {}
        for name, free in self._free.items():
            moved = self._theta(name, [p.detach().clone() for p in free])
            thetas[name] = self._lc.tasks[name].compression.feasible(moved)
            for p, value in zip(free, free_leaves(thetas[name]), strict=True):
                p.copy_(value)
        for p in self._lc.params.values():
            p.grad = None
        self._lc.set_thetas(thetas)
        self._lc.project_()


def iterated_direct_compression(
    lc: LC, train: Callable[[int], Any], steps: int, mu: float
) -> list[Record]:
    """Train and compress in turn: w <- training from Delta(Theta) with no penalty; Theta <- C step
    of w; w <- Delta(Theta).

    This is a baseline: nothing pulls the training towards the compressed set, so it cycles. `lc`
    must not be attached.

    Args:
        train: `train(k)` trains the model for round k.
        mu: for penalty forms, whose C step depends on it.

    Returns:
        A record a round; `gap` is ||w - Delta(Theta)|| before the projection. The model is left at
        w = Delta(Theta).
    """
    if lc.attached:
        raise ValueError(
            "iterated_direct_compression: the LC penalty is attached to an optimizer; call "
            "lc.detach() first"
        )
    lc.mu = mu
    lc.project_()
    records = []
    for k in range(steps):
        train(k)
        lc.c_step()
        records.append(lc.record()._replace(step=k + 1))
        lc.project_()
    return records

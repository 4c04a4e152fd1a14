"""The diagonal of the empirical Fisher information: a metric from gradients of the loss."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from leco.algorithm.batchnorm import kept_statistics
from leco.algorithm.curvature import kept_gradients
from leco.algorithm.lc import LC
from leco.compressions.checks import full_dtype
from leco.distributed import local, mean_, total

B = TypeVar("B")


def fisher(
    lc: LC, backward: Callable[[B], Any], batches: Iterable[B], damping: float = 0.1
) -> dict[str, Tensor]:
    """The mean square of each compressed weight's gradient at the present weights, as a metric:

        d_i = (F_i + damping F) / ((1 + damping) F),    F_i = mean over batches of (dL/dw_i)^2,

    F the mean of all F_i. The mean of all d_i is 1, so that mu keeps its meaning.

    F_i is taken per batch: batches of one sample give the diagonal of the empirical Fisher
    information. At a trained net, where the mean gradient is near 0, batches of B samples give that
    diagonal divided by B, a factor that cancels in d_i. Call it at the reference weights, before
    the first L step. Weights, `.grad` and batch-norm statistics are left as they were; one copy of
    the compressed weights is made.

    Args:
        lc: the problem; it need not have a Theta.
        backward: computes the task's loss, the mean over a batch, without the penalty, and calls
            `backward()`.
        batches: what `backward` takes, one pass: a hundred batches or more. Of several ranks each
            has batches of its own, and all get the mean.
        damping: share of the mean that is added, so that no weight counts nearly nothing: those of
            inputs that the batches do not have, and of outputs that never err.

    Returns:
        Parameter name to d, in float32 at least: for `lc.set_metric`, or `LC(..., metric=...)`.

    Raises:
        ValueError: no batch; damping not positive; gradients that are all 0, NaN or infinite.
        RuntimeError: inside `with lc.compressed()`.

    Reference:
        Amari, Neural Computation 10 (1998), for the metric; Kunstner et al., NeurIPS 2019, for what
        the empirical Fisher information is not: the Hessian.

    >>> import leco, torch
    >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.TopK(1))})
    >>> leco.fisher(lc, lambda x: model(x).sum().backward(), x.split(1), damping=0.25)
    {'weight': tensor([[1.6400, 0.3600]])}
    """
    if not 0 < damping < math.inf:
        raise ValueError(f"fisher: damping = {damping} must be positive and finite")
    if lc.inside:
        raise RuntimeError(
            "fisher: inside `with lc.compressed()`, where the model holds Delta(Theta)"
        )
    lc.check_current()

    # sums of squared gradients
    params = {n: p.detach() for n, p in lc.params.items()}
    squares = {n: torch.zeros_like(p, dtype=full_dtype(p.dtype)) for n, p in params.items()}
    count = 0
    with kept_gradients(lc.model), kept_statistics(lc.model):
        for batch in batches:
            for p in lc.model.parameters():
                p.grad = None
            backward(batch)
            count += 1
            for name, p in lc.params.items():
                if p.grad is not None:
                    gradient = local(p.grad.to_dense() if p.grad.is_sparse else p.grad)
                    local(squares[name]).addcmul_(gradient, gradient)
    if not count:
        raise ValueError("fisher: batches is empty; give at least one batch")
    for s in squares.values():
        mean_(s)

    # damped, with mean 1
    numbers = sum(s.numel() for s in squares.values())
    sums = {n: float(local(s).sum(dtype=torch.float64)) for n, s in squares.items()}
    mean = total(sums, squares) / numbers
    if not 0 < mean < math.inf:
        raise ValueError(
            f"fisher: the mean squared gradient is {mean}; does `backward` call backward(), and is "
            "the net trained?"
        )
    for s in squares.values():
        local(s).add_(damping * mean).div_((1 + damping) * mean)
    return squares

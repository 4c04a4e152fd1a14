"""The curvature of the loss along the distortion: what mu is compared with."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.batchnorm import kept_statistics
from leco.distributed import gathered, local, mean, total


def mean_curvature(
    model: nn.Module,
    params: Mapping[str, nn.Parameter],
    deltas: Mapping[str, Tensor],
    at_delta: Callable[[], AbstractContextManager[Any]],
    backward: Callable[[], Any],
    metric: Mapping[str, Tensor],
) -> float:
    """(grad L(Delta) - grad L(w))'(Delta - w) / ||Delta - w||^2, the norm in the metric.

    Both gradients see the same random numbers, such as the masks of dropout. `.grad`, batch-norm
    statistics and the generators are left as they were, but for the numbers drawn once.

    Args:
        at_delta: a context in which the model's weights are Delta.
        backward: computes the loss and calls `backward()`.

    Raises:
        ValueError: w is Delta; the gradients at Delta are 0 or NaN.
    """
    with kept_gradients(model), kept_statistics(model):
        with _same_numbers(params):
            here = _gradients(model, params, backward)
        with at_delta():
            there = _gradients(model, params, backward)
    with torch.no_grad():
        apart = {name: local(deltas[name]) - local(p) for name, p in params.items()}
        weights = {name: local(d) for name, d in metric.items()}
        squares = {n: d.double().square() * weights.get(n, 1.0) for n, d in apart.items()}
        square = total({n: float(part.sum()) for n, part in squares.items()}, params)
        terms = zip(here, there, apart.items(), strict=True)
        rises = {n: float(((b - a) * d).double().sum()) for a, b, (n, d) in terms}
        (rise,) = mean([total(rises, params)])  # of the ranks' own examples
    if not square:
        raise ValueError(
            "LC: curvature: w is Delta(Theta) already; call it before the net is compressed, and "
            "for a form with a price at a mu where it costs something"
        )
    reached = any(gathered(any(bool(g.any()) for g in there)))
    if not reached or math.isnan(rise):
        found = "NaN" if math.isnan(rise) else "0"
        raise ValueError(
            f"LC: curvature: the gradients at Delta(Theta) are {found}; does `backward` call "
            "backward()?"
        )
    return rise / square


def _gradients(
    model: nn.Module, params: Mapping[str, nn.Parameter], backward: Callable[[], Any]
) -> Sequence[Tensor]:
    for p in model.parameters():
        p.grad = None
    backward()
    own = params.values()
    return [torch.zeros_like(local(p)) if p.grad is None else local(p.grad) for p in own]


@contextmanager
def kept_gradients(model: nn.Module) -> Iterator[None]:
    """Afterwards `.grad` of all parameters is as before."""
    every = list(model.parameters())
    before = [p.grad for p in every]
    try:
        yield
    finally:
        for p, gradient in zip(every, before, strict=True):
            p.grad = gradient


@contextmanager
def _same_numbers(params: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Afterwards the generators of the CPU and of the parameters' devices are as before."""
    devices = {p.device for p in params.values() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield

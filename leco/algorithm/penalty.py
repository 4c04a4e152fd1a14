"""The penalty of the augmented Lagrangian, as functions of tensors.

With w the weights, Delta = Delta(Theta) and lambda the multipliers (none for the quadratic
penalty):

    penalty     -lambda'(w - Delta) + mu/2 ||w - Delta||^2
    gradient    mu (w - Delta) - lambda

In a metric, mu is mu d_i for weight i. Carreira-Perpinan, arXiv 1707.01209, section 4.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

CHUNK = 2**24  # weights whose gradient is formed at a time, for the memory's sake
CHUNK_ON_CPU = 2**20  # for the cache's sake: 18 million weights take 0.07 s, not 0.11


def value(
    params: Mapping[str, Tensor],
    deltas: Mapping[str, Tensor],
    multipliers: Mapping[str, Tensor],
    mu: float,
    metric: Mapping[str, Tensor],
) -> Tensor:
    """The penalty, a scalar that you can differentiate by `params`."""
    terms = list[Tensor]()
    for name, w in params.items():
        gap = w - deltas[name]
        squares = gap.square() * metric[name] if name in metric else gap.square()
        term = mu / 2 * squares.sum()
        terms.append(term - (multipliers[name] * gap).sum() if multipliers else term)
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


@torch.no_grad()
def add_gradient_(
    gradients: Sequence[Tensor],
    params: Sequence[Tensor],
    deltas: Sequence[Tensor],
    multipliers: Sequence[Tensor],
    mu: float,
    scale: float = 1.0,
    metric: Sequence[Tensor | None] = (),
) -> None:
    """gradients += scale (mu d (w - Delta) - lambda), in place; d = 1 where `metric` has None, or
    is empty.

    The difference is formed first, and in float32 for weights of half precision: where w is near
    Delta, small gradients of the loss are kept.
    """
    for part in _chunks(params):
        gaps = gap(params[part], deltas[part])
        torch._foreach_mul_(gaps, scale * mu)
        for difference, d in zip(gaps, metric[part], strict=False):
            if d is not None:
                difference.mul_(d)
        if multipliers:
            torch._foreach_sub_(gaps, [_full(value) for value in multipliers[part]], alpha=scale)
        torch._foreach_add_(list(gradients[part]), gaps)


def gap(params: Sequence[Tensor], deltas: Sequence[Tensor]) -> list[Tensor]:
    """w - Delta for each parameter; in float32 for half precision."""
    return list(torch._foreach_sub([_full(w) for w in params], [_full(d) for d in deltas]))


def _full(x: Tensor) -> Tensor:
    x = x.detach()
    return x.float() if x.element_size() < 4 else x


def _chunks(params: Sequence[Tensor]) -> Iterator[slice]:
    """Runs of parameters with at most `CHUNK` weights, or with one parameter."""
    start = size = 0
    for k, w in enumerate(params):
        most = min(CHUNK, CHUNK_ON_CPU) if w.device.type == "cpu" else CHUNK
        if size and size + w.numel() > most:
            yield slice(start, k)
            start, size = k, 0
        size += w.numel()
    if size:
        yield slice(start, len(params))

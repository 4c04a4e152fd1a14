"""The exact C step of one scaled sign for all weights plus corrections of kappa of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from leco.compressions.metric import CHUNK, Mu
from leco.compressions.parts import Part
from leco.compressions.pruning import TopK
from leco.compressions.quantization import Binary
from leco.compressions.sorted_values import sort_
from leco.theta import Scaled, Theta
from leco.views import Vector


def window(parts: Sequence[Part], x: Sequence[Tensor], mu: Mu) -> list[Theta] | None:
    """The terms' Thetas in case (b) of `leco.Additive`, the exact minimum; None in other cases, and
    in a metric."""
    if not isinstance(mu, (int, float)):
        return None
    kinds = [
        next((k for k in (Binary, TopK) if isinstance(part.compression, k)), None) for part in parts
    ]
    one, other = parts[0], parts[-1]
    if (
        len(kinds) > 2
        or set(kinds) != {Binary, TopK}
        or one.places(len(x)) != other.places(len(x))
        or {one.view, other.view} != {Vector()}
    ):
        return None
    binary, top = kinds.index(Binary), kinds.index(TopK)
    corrections: Any = parts[top].compression
    if corrections.gamma:
        return None
    whole = Vector().forward([x[b] for b in one.places(len(x))])
    thetas: list[Any] = [None, None]
    signs: Any = parts[binary].compression.compress(whole, mu)
    thetas[binary] = Scaled(
        signs.indices, signs.values, narrowest_mean(whole, corrections.count(len(whole)))
    )
    thetas[top] = corrections.compress(whole - thetas[binary].decompress(), mu)
    return thetas


def narrowest_mean(x: Tensor, kappa: int) -> Tensor:
    """The mean of the n - kappa consecutive values of the sorted |x| (n,) of least variance. O(n
    log n); float64 for the kappa ends only."""
    values = sort_(x.abs().contiguous())
    size = len(values) - kappa
    # sums around it do not cancel where all values are nearly equal
    center = values[len(values) // 2].double()
    first, second = torch.zeros_like(center), torch.zeros_like(center)
    for part in values[:size].split(CHUNK):
        apart = part.double() - center
        first, second = first + apart.sum(), second + apart.square().sum()
    out, into = values[:kappa].double() - center, values[size:].double() - center
    sums = torch.cat([first.view(1), first + (into - out).cumsum(0)])
    squares = torch.cat([second.view(1), second + (into.square() - out.square()).cumsum(0)])
    best = (squares - sums.square() / size).argmin()
    return (center + sums[best] / size).to(x.dtype)

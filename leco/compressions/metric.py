"""The weight mu of each entry's squared error: one number, or mu_i = mu d_i in a metric d.

    distortion    sum_i mu_i / 2 (x_i - Delta_i)^2

A metric is a positive number d_i for each weight, such as the curvature of the loss. With it the
augmented Lagrangian has a penalty parameter for each constraint w_i = Delta_i.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from leco.views import blocks

CHUNK = 2**20  # weights whose errors are formed at a time
Mu: TypeAlias = Any
"""mu as a number, or as tensors of the shape of x: one, or a tuple for the blocks of x."""


def checked_mu(name: str, mu: Mu, x: Any, dtype: torch.dtype) -> Mu:
    """mu as a float where it is the same for all entries; else as contiguous tensors in `dtype`.

    Raises:
        TypeError: a tensor without floating-point numbers, or one tensor for several blocks.
        ValueError: another shape than x, or an entry that is not positive and finite in `dtype`.
    """
    if not isinstance(mu, (Tensor, tuple, list)):
        return mu
    if isinstance(mu, Tensor) and mu.dim() == 0 and isinstance(x, Tensor) and x.dim():
        return float(mu)
    given = blocks(mu)
    if isinstance(mu, Tensor) != isinstance(x, Tensor):
        raise TypeError(f"{name}: mu must be a number, or tensors as x is: one, or one for a block")

    # shapes and types
    shapes, wanted = [tuple(m.shape) for m in given], [tuple(b.shape) for b in blocks(x)]
    if shapes != wanted:
        raise ValueError(f"{name}: mu has the shapes {shapes} and must have those of x, {wanted}")
    if not all(m.is_floating_point() for m in given):
        raise TypeError(f"{name}: mu holds {given[0].dtype}, not floating-point numbers")

    # values
    own = tuple(
        m.detach().to(b.device, dtype).contiguous() for m, b in zip(given, blocks(x), strict=True)
    )
    ends = [torch.aminmax(m) for m in own if m.numel()]
    low = min((float(least) for least, _ in ends), default=1.0)
    high = max((float(most) for _, most in ends), default=1.0)
    if not 0 < low <= high < float("inf") or any(e != e for pair in ends for e in map(float, pair)):
        raise ValueError(
            f"{name}: mu has entries from {low:g} to {high:g}, which must be positive and finite "
            f"in {dtype}"
        )
    if low == high:
        return low
    return own[0] if isinstance(mu, Tensor) else own


def mu_of_blocks(mu: Mu, count: int) -> Sequence[float | Tensor]:
    """mu of each of `count` blocks: the number, or the block's tensor."""
    return blocks(mu) if isinstance(mu, (Tensor, tuple)) else [mu] * count


def distortion(x: Tensor, delta: Tensor, mu: float | Tensor) -> float:
    """sum_i mu_i / 2 (x_i - delta_i)^2, a part at a time: without temporaries of the size of x, and
    with sums in float64."""
    pairs = zip(x.reshape(-1).split(CHUNK), delta.reshape(-1).split(CHUNK), strict=True)
    squares = ((a - b).square_() for a, b in pairs)
    if not isinstance(mu, Tensor):
        return mu / 2 * float(_total([part.sum(dtype=torch.float64) for part in squares]))
    weighed = zip(squares, mu.reshape(-1).split(CHUNK), strict=True)
    return 0.5 * float(_total([part.mul_(m).sum(dtype=torch.float64) for part, m in weighed]))


def _total(parts: list[Tensor]) -> Tensor | float:
    return torch.stack(parts).sum() if parts else 0.0

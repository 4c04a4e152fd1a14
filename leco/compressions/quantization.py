"""Quantization to given values, with or without a learned scale, for each leading index of x (...,
n).

`Vector` gives one scale to a layer or to several together, `Rows` one to each output channel,
`Groups` one to each run of weights. Carreira-Perpinan and Idelbayev, Part II (arXiv 1707.04319).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.kmeans1d import EXACT_WORK
from leco.compressions.metric import Mu
from leco.compressions.protocol import Compression
from leco.compressions.scale_search import per_row
from leco.compressions.scales import (
    SCALES,
    best_scale,
    mean_magnitude,
    search_scale,
    ternary_scale,
)
from leco.compressions.sorted_values import Sorted, nearest
from leco.compressions.stored import check_scale_options, shown, stored, with_stored_scale
from leco.compressions.value_search import search_values
from leco.theta import Fixed, Scaled

SORTED = 256  # a row of at least so many numbers a value is sorted


def _compress_fixed(
    x: Tensor, mu: Mu, values: Tensor, scale: bool, theta: Fixed | Scaled | None
) -> Fixed | Scaled:
    if not scale:
        return Fixed(nearest(x, values), values)
    d = mu.expand_as(x) if isinstance(mu, Tensor) else None
    last = None
    if isinstance(theta, Scaled) and theta.scale.shape == x.shape[:-1]:
        last = theta.scale.abs()
    if x.numel() * len(values) <= EXACT_WORK // 4:
        found = best_scale(x, values, None if d is None else per_row(d))
    else:
        found = _search(x, d, values, last)
    found = found.to(x.dtype)
    scaled = found.unsqueeze(-1) * values if x.dim() > 1 else found * values
    return Scaled(nearest(x, scaled), values, found)


def _search(x: Tensor, weights: Tensor | None, values: Tensor, last: Tensor | None) -> Tensor:
    """The scales (...) of x (..., n) by descent: of short rows by passes over them, of long ones on
    sorted data."""
    if x.shape[-1] < SORTED * len(values):
        rows = x.reshape(-1, x.shape[-1])
        d = None if weights is None else weights.reshape(rows.shape)
        found = search_values(rows, d, values, None if last is None else last.reshape(-1))
        return found.view(x.shape[:-1])

    # starts at or below the scale of the largest |x|
    data = Sorted(x.clone(), None if weights is None else per_row(weights))
    largest = torch.maximum(data.values[..., -1].abs(), data.values[..., 0].abs()).double()
    shares = torch.logspace(-2, 0, SCALES, dtype=torch.float64, device=x.device)
    starts = (largest / values.abs().max().double()).unsqueeze(-1) * shares
    if last is not None:
        starts = torch.cat([starts, last.double().unsqueeze(-1)], dim=-1)
    return search_scale(data, values.double().expand(*starts.shape, -1), starts)[0].squeeze(-1)


@dataclass(frozen=True)
class FixedCodebook(Compression[Fixed | Scaled]):
    """min ||x - s c[z]||^2 over assignments z to given values c: the nearest value; with `scale`,
    over s >= 0 too.

    s = 1: exact, O(n log K), the same in a metric. Learned s: exact by enumeration of the n (K - 1)
    scales at which an assignment changes, for up to about two million of them. Above that it is a
    descent step. It tries 26 scales of each short row, or the last scale, by passes over the row,
    then neighbours, with least-squares scales; O(n K). A row of 256 or more numbers a value is
    sorted: nearest value and least-squares scale in turn, from the best of 32 starting points and
    the last scale. Never worse than the last Theta. In a metric: the same, with weighted least
    squares, exact where it is without. Part II, section 4.2.

    Args:
        values: the codebook, at least one finite value, distinct.
        scale: learn one scale for each leading index.

    >>> import torch, leco
    >>> leco.FixedCodebook((-1, 0, 2)).compress(torch.tensor([-5.0, 0.4, 1.2]), mu=1.0).decompress()
    tensor([-1.,  0.,  2.])
    """

    values: tuple[float, ...]
    scale: bool = False

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            object.__setattr__(self, "values", tuple(sorted(map(float, self.values))))
        except (TypeError, ValueError):
            raise TypeError(
                f"FixedCodebook: values = {self.values!r} must be a sequence of numbers"
            ) from None
        if (
            not 1 <= len(self.values) <= 65536
            or len(set(self.values)) < len(self.values)
            or not all(map(math.isfinite, self.values))
        ):
            raise ValueError(
                f"FixedCodebook: values = {self.values} must be 1 to 65536 distinct finite numbers"
            )
        if self.scale and not any(self.values):
            raise ValueError("FixedCodebook: values = (0.0,) can't be scaled; it prunes everything")

    def scaling(self) -> int | None:
        return 0 if self.scale else None

    def c_step(self, x: Tensor, mu: Mu, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        values = torch.tensor(self.values, dtype=x.dtype, device=x.device)
        return _compress_fixed(x, mu, values, self.scale, theta)


@dataclass(frozen=True)
class PowersOfTwo(Compression[Fixed | Scaled]):
    """`FixedCodebook` with the values 0, +-1, +-2^-1, ..., +-2^-c: multiplications become shifts.
    Part II, section 4.2.

    Between 2^-j and 2^-(j+1) the border is 3/4 of 2^-j; below 2^-c / 2 it is 0.

    >>> import torch, leco
    >>> leco.PowersOfTwo(2).compress(torch.tensor([3.0, -0.74, 0.1]), mu=1.0).decompress()
    tensor([ 1.0000, -0.5000,  0.0000])
    """

    c: int
    scale: bool = False

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("PowersOfTwo: c", self.c, 0, 126)

    def scaling(self) -> int | None:
        return 0 if self.scale else None

    def c_step(self, x: Tensor, mu: Mu, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        powers = torch.exp2(-torch.arange(self.c + 1, dtype=x.dtype, device=x.device))
        values = torch.cat([-powers, powers.new_zeros(1), powers.flip(0)])
        return _compress_fixed(x, mu, values, self.scale, theta)


@dataclass(frozen=True)
class Binary(Compression[Fixed | Scaled]):
    """{-a, +a} with a = mean |x_i|, or {-1, +1} without `scale`: the sign, +1 for 0. One bit a
    weight.

    Exact, O(n). In a metric d, exact too: a = sum d |x| / sum d, and the signs are the same. With
    `scale_dtype` ("float16", "bfloat16") a is the number of that type nearest to it, which is
    exact: the error is a parabola in a. Part II, theorem A.2.

    >>> import torch, leco
    >>> leco.Binary().compress(torch.tensor([1.0, -2.0, 0.0]), mu=1.0).decompress()
    tensor([ 1., -1.,  1.])
    """

    scale: bool = True
    scale_dtype: str | None = None

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale_options("Binary", self.scale, self.scale_dtype)

    def __repr__(self) -> str:
        return shown(self)

    def scaling(self) -> int | None:
        return 0 if self.scale and self.scale_dtype is None else None

    def feasible(self, theta: Fixed | Scaled) -> Fixed | Scaled:
        return with_stored_scale(theta, self.scale_dtype)

    def c_step(self, x: Tensor, mu: Mu, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        indices = (x >= 0).view(torch.uint8)
        values = torch.arange(-1, 2, 2, dtype=x.dtype, device=x.device)
        if not self.scale:
            return Fixed(indices, values)
        d = mu.expand_as(x) if isinstance(mu, Tensor) else None
        return Scaled(indices, values, stored(mean_magnitude(x, d), self.scale_dtype))


@dataclass(frozen=True)
class Ternary(Compression[Fixed | Scaled]):
    """{-a, 0, +a}, or {-1, 0, +1} without `scale`. Exact. Part II, theorem A.3.

    With the |x_i| in decreasing order, j maximises (sum of the first j)/sqrt(j), a is the mean of
    those j, and they are the ones that are not 0: O(n log n). Without scale, 0 where |x_i| < 1/2:
    O(n). In a metric d, exact too: j maximises (sum d |x|)^2 / sum d over the first j, and a is
    sum d |x| / sum d there. With `scale_dtype` ("float16", "bfloat16") j maximises the same gain at
    the number a of that type nearest to it, which is exact.

    >>> import torch, leco
    >>> leco.Ternary().compress(torch.tensor([3.0, -5.0, 0.5]), mu=1.0).decompress()
    tensor([ 4., -4.,  0.])
    """

    scale: bool = True
    scale_dtype: str | None = None

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale_options("Ternary", self.scale, self.scale_dtype)

    def __repr__(self) -> str:
        return shown(self)

    def scaling(self) -> int | None:
        return 0 if self.scale and self.scale_dtype is None else None

    def feasible(self, theta: Fixed | Scaled) -> Fixed | Scaled:
        return with_stored_scale(theta, self.scale_dtype)

    def c_step(self, x: Tensor, mu: Mu, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        values = torch.arange(-1, 2, dtype=x.dtype, device=x.device)
        if self.scale:
            d = mu.expand_as(x) if isinstance(mu, Tensor) else None
            a = ternary_scale(x, d, self.scale_dtype)
        else:
            a = torch.ones(x.shape[:-1], dtype=x.dtype, device=x.device)
        half = a.unsqueeze(-1) / 2
        indices = (x > -half).view(torch.uint8) + (x >= half).view(torch.uint8)
        return Scaled(indices, values, a) if self.scale else Fixed(indices, values)

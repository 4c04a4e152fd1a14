"""Quantization: C steps on x (..., n), a codebook for each leading index.

`Vector` gives one codebook to a layer or to several together, `Rows` one to each output channel,
`Groups` one to each run of weights. Carreira-Perpinan and Idelbayev, Part II (arXiv 1707.04319),
unless said otherwise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.kmeans1d import (
    COARSE_CUTS,
    EXACT_WORK,
    Sorted,
    best_scale,
    best_split,
    lloyd,
    midpoints,
    optimal_codebook,
    search_scale,
    sort_,
)
from leco.compressions.protocol import Compression
from leco.theta import Affine, Codes, Fixed, Scaled

# borders; up to so many it is faster to count those below a value, in parts that stay in cache,
# than to search
COUNTED = 31
CHUNK = 2**20  # weights
EXACT_SIZE = 2**20  # weights; the dynamic program holds about twenty numbers for each
SCALES = 32  # starting points of the search for a scale that is too large to enumerate


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest entry of the increasing `codebook` (..., K) or (K,), the lower of two at
    equal distance; uint8, or int32 for K > 256."""
    return cells_of(x, midpoints(codebook).to(x.dtype).expand(*x.shape[:-1], -1).contiguous())


def cells_of(x: Tensor, edges: Tensor) -> Tensor:
    """The number of increasing `edges` (..., K-1) below each x (..., n); uint8, or int32 for K >
    256."""
    if edges.shape[-1] > COUNTED:
        indices = torch.searchsorted(edges, x.contiguous(), out_int32=True)
        return indices.to(torch.uint8) if edges.shape[-1] <= 255 else indices
    indices = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
    if not x.numel():
        return indices
    values, found = x.reshape(-1, x.shape[-1]), indices.view(-1, x.shape[-1])
    edges = edges.view(len(values), -1) if edges.numel() else edges.new_zeros(len(values), 0)
    if len(values) == 1:  # one codebook: any cut of the values will do
        pieces = [
            (part, own, edges)
            for part, own in zip(values.split(CHUNK, -1), found.split(CHUNK, -1), strict=True)
        ]
    else:
        rows = max(1, CHUNK // x.shape[-1])
        pieces = list(zip(values.split(rows), found.split(rows), edges.split(rows), strict=True))
    for part, own, borders in pieces:
        for j in range(borders.shape[-1]):
            own += (part > borders[:, j : j + 1]).view(torch.uint8)
    return indices


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Codebook(Compression[Codes]):
    """min ||x - c[z]||^2 over a codebook c of k values and assignments z: one-dimensional k-means.

    Exact for k = 2, and by dynamic programming; or by Lloyd's algorithm on the sorted values: a
    descent step, warm-started from the last codebook, cold from the best of coarse cells. O(n log
    n) to sort, then O(n) for k = 2, O(k log n) a sweep. Part II, section 4.1.

    Args:
        k: codebook entries, at least 1.
        exact: True for dynamic programming, O(k n log n) for k > 2; False for Lloyd; None for the
            former where k = 2, and up to 2^20 weights and about a second of work.

    >>> import torch, leco
    >>> leco.Codebook(2).compress(torch.tensor([0.0, 1.0, 10.0, 12.0]), mu=1.0).decompress()
    tensor([ 0.5000,  0.5000, 11.0000, 11.0000])
    """

    k: int
    exact: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Codebook: k", self.k, 1, 65536)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if self.k > shape[-1]:
            raise ValueError(
                f"Codebook: k = {self.k} must be at most {shape[-1]}, the number of weights that share a codebook"
            )

    def _is_exact(self, shape: torch.Size) -> bool:
        n = shape[-1]
        work = math.prod(shape) * (1 + max(0, self.k - 2) * math.log2(n + 1))
        return (
            work <= EXACT_WORK and math.prod(shape) <= EXACT_SIZE
            if self.exact is None
            else self.exact
        )

    def _coarse_cuts(self, shape: torch.Size) -> int:
        """So many that the cold start of all leading indices costs about what an exact program may
        cost."""
        rows = math.prod(shape[:-1])
        return max(4 * self.k, min(COARSE_CUTS, EXACT_WORK // (8 * rows * self.k)))

    def c_step(self, x: Tensor, mu: float, theta: Codes | None = None) -> Codes:
        data = Sorted(_copy(x))
        if self.k == 2 and self.exact is not False:
            codebook = best_split(data)
        elif self._is_exact(x.shape):
            codebook = optimal_codebook(data, self.k, data.candidates(data.n))
        elif theta is not None and theta.codebook.shape[-1] == self.k:
            # retraining may have changed their order
            codebook = lloyd(data, theta.codebook.double().sort(dim=-1).values)
        else:
            codebook = lloyd(
                data, optimal_codebook(data, self.k, data.candidates(self._coarse_cuts(x.shape)))
            )
        del data
        return Codes(_nearest(x, codebook), codebook.to(x.dtype))


def _compress_fixed(
    x: Tensor, values: Tensor, scale: bool, theta: Fixed | Scaled | None
) -> Fixed | Scaled:
    if not scale:
        return Fixed(_nearest(x, values), values)
    if x.numel() * len(values) <= EXACT_WORK // 4:
        found = best_scale(x, values)
    else:
        data = Sorted(_copy(x))
        largest = (
            torch.maximum(data.values[..., -1].abs(), data.values[..., 0].abs()).double()
            / values.abs().max().double()
        )
        starts = largest.unsqueeze(-1) * torch.logspace(
            -2, 0, SCALES, dtype=torch.float64, device=x.device
        )
        if isinstance(theta, Scaled) and theta.scale.shape == x.shape[:-1]:
            starts = torch.cat([starts, theta.scale.double().abs().unsqueeze(-1)], dim=-1)
        found = search_scale(data, values.double().expand(*starts.shape, -1), starts)[0].squeeze(-1)
        del data
    return Scaled(
        _nearest(x, found.unsqueeze(-1) * values if x.dim() > 1 else found * values),
        values,
        found.to(x.dtype),
    )


@dataclass(frozen=True)
class FixedCodebook(Compression[Fixed | Scaled]):
    """min ||x - s c[z]||^2 over assignments z to given values c: the nearest value; with `scale`,
    over s >= 0 too.

    s = 1: exact, O(n log K). Learned s: exact by enumeration of the n (K - 1) scales at which an
    assignment changes, up to about two million of them; above that a descent step: nearest value
    and least-squares scale in turn, on sorted data, from the best of 32 starting points and the
    last scale. Part II, section 4.2.

    Args:
        values: the codebook, at least one finite value, distinct.
        scale: learn one scale for each leading index.

    >>> import torch, leco
    >>> leco.FixedCodebook((-1, 0, 2)).compress(torch.tensor([-5.0, 0.4, 1.2]), mu=1.0).decompress()
    tensor([-1.,  0.,  2.])
    """

    values: tuple[float, ...]
    scale: bool = False

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

    def c_step(self, x: Tensor, mu: float, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        return _compress_fixed(
            x, torch.tensor(self.values, dtype=x.dtype, device=x.device), self.scale, theta
        )


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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("PowersOfTwo: c", self.c, 0, 126)

    def scaling(self) -> int | None:
        return 0 if self.scale else None

    def c_step(self, x: Tensor, mu: float, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        powers = torch.exp2(-torch.arange(self.c + 1, dtype=x.dtype, device=x.device))
        return _compress_fixed(
            x, torch.cat([-powers, powers.new_zeros(1), powers.flip(0)]), self.scale, theta
        )


@dataclass(frozen=True)
class Binary(Compression[Fixed | Scaled]):
    """{-a, +a} with a = mean |x_i|, or {-1, +1} without `scale`: the sign, +1 for 0. One bit a
    weight. Exact, O(n). Part II, theorem A.2.

    >>> import torch, leco
    >>> leco.Binary().compress(torch.tensor([1.0, -2.0, 0.0]), mu=1.0).decompress()
    tensor([ 1., -1.,  1.])
    """

    scale: bool = True

    def scaling(self) -> int | None:
        return 0 if self.scale else None

    def c_step(self, x: Tensor, mu: float, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        indices = (x >= 0).view(torch.uint8)
        values = torch.arange(-1, 2, 2, dtype=x.dtype, device=x.device)
        if not self.scale:
            return Fixed(indices, values)
        # vector_norm adds float32 one by one: 1 % off at 25 million
        return Scaled(indices, values, x.abs().mean(dim=-1))


@dataclass(frozen=True)
class Ternary(Compression[Fixed | Scaled]):
    """{-a, 0, +a}, or {-1, 0, +1} without `scale`. Exact. Part II, theorem A.3.

    With the |x_i| in decreasing order, j maximises (sum of the first j)/sqrt(j), a is the mean of
    those j, and they are the ones that are not 0: O(n log n). Without scale, 0 where |x_i| < 1/2:
    O(n).

    >>> import torch, leco
    >>> leco.Ternary().compress(torch.tensor([3.0, -5.0, 0.5]), mu=1.0).decompress()
    tensor([ 4., -4.,  0.])
    """

    scale: bool = True

    def scaling(self) -> int | None:
        return 0 if self.scale else None

    def c_step(self, x: Tensor, mu: float, theta: Fixed | Scaled | None = None) -> Fixed | Scaled:
        values = torch.arange(-1, 2, dtype=x.dtype, device=x.device)
        a = (
            _ternary_scale(x)
            if self.scale
            else torch.ones(x.shape[:-1], dtype=x.dtype, device=x.device)
        )
        half = a.unsqueeze(-1) / 2
        indices = (x > -half).view(torch.uint8) + (x >= half).view(torch.uint8)
        return Scaled(indices, values, a) if self.scale else Fixed(indices, values)


def _ternary_scale(x: Tensor) -> Tensor:
    """The mean of the j largest |x_i|, j = argmax of their sum over sqrt(j), a block of j's at a
    time: the scan needs no copy of its own."""
    ordered = sort_(x.abs().contiguous()).flip(-1)
    block = max(1, 2**20 // max(1, x.numel() // x.shape[-1]))
    total = ordered.new_zeros(*x.shape[:-1], 1, dtype=torch.float64)
    best, scale = torch.full_like(total, -1.0), torch.zeros_like(total)
    for first in range(0, x.shape[-1], block):
        sums = ordered[..., first : first + block].cumsum(-1, dtype=torch.float64) + total
        count = torch.arange(
            first + 1, first + 1 + sums.shape[-1], dtype=torch.float64, device=x.device
        )
        value, j = (sums / count.sqrt()).max(dim=-1, keepdim=True)
        better = value > best
        best = torch.where(better, value, best)
        scale = torch.where(better, sums.gather(-1, j) / count[j], scale)
        total = sums[..., -1:].clone()
    return scale.squeeze(-1).to(x.dtype)


@dataclass(frozen=True)
class Uniform(Compression[Affine]):
    """s (q - z) with integers 0 <= q < 2^bits: a uniform grid, the format of integer arithmetic.

    A descent step: nearest level and least-squares scale in turn, on sorted data, from the best of
    many ranges and the last (s, z). The error is not convex in s. Without `zero_point`, z = 2^(bits
    - 1), the signed integers; with it, z is searched too, for data that are not symmetric. O(n log
    n) to sort. Part II, section 4.2, with a search.

    >>> import torch, leco
    >>> theta = leco.Uniform(8).compress(torch.tensor([-1.0, 0.5, 0.25]), mu=1.0)
    >>> theta.zero_point
    tensor(128, dtype=torch.uint8)
    """

    bits: int
    zero_point: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Uniform: bits", self.bits, 2, 8)

    def scaling(self) -> int | None:
        return 0

    def c_step(self, x: Tensor, mu: float, theta: Affine | None = None) -> Affine:
        data = Sorted(_copy(x))
        levels, middle = 2**self.bits, 2 ** (self.bits - 1)
        low, high = (
            data.values[..., :1].double().clamp(max=0),
            data.values[..., -1:].double().clamp(min=0),
        )
        shares = torch.linspace(0.1, 1, SCALES // 2, dtype=torch.float64, device=x.device)
        scale = shares * torch.maximum(-low / middle, high / (middle - 1))
        zero = torch.full_like(scale, middle)
        if self.zero_point:
            wide = shares * (high - low) / (levels - 1)
            ratio = (
                (-low / (high - low).clamp(min=torch.finfo(torch.float64).tiny) * (levels - 1))
                .round()
                .clamp(0, levels - 1)
            )
            near = [(ratio + step).clamp(0, levels - 1).expand_as(wide) for step in (-1, 0, 1)]
            scale, zero = (
                torch.cat([scale, wide, wide, wide], dim=-1),
                torch.cat([zero, *near], dim=-1),
            )
        if theta is not None and theta.scale.shape == x.shape[:-1]:
            scale = torch.cat([scale, theta.scale.double().unsqueeze(-1)], dim=-1)
            zero = torch.cat([zero, theta.zero_point.double().unsqueeze(-1)], dim=-1)
        grid = torch.arange(levels, dtype=torch.float64, device=x.device)
        s, best = search_scale(data, grid - zero.unsqueeze(-1), scale)
        del data
        s, z = s.to(x.dtype), zero.gather(-1, best)
        q = (
            (x / torch.where(s > 0, s, torch.inf))
            .add_(z.to(x.dtype))
            .round_()
            .clamp_(0, levels - 1)
        )
        return Affine(q.to(torch.uint8), s.squeeze(-1), z.squeeze(-1).to(torch.uint8))

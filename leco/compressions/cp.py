"""CP: a sum of outer products."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.outer import Roots
from leco.compressions.protocol import Compression
from leco.compressions.stretched import in_metric
from leco.compressions.svd import left_vectors
from leco.compressions.tensors import FLAT, SWEEPS, no_worse, sizes_of, unfold
from leco.theta import CPFactors, Dense, values


@dataclass(frozen=True)
class CP(Compression[CPFactors | Dense]):
    """min ||x - sum_r a_r o b_r o c_r o ...||^2, a sum of `rank` outer products: alternating least
    squares. Descent.

    Without a last Theta, the best of several starts: leading singular vectors, the largest fibres,
    four fixed random draws. Each least squares problem has a proximal term (a multiple of the
    rounding error, to the present factor), with which no sweep raises the error.

    As layers: 1 x 1 convolution in -> rank, one depthwise convolution along each of height and
    width, 1 x 1 rank -> out. O(rank numel) for each mode and sweep. Kolda and Bader 2009 (SIAM
    Review 51), section 3.4; for convolutions, Lebedev et al., ICLR 2015.

    In a metric: the same for x scaled along each mode where the metric is an outer product; else a
    descent by majorisation (`leco.compressions.outer`), from the last Theta or from the step in the
    nearest outer product.

    Args:
        rank: from 1 to numel / (the largest size), at which every tensor is exact: x itself.
    """

    rank: int

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("CP: rank", self.rank, 1)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) < 2:
            raise ValueError(
                f"CP: takes tensors of two modes or more, not an array of shape {tuple(shape)}; "
                "use the view leco.Kernel()"
            )
        check_count("CP: rank", self.rank, 1, shape.numel() // max(shape))

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: CPFactors | Dense | None = None
    ) -> CPFactors | Dense:
        if self.rank == x.numel() // max(x.shape):
            return Dense(x.clone())
        sizes = [(n, self.rank) for n in x.shape]
        last = theta if isinstance(theta, CPFactors) and sizes_of(theta.factors) == sizes else None
        if isinstance(mu, Tensor):
            return in_metric(x, mu, last, self._plain, _stretched)
        return self._plain(x, last)

    def _plain(self, x: Tensor, theta: CPFactors | None) -> CPFactors:
        """The step without a metric, from a last Theta of the same sizes."""
        if not x.any():  # least squares leaves factors of rounding size on some processors
            return CPFactors(tuple(x.new_zeros(n, self.rank) for n in x.shape))
        if theta is not None:
            return no_worse(x, _als(x, [values(a).unsqueeze(0) for a in theta.factors]), theta)
        starts = zip(*_cp_starts(x, self.rank), strict=True)
        return _als(x, [torch.stack(factors) for factors in starts])


def _stretched(theta: CPFactors, roots: Roots) -> CPFactors:
    """The same sum with Delta times the outer product of the roots, its columns balanced."""
    factors = [values(a) * root.view(-1, 1) for a, root in zip(theta.factors, roots, strict=True)]
    return CPFactors(tuple(_balanced(factors)))


def _cp_starts(x: Tensor, rank: int) -> Iterator[list[Tensor]]:
    """Factors (n_k, rank) of a first sweep, which needs all but the first of them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(x)

    vectors = [left_vectors(unfold(x, k), rank) for k in range(x.ndim)]
    yield [torch.cat([u, draw(len(u), rank - u.shape[1]) / len(u) ** 0.5], dim=1) for u in vectors]
    longest = max(range(x.ndim), key=lambda k: x.shape[k])
    fibres, sizes = unfold(x, longest), [n for k, n in enumerate(x.shape) if k != longest]
    largest = fibres.square().sum(0).topk(rank).indices
    units = [
        torch.nn.functional.one_hot(at, n).mT.to(x)
        for at, n in zip(torch.unravel_index(largest, sizes), sizes, strict=True)
    ]
    yield [*units[:longest], fibres[:, largest], *units[longest:]]
    for _ in range(4):
        yield [draw(n, rank) for n in x.shape]


def _times_others(x: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The unfolding of `mode` times the Khatri-Rao product of the other factors, (starts, n_mode,
    rank), the longest mode contracted first."""
    start, column, modes = x.ndim, x.ndim + 1, list(range(x.ndim))
    for k in sorted(modes, key=lambda k: -factors[k].shape[1]):
        if k != mode:
            left = [start, *(m for m in modes if m not in (k, start, column)), column]
            x = torch.einsum(x, modes, factors[k], [start, k, column], left)
            modes = left
    return x


def _als(x: Tensor, factors: list[Tensor]) -> CPFactors:
    """From `factors` of (starts, n_k, rank): each in turn the least squares optimum for the others,
    near the present one. The best start."""
    total, error = (
        x.square().sum(),
        torch.full((len(factors[0]),), torch.inf, dtype=x.dtype, device=x.device),
    )
    number, one = (
        torch.finfo(x.dtype),
        torch.eye(factors[0].shape[-1], dtype=x.dtype, device=x.device),
    )
    for _ in range(SWEEPS):
        gram = target = x
        for k, a in enumerate(factors):
            gram = math.prod(
                (b.mT @ b for j, b in enumerate(factors) if j != k), start=torch.ones_like(one)
            )
            target = _times_others(x, factors, k)
            near = (
                10 * number.eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1).view(-1, 1, 1)
                + number.tiny
            )
            factors[k] = torch.linalg.solve(gram + near * one, (target + near * a).mT).mT
        last, error = (
            error,
            total
            - 2 * (target * factors[-1]).sum((-2, -1))
            + (gram * (factors[-1].mT @ factors[-1])).sum((-2, -1)),
        )
        factors = _balanced(factors)
        if (last - error <= FLAT * error.abs()).all():
            break
    best = int(error.argmin())
    return CPFactors(tuple(a[best].contiguous() for a in factors))


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    """The same tensor, with columns of one norm in all factors."""
    norms = torch.stack([torch.linalg.vector_norm(a, dim=-2, keepdim=True) for a in factors])
    common = norms.log().mean(0).exp()
    return [
        torch.where(common > 0, a * (common / norm), a)
        for a, norm in zip(factors, norms, strict=True)
    ]

"""Tucker decompositions of a kernel (out, in, height, width) or any array x (n_1, ..., n_N): a
core, and a basis for each mode.

The best one for given ranks has no closed form. The C steps are descent steps: from the bases of
the HOSVD, or of the last Theta where those are better (it may have been retrained), alternating
least squares until the error is flat. Never worse than the last Theta.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.outer import Roots, times
from leco.compressions.protocol import Compression
from leco.compressions.stretched import in_metric
from leco.compressions.svd import left_vectors
from leco.compressions.tensors import (
    FLAT,
    check_bounds,
    check_modes,
    no_worse,
    sizes_of,
    tuple_of_ranks,
    unfold,
)
from leco.theta import Dense, TuckerFactors, mode_product, values

SWEEPS = 50  # of HOOI


@dataclass(frozen=True)
class Tucker2(Compression[TuckerFactors | Dense]):
    """min ||x - core x_1 U_out x_2 U_in||^2 with core (r_out, r_in, height, width): HOSVD, then
    HOOI. Descent; x itself at full ranks.

    As layers: 1 x 1 convolution in -> r_in, height x width r_in -> r_out, 1 x 1 r_out -> out. De
    Lathauwer, De Moor, Vandewalle 2000 (SIAM J. Matrix Anal. 21, pages 1253 and 1324); for
    convolutions, Kim et al., ICLR 2016. O(n_k numel) for each mode and sweep.

    In a metric: the same for x scaled along each mode where the metric is an outer product; else a
    descent by majorisation (`leco.compressions.outer`), from the last Theta or from the step in the
    nearest outer product.

    Args:
        ranks: (r_out, r_in), from 1 to the sizes of the first two modes.

    >>> import torch, leco
    >>> theta = leco.Tucker2((4, 2)).compress(torch.randn(8, 6, 3, 3), mu=1.0)
    >>> theta.core.shape, [tuple(u.shape) for u in theta.factors]
    (torch.Size([4, 2, 3, 3]), [(8, 4), (6, 2)])
    """

    ranks: tuple[int, int]

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ranks", tuple_of_ranks("Tucker2", self.ranks, 2))

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) < 2:
            raise ValueError(
                "Tucker2: takes tensors of two modes or more, not an array of shape "
                f"{tuple(shape)}; use the view leco.Kernel()"
            )
        check_bounds("Tucker2", self.ranks, shape[:2])

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: TuckerFactors | Dense | None = None
    ) -> TuckerFactors | Dense:
        return _tucker(x, mu, self.ranks, theta)


@dataclass(frozen=True)
class Tucker(Compression[TuckerFactors | Dense]):
    """min ||x - core x_1 U_1 ... x_N U_N||^2 with core (r_1, ..., r_N): `Tucker2` with a factor for
    every mode. In a metric: as `Tucker2`.

    Args:
        ranks: (r_1, ..., r_N), from 1 to the sizes of the modes.
    """

    ranks: tuple[int, ...]

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ranks", tuple_of_ranks("Tucker", self.ranks))

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        check_modes("Tucker", self.ranks, len(shape), shape)
        check_bounds("Tucker", self.ranks, shape)

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: TuckerFactors | Dense | None = None
    ) -> TuckerFactors | Dense:
        return _tucker(x, mu, self.ranks, theta)


def orthonormal(theta: TuckerFactors) -> list[Tensor]:
    """Bases of what the factors span: with its best core, at least as good as the Theta."""
    return [torch.linalg.qr(values(u)).Q for u in theta.factors]


def project(x: Tensor, bases: list[Tensor], but: int = -1) -> Tensor:
    """x times the transposed bases, each along its mode (all but `but`): the best core for them,
    where they are orthonormal."""
    for k, u in enumerate(bases):
        if k != but:
            x = mode_product(x, u.mT, k)
    return x


def hooi(x: Tensor, bases: list[Tensor]) -> TuckerFactors:
    """From orthonormal bases: each in turn the best one for the others, the leading left singular
    vectors of x projected on those."""
    total, core = x.square().sum(), project(x, bases)
    if core.numel():
        error = total - core.square().sum()
        for _ in range(SWEEPS):
            for k, u in enumerate(bases):
                core = project(x, bases, but=k)
                bases[k] = left_vectors(unfold(core, k), u.shape[1])
                core = mode_product(core, bases[k].mT, k)
            last, error = error, total - core.square().sum()
            if last - error <= FLAT * error.abs():
                break
    return TuckerFactors(core.contiguous(), tuple(u.contiguous() for u in bases))


def stretched_factors(theta: TuckerFactors, roots: Roots) -> TuckerFactors:
    """The same decomposition with Delta times the outer product of the roots."""
    factors = [values(u) for u in theta.factors]
    return TuckerFactors(
        times(values(theta.core), roots[len(factors) :]),
        tuple(u * root.view(-1, 1) for u, root in zip(factors, roots, strict=False)),
    )


def _tucker(
    x: Tensor, mu: float | Tensor, ranks: tuple[int, ...], theta: TuckerFactors | Dense | None
) -> TuckerFactors | Dense:
    """The C step at given ranks."""
    if ranks == x.shape[: len(ranks)]:
        return Dense(x.clone())
    sizes = list(zip(x.shape, ranks, strict=False))
    last = None
    if isinstance(theta, TuckerFactors) and sizes_of(theta.factors) == sizes:
        last = theta
    if isinstance(mu, Tensor):
        return in_metric(x, mu, last, partial(_from_starts, ranks=ranks), stretched_factors)
    return _from_starts(x, last, ranks)


def _from_starts(x: Tensor, theta: TuckerFactors | None, ranks: tuple[int, ...]) -> TuckerFactors:
    """HOOI from the HOSVD, or from the last Theta where that is better."""
    starts = [[left_vectors(unfold(x, k), r) for k, r in enumerate(ranks)]]
    if theta is not None:
        starts.append(orthonormal(theta))
    best = max(starts, key=lambda bases: float(project(x, bases).square().sum()))
    return no_worse(x, hooi(x, best), theta)

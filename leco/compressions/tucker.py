"""Tucker decompositions of a kernel (out, in, height, width) or any array x (n_1, ..., n_N): a
core, and a basis for each mode.

The best one for given ranks has no closed form. The C steps are descent steps: from the bases of
the HOSVD, or of the last Theta where those are better (it may have been retrained), alternating
least squares until the error is flat. Never worse than the last Theta.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_count, check_number
from leco.compressions.costs import TuckerCost, tucker_storage
from leco.compressions.protocol import Compression, Penalty, priced
from leco.compressions.svd import left_vectors
from leco.compressions.tensors import (
    FLAT,
    check_bounds,
    check_modes,
    no_worse,
    sizes_of,
    squared_error,
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

    Args:
        ranks: (r_out, r_in), from 1 to the sizes of the first two modes.

    >>> import torch, leco
    >>> theta = leco.Tucker2((4, 2)).compress(torch.randn(8, 6, 3, 3), mu=1.0)
    >>> theta.core.shape, [tuple(u.shape) for u in theta.factors]
    (torch.Size([4, 2, 3, 3]), [(8, 4), (6, 2)])
    """

    ranks: tuple[int, int]

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
        self, x: Tensor, mu: float, theta: TuckerFactors | Dense | None = None
    ) -> TuckerFactors | Dense:
        return _tucker(x, self.ranks, theta)


@dataclass(frozen=True)
class Tucker(Compression[TuckerFactors | Dense]):
    """min ||x - core x_1 U_1 ... x_N U_N||^2 with core (r_1, ..., r_N): `Tucker2` with a factor for
    every mode.

    Args:
        ranks: (r_1, ..., r_N), from 1 to the sizes of the modes.
    """

    ranks: tuple[int, ...]

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
        self, x: Tensor, mu: float, theta: TuckerFactors | Dense | None = None
    ) -> TuckerFactors | Dense:
        return _tucker(x, self.ranks, theta)


@dataclass(frozen=True)
class TuckerSelection(Penalty[TuckerFactors | Dense]):
    """min mu/2 ||x - Delta||^2 + alpha C(ranks) over Tucker decompositions of any ranks of the
    first `modes` modes.

    In the bases of the HOSVD the error of given ranks is the energy of the full core outside its
    leading block: cumulative sums give it for all ranks at once. The best of them, then HOOI at
    those ranks; the last Theta and its ranks are a candidate too. Descent, O(number of rank tuples)
    above the HOSVD. At full ranks the tensor stays dense, at no error.

    Args:
        alpha: price of a unit of cost.
        cost: C, a function of (shape, ranks), the ranks from 0: `leco.tucker_storage` (parameters),
            `leco.TuckerMultiplyAdds(positions)`, ...
        modes: how many of the leading modes have a factor: 2 for Tucker-2, None for all.
    """

    alpha: float
    cost: TuckerCost = tucker_storage
    modes: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("TuckerSelection: alpha", self.alpha)
        if self.modes is not None:
            check_count("TuckerSelection: modes", self.modes, 1)

    def scaling(self) -> int | None:
        return 2

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) < max(2, self.modes or 2):
            raise ValueError(
                f"TuckerSelection: modes = {self.modes} takes tensors of more modes than an array "
                f"of shape {tuple(shape)} has"
            )
        if not any(cost < math.inf for cost in _costs(self.cost, shape, shape[: self.modes])):
            raise ValueError(
                f"TuckerSelection: cost = {self.cost} is infinite for all ranks; none can be chosen"
            )

    def family(
        self, x: Tensor, mu: float, theta: TuckerFactors | Dense | None = None
    ) -> Callable[[float], TuckerFactors | Dense]:
        # the errors and costs of all ranks
        sizes = x.shape[: self.modes]
        bases = [left_vectors(unfold(x, k), n) for k, n in enumerate(sizes)]
        errors = _truncation_errors(_project(x, bases), len(sizes)).flatten()
        costs = _costs(self.cost, x.shape, sizes)

        def best_ranks(alpha: float) -> list[int]:
            prices = torch.tensor([priced(alpha, cost) for cost in costs], dtype=torch.float64)
            place = (prices.to(x.device) + mu / 2 * errors).argmin().cpu()
            return [int(r) for r in torch.unravel_index(place, [n + 1 for n in sizes])]

        def select(alpha: float) -> TuckerFactors | Dense:
            # those of the least objective
            ranks = best_ranks(alpha)
            if ranks == list(sizes):
                found: TuckerFactors | Dense = Dense(x.clone())
            else:
                found = _hooi(x, [u[:, :r] for u, r in zip(bases, ranks, strict=True)])
            if not isinstance(theta, TuckerFactors):
                return found

            # or those of the last Theta
            last = no_worse(x, _hooi(x, _orthonormal(theta)), theta)
            at = [
                mu / 2 * float(squared_error(x, t)) + priced(alpha, self.usage(t))
                for t in (found, last)
            ]
            return found if at[0] <= at[1] else last

        return select

    def usage(self, theta: TuckerFactors | Dense) -> float:
        if isinstance(theta, Dense):
            return self.cost(theta.values.shape, tuple(theta.values.shape[: self.modes]))
        core, factors = values(theta.core), [values(u) for u in theta.factors]
        shape = torch.Size([*(u.shape[0] for u in factors), *core.shape[len(factors) :]])
        return self.cost(shape, tuple(core.shape[: len(factors)]))


def _costs(cost: TuckerCost, shape: torch.Size, sizes: Sequence[int]) -> list[float]:
    """C of all ranks from 0 to the sizes of the modes, in the order of `itertools.product`."""
    return [cost(shape, ranks) for ranks in itertools.product(*(range(n + 1) for n in sizes))]


def _orthonormal(theta: TuckerFactors) -> list[Tensor]:
    """Bases of what the factors span: with its best core, at least as good as the Theta."""
    return [torch.linalg.qr(values(u)).Q for u in theta.factors]


def _project(x: Tensor, bases: list[Tensor], but: int = -1) -> Tensor:
    """x times the transposed bases, each along its mode (all but `but`): the best core for them,
    where they are orthonormal."""
    for k, u in enumerate(bases):
        if k != but:
            x = mode_product(x, u.mT, k)
    return x


def _hooi(x: Tensor, bases: list[Tensor]) -> TuckerFactors:
    """From orthonormal bases: each in turn the best one for the others, the leading left singular
    vectors of x projected on those."""
    total, core = x.square().sum(), _project(x, bases)
    if core.numel():
        error = total - core.square().sum()
        for _ in range(SWEEPS):
            for k, u in enumerate(bases):
                core = _project(x, bases, but=k)
                bases[k] = left_vectors(unfold(core, k), u.shape[1])
                core = mode_product(core, bases[k].mT, k)
            last, error = error, total - core.square().sum()
            if last - error <= FLAT * error.abs():
                break
    return TuckerFactors(core.contiguous(), tuple(u.contiguous() for u in bases))


def _tucker(
    x: Tensor, ranks: tuple[int, ...], theta: TuckerFactors | Dense | None
) -> TuckerFactors | Dense:
    """The C step at given ranks: from the HOSVD, or from the last Theta where that is better."""
    if ranks == x.shape[: len(ranks)]:
        return Dense(x.clone())
    starts = [[left_vectors(unfold(x, k), r) for k, r in enumerate(ranks)]]
    if isinstance(theta, TuckerFactors) and sizes_of(theta.factors) == list(
        zip(x.shape, ranks, strict=False)
    ):
        starts.append(_orthonormal(theta))
    return no_worse(
        x, _hooi(x, max(starts, key=lambda bases: float(_project(x, bases).square().sum()))), theta
    )


def _truncation_errors(core: Tensor, modes: int) -> Tensor:
    """Energy of the core outside its leading block, for all sizes of the block: (n_1 + 1, ...,
    n_modes + 1), float64."""
    energy = (
        core.double().square().flatten(modes).sum(-1)
        if core.ndim > modes
        else core.double().square()
    )
    for k in range(modes):
        energy = torch.cat([torch.zeros_like(energy.narrow(k, 0, 1)), energy.cumsum(k)], dim=k)
    return energy.flatten()[-1] - energy

"""Tucker decompositions of any ranks, by their price."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count, check_number
from leco.compressions.costs import TuckerCost, tucker_storage
from leco.compressions.metric import distortion
from leco.compressions.outer import Outer, copied, descend, inverse, outer
from leco.compressions.protocol import Penalty, priced
from leco.compressions.svd import left_vectors
from leco.compressions.tensors import no_worse, squared_error, unfold
from leco.compressions.tucker import hooi, orthonormal, project, stretched_factors
from leco.theta import Dense, TuckerFactors, values


@dataclass(frozen=True)
class TuckerSelection(Penalty[TuckerFactors | Dense]):
    """min mu/2 ||x - Delta||^2 + alpha C(ranks) over Tucker decompositions of any ranks of the
    first `modes` modes.

    In the bases of the HOSVD the error of given ranks is the energy of the full core outside its
    leading block: cumulative sums give it for all ranks at once. The best of them, then HOOI at
    those ranks; the last Theta and its ranks are a candidate too. Descent, O(number of rank tuples)
    above the HOSVD. At full ranks the tensor stays dense, at no error.

    In a metric: the same for x scaled along each mode where the metric is an outer product; else a
    descent by majorisation (`leco.compressions.outer`), from the last Theta or from the step in the
    nearest outer product. `family` is then one step of it for each alpha.

    Args:
        alpha: price of a unit of cost.
        cost: C, a function of (shape, ranks), the ranks from 0: `leco.tucker_storage` (parameters),
            `leco.TuckerMultiplyAdds(positions)`, ...
        modes: how many of the leading modes have a factor: 2 for Tucker-2, None for all.
    """

    alpha: float
    cost: TuckerCost = tucker_storage
    modes: int | None = 2

    takes_metric: ClassVar[bool] = True

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

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: TuckerFactors | Dense | None = None
    ) -> TuckerFactors | Dense:
        if not isinstance(mu, Tensor):
            return self._plain_family(x, mu, theta)(self.alpha)
        own = outer(mu, x.ndim)

        def step(delta: Tensor | None, last: TuckerFactors | Dense | None) -> TuckerFactors | Dense:
            return self._scaled_family(x, mu, own, delta, last)(self.alpha)

        # a step on the scaled x, or a descent
        if own.share is None:
            return step(None, theta)
        warm = isinstance(theta, (TuckerFactors, Dense))
        return descend(
            copied(theta) if warm else step(None, None),
            step,
            lambda found, delta: distortion(x, delta, mu) + self.price(found),
        )

    def family(
        self, x: Tensor, mu: float | Tensor, theta: TuckerFactors | Dense | None = None
    ) -> Callable[[float], TuckerFactors | Dense]:
        if not isinstance(mu, Tensor):
            return self._plain_family(x, mu, theta)
        delta = None if theta is None else theta.decompress()
        return self._scaled_family(x, mu, outer(mu, x.ndim), delta, theta)

    def _scaled_family(
        self,
        x: Tensor,
        mu: Tensor,
        own: Outer,
        delta: Tensor | None,
        theta: TuckerFactors | Dense | None,
    ) -> Callable[[float], TuckerFactors | Dense]:
        """The family of x, or of what a majorisation at a Delta puts in its place, scaled."""
        target, roots = own.target(x, delta)
        last = stretched_factors(theta, roots) if isinstance(theta, TuckerFactors) else None
        inner = self._plain_family(target, 1.0, last)

        def select(alpha: float) -> TuckerFactors | Dense:
            found, dense = inner(alpha), Dense(x.clone())
            if isinstance(found, Dense):
                return dense
            found = stretched_factors(found, inverse(roots))
            if own.share is None:
                return found

            # or x itself, whose distortion is 0 without a majorisation too
            reached = distortion(x, found.decompress(), mu) + priced(alpha, self.usage(found))
            return found if reached <= priced(alpha, self.usage(dense)) else dense

        return select

    def _plain_family(
        self, x: Tensor, mu: float, theta: TuckerFactors | Dense | None
    ) -> Callable[[float], TuckerFactors | Dense]:
        # the errors and costs of all ranks
        sizes = x.shape[: self.modes]
        bases = [left_vectors(unfold(x, k), n) for k, n in enumerate(sizes)]
        errors = _truncation_errors(project(x, bases), len(sizes)).flatten()
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
                found = hooi(x, [u[:, :r] for u, r in zip(bases, ranks, strict=True)])
            if not isinstance(theta, TuckerFactors):
                return found

            # or those of the last Theta
            last = no_worse(x, hooi(x, orthonormal(theta)), theta)
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

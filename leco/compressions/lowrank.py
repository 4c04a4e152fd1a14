"""Low rank: C steps on matrices x (..., m, n) by their singular values s_1 >= s_2 >= ...

They are exact (Eckart, Young, Mirsky), also in a metric that is an outer product, a number for each
row times one for each column: scale, SVD, scale back. In any other metric they are descent steps by
majorisation (`leco.compressions.outer`): the truncated SVD of a corrected x in an outer product at
or above the metric, repeated. No step raises the objective, and none ends above the last Theta.

Idelbayev and Carreira-Perpinan, CVPR 2020 (rank selection).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeGuard

import torch
from torch import Tensor

from leco.compressions.checks import check_count, check_number
from leco.compressions.costs import RankCost, storage
from leco.compressions.metric import distortion
from leco.compressions.outer import Outer, copied, descend, outer
from leco.compressions.protocol import Compression, Offer, Penalty, offer_of
from leco.compressions.ranks import (
    below,
    check_costs,
    check_matrix,
    cost_of_pair,
    costs_of,
    delta_of,
    truncation,
)
from leco.theta import Dense, Factors


@dataclass(frozen=True)
class LowRank(Compression[Factors | Dense]):
    """min ||x - u v||^2 with u (m, r), v (r, n): the truncated SVD; x itself where r is min(m, n).
    O(m n min(m, n)).

    In a metric: exact where it is an outer product; else descent, at most 20 SVDs, from the last
    Theta, or from the truncated SVD in the nearest outer product.

    Args:
        rank: r, from 0 to min(m, n).

    >>> import torch, leco
    >>> leco.LowRank(1).compress(torch.diag(torch.tensor([3.0, 1.0])), mu=1.0).decompress()
    tensor([[3., 0.],
            [0., 0.]])
    """

    rank: int

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("LowRank: rank", self.rank, 0)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        check_matrix("LowRank", shape)
        check_count("LowRank: rank", self.rank, 0, min(shape[-2:]))

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: Factors | Dense | None = None
    ) -> Factors | Dense:
        if self.rank >= min(x.shape[-2:]):
            return Dense(x.clone())
        own = outer(mu, 2) if isinstance(mu, Tensor) else None

        def at(delta: Tensor | None) -> Factors:
            return Factors(*truncation(x, mu, delta, own).factors(self.rank))

        # exact, or a descent
        if own is None or own.share is None or not self.rank:
            return at(None)
        if x.ndim > 2 and isinstance(mu, Tensor):
            return self._each(x, mu, theta)
        return descend(
            copied(theta) if self._fits(theta, x) else at(None),
            lambda delta, _: at(delta),
            lambda found, delta: distortion(x, delta, mu),
        )

    def _each(self, x: Tensor, mu: Tensor, theta: Factors | Dense | None) -> Factors:
        """The descent of each matrix on its own, so that it ends where it would end alone."""
        warm = theta if self._fits(theta, x) else None
        rows = [None] * len(x) if warm is None else list(map(Factors, warm.u, warm.v))
        found = [self.c_step(*own) for own in zip(x, mu, rows, strict=True)]
        us, vs = zip(*((own.u, own.v) for own in found if isinstance(own, Factors)), strict=True)
        return Factors(torch.stack(us), torch.stack(vs))

    def _fits(self, theta: Factors | Dense | None, x: Tensor) -> TypeGuard[Factors]:
        """Whether a Theta has the sizes of those for x."""
        return (
            isinstance(theta, Factors)
            and theta.shape() == x.shape
            and theta.u.shape[-1] == self.rank
        )


@dataclass(frozen=True)
class RankSelection(Penalty[Factors | Dense]):
    """min over r, u, v of mu/2 ||x - u v||^2 + alpha C(r): the r of least alpha C(r) + mu/2 (sum of
    s_i^2 for i > r), by enumeration.

    One SVD, for any C. At full rank the matrix stays dense, at no error.

    In a metric: exact where it is an outer product; else descent, at most 20 SVDs. `family` and
    `offers` are then one step of it for each alpha, with one SVD for all: by the majorisation at
    the last Theta, or, without one, by the singular values in the nearest outer product.

    Args:
        alpha: price of a unit of cost.
        cost: C, a function of (shape, rank): `leco.storage` (parameters),
            `leco.MultiplyAdds(positions)`, a `leco.Table` of seconds, and so on.

    >>> import torch, leco
    >>> x = torch.diag(torch.tensor([3.0, 0.1, 0.1]))
    >>> leco.RankSelection(alpha=0.1).compress(x, mu=1.0).decompress().diag()
    tensor([3., 0., 0.])
    """

    alpha: float
    cost: RankCost = storage

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("RankSelection: alpha", self.alpha)

    def scaling(self) -> int | None:
        return 2

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        check_matrix("RankSelection", shape)
        if len(shape) != 2:
            raise ValueError(
                f"RankSelection: takes one matrix, not an array of shape {tuple(shape)}; its "
                "members would have different ranks"
            )
        check_costs("RankSelection", self.cost, [shape])

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: Factors | Dense | None = None
    ) -> Factors | Dense:
        own = outer(mu, 2) if isinstance(mu, Tensor) else None

        def step(delta: Tensor | None) -> Factors | Dense:
            return self._families(x, mu, delta, own)[0](self.alpha)

        # exact, or a descent
        if own is None or own.share is None:
            return step(None)
        return descend(
            copied(theta) if isinstance(theta, (Factors, Dense)) else step(None),
            lambda delta, _: step(delta),
            lambda found, delta: distortion(x, delta, mu) + self.price(found),
        )

    def family(
        self, x: Tensor, mu: float | Tensor, theta: Factors | Dense | None = None
    ) -> Callable[[float], Factors | Dense]:
        return self._families(x, mu, delta_of(theta, mu))[0]

    def offers(
        self, x: Tensor, mu: float | Tensor, theta: Factors | Dense | None = None
    ) -> list[Offer]:
        """All ranks; and those that cost less than the full one, whose leap to no distortion hides
        the ranks near it from a price."""
        return [offer_of(self, family) for family in self._families(x, mu, delta_of(theta, mu))]

    def _families(
        self, x: Tensor, mu: float | Tensor, delta: Tensor | None, own: Outer | None = None
    ) -> list[Callable[[float], Factors | Dense]]:
        ranks, costs = truncation(x, mu, delta, own), costs_of(self.cost, x.shape)

        def select(alpha: float, costs: list[float]) -> Factors | Dense:
            rank, _ = ranks.select(alpha, costs)
            return Dense(x.clone()) if rank == ranks.full else Factors(*ranks.factors(rank))

        return [partial(select, costs=part) for part in (costs, below(costs, costs[-1])) if part]

    def usage(self, theta: Factors | Dense) -> float:
        if isinstance(theta, Dense):
            return self.cost(theta.values.shape, min(theta.values.shape))
        return cost_of_pair(self.cost, theta)

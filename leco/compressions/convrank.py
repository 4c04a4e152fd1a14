"""Low rank of convolutions: the rank and the matrix of a kernel by their price."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_number
from leco.compressions.costs import RankCost, storage
from leco.compressions.metric import distortion
from leco.compressions.outer import Outer, copied, descend, outer
from leco.compressions.protocol import Offer, Penalty, offer_of, priced
from leco.compressions.ranks import below, check_costs, cost_of_pair, costs_of, delta_of, truncation
from leco.theta import ConvFactors, Dense
from leco.views import Matrix


@dataclass(frozen=True)
class ConvRankSelection(Penalty[ConvFactors | Dense]):
    """`RankSelection` of a convolution kernel (out, in, height, width) that also chooses its
    matrix: the minimum over (scheme, r).

    Scheme 1, out x (in height width), is a convolution in -> r of height x width and then one r ->
    out of 1 x 1; scheme 2, (out height) x (in width), one in -> r of 1 x width and then one r ->
    out of height x 1. One SVD for each scheme. ICASSP 2021. The view is `leco.Kernel()`; a given
    rank of a given scheme is `LowRank` over `leco.Matrix((0,))` or `leco.Matrix((0, 2))`.

    In a metric: exact where it is an outer product in the matrix of every scheme; else descent, as
    `RankSelection`.

    Args:
        alpha: price of a unit of cost.
        cost: C, a function of (shape of the scheme's matrix, rank).
        schemes: the candidates.
    """

    alpha: float
    cost: RankCost = storage
    schemes: tuple[int, ...] = (1, 2)

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ConvRankSelection: alpha", self.alpha)
        if not self.schemes or not set(self.schemes) <= {1, 2}:
            raise ValueError(
                f"ConvRankSelection: schemes = {self.schemes} must be (1,), (2,) or (1, 2)"
            )

    def scaling(self) -> int | None:
        return 2

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) != 4:
            raise ValueError(
                "ConvRankSelection: takes a kernel (out, in, height, width), not an array of "
                f"shape {tuple(shape)}"
            )
        shapes = [scheme_view(scheme).shape([shape]) for scheme in self.schemes]
        check_costs("ConvRankSelection", self.cost, shapes)

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: ConvFactors | Dense | None = None
    ) -> ConvFactors | Dense:
        outers = self._outers(mu)

        def step(delta: Tensor | None) -> ConvFactors | Dense:
            return self._families(x, mu, delta, outers)[0](self.alpha)

        # exact, or a descent
        if all(own is None or own.share is None for own in outers.values()):
            return step(None)
        return descend(
            copied(theta) if isinstance(theta, (ConvFactors, Dense)) else step(None),
            lambda delta, _: step(delta),
            lambda found, delta: distortion(x, delta, mu) + self.price(found),
        )

    def family(
        self, x: Tensor, mu: float | Tensor, theta: ConvFactors | Dense | None = None
    ) -> Callable[[float], ConvFactors | Dense]:
        return self._families(x, mu, delta_of(theta, mu), self._outers(mu))[0]

    def offers(
        self, x: Tensor, mu: float | Tensor, theta: ConvFactors | Dense | None = None
    ) -> list[Offer]:
        """As for `RankSelection`: all ranks, and those that cost less than the full one."""
        families = self._families(x, mu, delta_of(theta, mu), self._outers(mu))
        return [offer_of(self, family) for family in families]

    def _outers(self, mu: float | Tensor) -> dict[int, Outer | None]:
        """The outer products of a metric, for each scheme's matrix."""
        return {
            scheme: outer(scheme_view(scheme).forward([mu]), 2) if isinstance(mu, Tensor) else None
            for scheme in self.schemes
        }

    def _families(
        self,
        x: Tensor,
        mu: float | Tensor,
        delta: Tensor | None,
        outers: dict[int, Outer | None],
    ) -> list[Callable[[float], ConvFactors | Dense]]:
        # the truncations of each scheme's matrix, and their costs
        ranks, costs = {}, {}
        for scheme in self.schemes:
            view = scheme_view(scheme)
            matrix = view.forward([x])
            weights = view.forward([mu]) if isinstance(mu, Tensor) else mu
            last = None if delta is None else view.forward([delta])
            ranks[scheme] = truncation(matrix, weights, last, outers[scheme])
            costs[scheme] = costs_of(self.cost, matrix.shape)
        dense = min(own[-1] for own in costs.values())

        def select(
            alpha: float, costs: dict[int, list[float]], dense: float
        ) -> ConvFactors | Dense:
            chosen, least = None, priced(alpha, dense)
            for scheme, own in costs.items():
                rank, objective = ranks[scheme].select(alpha, own)
                if rank < ranks[scheme].full and objective < least:
                    (u, v), (height, width) = ranks[scheme].factors(rank), x.shape[2:]
                    chosen, least = ConvFactors(u, v, scheme, height, width), objective
            return Dense(x.clone()) if chosen is None else chosen

        # all ranks, and those below the dense kernel
        cheaper = {scheme: below(own, dense) for scheme, own in costs.items() if own[0] < dense}
        return [partial(select, costs=costs, dense=dense)] + (
            [partial(select, costs=cheaper, dense=math.inf)] if cheaper else []
        )

    def usage(self, theta: ConvFactors | Dense) -> float:
        if isinstance(theta, ConvFactors):
            return cost_of_pair(self.cost, theta)
        shapes = [scheme_view(scheme).shape([theta.values.shape]) for scheme in self.schemes]
        return min(self.cost(shape, min(shape)) for shape in shapes)


def scheme_view(scheme: int) -> Matrix:
    """The view that gives the scheme's matrix."""
    return Matrix((0,) if scheme == 1 else (0, 2))

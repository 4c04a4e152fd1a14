"""Low rank: C steps on matrices x (..., m, n) by their singular values s_1 >= s_2 >= ... All of
them are exact (Eckart, Young, Mirsky).

Idelbayev and Carreira-Perpinan, CVPR 2020 (rank selection), ICASSP 2021 (the matrix of a
convolution).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leco.compressions.checks import check_count, check_number
from leco.compressions.costs import RankCost, storage
from leco.compressions.protocol import Compression, Offer, Penalty, offer_of, priced
from leco.compressions.tensors import thin_svd
from leco.theta import ConvFactors, Dense, Factors
from leco.views import Matrix


def _factors(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Factors:
    """The truncated SVD as a balanced pair: both factors take the square root of the singular
    values."""
    root = s[..., :rank].sqrt()
    return Factors(
        (u[..., :rank] * root.unsqueeze(-2)).contiguous(),
        (root.unsqueeze(-1) * vh[..., :rank, :]).contiguous(),
    )


@dataclass(frozen=True)
class LowRank(Compression[Factors | Dense]):
    """min ||x - u v||^2 with u (m, r), v (r, n): the truncated SVD; x itself where r is min(m, n).
    O(m n min(m, n)).

    Args:
        rank: r, from 0 to min(m, n).

    >>> import torch, leco
    >>> leco.LowRank(1).compress(torch.diag(torch.tensor([3.0, 1.0])), mu=1.0).decompress()
    tensor([[3., 0.],
            [0., 0.]])
    """

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("LowRank: rank", self.rank, 0)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        _check_matrix("LowRank", shape)
        check_count("LowRank: rank", self.rank, 0, min(shape[-2:]))

    def c_step(self, x: Tensor, mu: float, theta: Factors | Dense | None = None) -> Factors | Dense:
        if self.rank >= min(x.shape[-2:]):
            return Dense(x.clone())
        u, s, vh = thin_svd(x)
        return _factors(u, s, vh, self.rank)


@dataclass(frozen=True)
class RankSelection(Penalty[Factors | Dense]):
    """min over r, u, v of mu/2 ||x - u v||^2 + alpha C(r): the r of least alpha C(r) + mu/2 (sum of
    s_i^2 for i > r), by enumeration.

    One SVD, for any C. At full rank the matrix stays dense, at no error.

    Args:
        alpha: price of a unit of cost.
        cost: C, a function of (shape, rank): `leco.storage` (parameters),
            `leco.MultiplyAdds(positions)`, a `leco.Table` of seconds, ...

    >>> import torch, leco
    >>> x = torch.diag(torch.tensor([3.0, 0.1, 0.1]))
    >>> leco.RankSelection(alpha=0.1).compress(x, mu=1.0).decompress().diag()
    tensor([3., 0., 0.])
    """

    alpha: float
    cost: RankCost = storage

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("RankSelection: alpha", self.alpha)

    def scaling(self) -> int | None:
        return 2

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        _check_matrix("RankSelection", shape)
        if len(shape) != 2:
            raise ValueError(
                f"RankSelection: takes one matrix, not an array of shape {tuple(shape)}; its "
                "members would have different ranks"
            )
        _check_costs("RankSelection", self.cost, [shape])

    def family(
        self, x: Tensor, mu: float, theta: Factors | Dense | None = None
    ) -> Callable[[float], Factors | Dense]:
        return self._families(x, mu)[0]

    def offers(self, x: Tensor, mu: float, theta: Factors | Dense | None = None) -> list[Offer]:
        """All ranks; and those that cost less than the full one, whose leap to no distortion hides
        the ranks near it from a price."""
        return [offer_of(self, family) for family in self._families(x, mu)]

    def _families(self, x: Tensor, mu: float) -> list[Callable[[float], Factors | Dense]]:
        u, s, vh = thin_svd(x)
        costs = _costs(self.cost, x.shape)

        def select(alpha: float, costs: list[float]) -> Factors | Dense:
            rank, _ = _select(s, alpha, mu, costs)
            return Dense(x.clone()) if rank == len(s) else _factors(u, s, vh, rank)

        return [partial(select, costs=part) for part in (costs, _below(costs, costs[-1])) if part]

    def usage(self, theta: Factors | Dense) -> float:
        if isinstance(theta, Dense):
            return self.cost(theta.values.shape, min(theta.values.shape))
        return _cost_of_pair(self.cost, theta)


@dataclass(frozen=True)
class ConvRankSelection(Penalty[ConvFactors | Dense]):
    """`RankSelection` of a convolution kernel (out, in, height, width) that also chooses its
    matrix: the minimum over (scheme, r).

    Scheme 1, out x (in height width), is a convolution in -> r of height x width and then one r ->
    out of 1 x 1; scheme 2, (out height) x (in width), one in -> r of 1 x width and then one r ->
    out of height x 1. One SVD for each scheme. ICASSP 2021. The view is `leco.Kernel()`; a given
    rank of a given scheme is `LowRank` over `leco.Matrix((0,))` or `leco.Matrix((0, 2))`.

    Args:
        alpha: price of a unit of cost.
        cost: C, a function of (shape of the scheme's matrix, rank).
        schemes: the candidates.
    """

    alpha: float
    cost: RankCost = storage
    schemes: tuple[int, ...] = (1, 2)

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
        shapes = [_scheme_view(scheme).shape([shape]) for scheme in self.schemes]
        _check_costs("ConvRankSelection", self.cost, shapes)

    def family(
        self, x: Tensor, mu: float, theta: ConvFactors | Dense | None = None
    ) -> Callable[[float], ConvFactors | Dense]:
        return self._families(x, mu)[0]

    def offers(self, x: Tensor, mu: float, theta: ConvFactors | Dense | None = None) -> list[Offer]:
        """As for `RankSelection`: all ranks, and those that cost less than the full one."""
        return [offer_of(self, family) for family in self._families(x, mu)]

    def _families(self, x: Tensor, mu: float) -> list[Callable[[float], ConvFactors | Dense]]:
        matrices = {scheme: _scheme_view(scheme).forward([x]) for scheme in self.schemes}
        decompositions = {scheme: thin_svd(matrix) for scheme, matrix in matrices.items()}
        costs = {scheme: _costs(self.cost, matrix.shape) for scheme, matrix in matrices.items()}
        dense = min(own[-1] for own in costs.values())

        def select(
            alpha: float, costs: dict[int, list[float]], dense: float
        ) -> ConvFactors | Dense:
            chosen, least = None, priced(alpha, dense)
            for scheme, own in costs.items():
                u, s, vh = decompositions[scheme]
                rank, objective = _select(s, alpha, mu, own)
                if rank < len(s) and objective < least:
                    chosen, least = (
                        ConvFactors(*_factors(u, s, vh, rank), scheme, x.shape[2], x.shape[3]),
                        objective,
                    )
            return Dense(x.clone()) if chosen is None else chosen

        cheaper = {scheme: _below(own, dense) for scheme, own in costs.items() if own[0] < dense}
        return [partial(select, costs=costs, dense=dense)] + (
            [partial(select, costs=cheaper, dense=math.inf)] if cheaper else []
        )

    def usage(self, theta: ConvFactors | Dense) -> float:
        if isinstance(theta, ConvFactors):
            return _cost_of_pair(self.cost, theta)
        shapes = [_scheme_view(scheme).shape([theta.values.shape]) for scheme in self.schemes]
        return min(self.cost(shape, min(shape)) for shape in shapes)


def _scheme_view(scheme: int) -> Matrix:
    """The view that gives the scheme's matrix."""
    return Matrix((0,) if scheme == 1 else (0, 2))


def _check_matrix(name: str, shape: torch.Size) -> None:
    """Raise ValueError where a shape is not that of matrices."""
    if len(shape) < 2:
        raise ValueError(
            f"{name}: takes matrices, not an array of shape {tuple(shape)}; use the view "
            "leco.Matrix()"
        )


def _cost_of_pair(cost: RankCost, theta: Factors | ConvFactors) -> float:
    """C of a pair of factors u (m, r), v (r, n)."""
    return cost(torch.Size([theta.u.shape[0], theta.v.shape[1]]), theta.u.shape[1])


def _check_costs(name: str, cost: RankCost, shapes: list[torch.Size]) -> None:
    """Raise ValueError where no rank of any of the matrices has a finite cost."""
    costs = [own for shape in shapes for own in _costs(cost, shape)]
    if not any(own < math.inf for own in costs):
        raise ValueError(f"{name}: cost = {cost} is infinite for every rank; none can be chosen")


def _costs(cost: RankCost, shape: torch.Size) -> list[float]:
    """C(r) for r = 0 to min(m, n)."""
    return [cost(shape, rank) for rank in range(min(shape) + 1)]


def _below(costs: list[float], dense: float) -> list[float]:
    """The costs of the ranks below the first that costs as much as the dense matrix."""
    return list(itertools.takewhile(lambda cost: cost < dense, costs))


def _select(s: Tensor, alpha: float, mu: float, costs: list[float]) -> tuple[int, float]:
    """The rank of least alpha C(r) + mu/2 sum of s_i^2 over i > r, and that objective; the smallest
    among equals."""
    # sums of the squares behind each rank
    tails = torch.nn.functional.pad(s.double().square().flip(0).cumsum(0), (1, 0)).flip(0)

    # a rank of infinite cost is never chosen
    prices = torch.tensor([priced(alpha, cost) for cost in costs], dtype=torch.float64)
    objective = prices.to(s.device) + mu / 2 * tails[: len(costs)]
    rank = int(objective.argmin())
    return rank, float(objective[rank])

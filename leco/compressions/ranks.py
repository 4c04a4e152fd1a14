"""Ranks of matrices by their price: what the compressions that choose a rank share."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.costs import RankCost
from leco.compressions.outer import Outer, Roots, inverse, offset, outer
from leco.compressions.protocol import priced
from leco.compressions.svd import Spectrum, spectrum
from leco.theta import ConvFactors, Factors, Theta


@dataclass(frozen=True)
class Truncation:
    """The objective of each rank of a matrix: mu/2 (sum of s_i^2 for i > r) + `constant`, and the
    factors that reach it.

    Without a metric, and in an outer product, it is the distortion. Else it is a bound of it, equal
    to it at the Delta that the bound was made for; without such a Delta, an estimate.
    """

    spectrum: Spectrum
    mu: float
    roots: Roots | None = None
    constant: float = 0.0

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """u (..., m, rank) and v (..., rank, n), balanced."""
        u, v = self.spectrum.factors(rank)
        if self.roots is None:
            return u, v
        rows, columns = inverse(self.roots)
        return _balanced(u * rows, v * columns)

    def select(self, alpha: float, costs: list[float]) -> tuple[int, float]:
        """The rank of least alpha C(r) + objective, and that sum; the smallest among equals. The
        full rank is at no distortion."""
        # sums of the squares behind each rank
        s = self.spectrum.s.double()
        tails = torch.nn.functional.pad(s.square().flip(0).cumsum(0), (1, 0)).flip(0)
        errors = self.mu / 2 * tails
        errors[:-1] += self.constant

        # a rank of infinite cost is never chosen
        prices = torch.tensor([priced(alpha, cost) for cost in costs], dtype=torch.float64)
        objective = prices.to(s.device) + errors[: len(costs)]
        rank = int(objective.argmin())
        return rank, float(objective[rank])

    @property
    def full(self) -> int:
        """The full rank."""
        return self.spectrum.s.shape[-1]


def _balanced(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, each column of u with the norm of its row of v."""
    heights = torch.linalg.vector_norm(u, dim=-2, keepdim=True)
    widths = torch.linalg.vector_norm(v, dim=-1, keepdim=True).mT
    scale = torch.where(heights > 0, (widths / heights).sqrt_(), 1.0)
    scale = torch.where(scale > 0, scale, 1.0)
    return u * scale, v / scale.mT


def truncation(
    x: Tensor, mu: float | Tensor, delta: Tensor | None, own: Outer | None
) -> Truncation:
    """The truncations of matrices x (..., m, n).

    Args:
        mu: a number, or a metric.
        delta: in a metric that is no outer product, the Delta at which it is majorised.
        own: the outer products of the metric, where they are known already.
    """
    if not isinstance(mu, Tensor):
        return Truncation(spectrum(x), mu)
    own = outer(mu, 2) if own is None else own
    target, roots = own.target(x, delta)
    return Truncation(spectrum(target), 1.0, roots, offset(x, mu, own, delta))


def delta_of(theta: Theta | None, mu: float | Tensor) -> Tensor | None:
    """The Delta at which a metric is majorised: that of the last Theta."""
    return theta.decompress() if theta is not None and isinstance(mu, Tensor) else None


def check_matrix(name: str, shape: torch.Size) -> None:
    """Raise ValueError where a shape is not that of matrices."""
    if len(shape) < 2:
        raise ValueError(
            f"{name}: takes matrices, not an array of shape {tuple(shape)}; use the view "
            "leco.Matrix()"
        )


def check_costs(name: str, cost: RankCost, shapes: list[torch.Size]) -> None:
    """Raise ValueError where no rank of any of the matrices has a finite cost."""
    costs = [own for shape in shapes for own in costs_of(cost, shape)]
    if not any(own < math.inf for own in costs):
        raise ValueError(f"{name}: cost = {cost} is infinite for every rank; none can be chosen")


def cost_of_pair(cost: RankCost, theta: Factors | ConvFactors) -> float:
    """C of a pair of factors u (m, r), v (r, n)."""
    return cost(torch.Size([theta.u.shape[0], theta.v.shape[1]]), theta.u.shape[1])


def costs_of(cost: RankCost, shape: torch.Size) -> list[float]:
    """C(r) for r = 0 to min(m, n)."""
    return [cost(shape, rank) for rank in range(min(shape) + 1)]


def below(costs: list[float], dense: float) -> list[float]:
    """The costs of the ranks below the first that costs as much as the dense matrix."""
    return list(itertools.takewhile(lambda cost: cost < dense, costs))

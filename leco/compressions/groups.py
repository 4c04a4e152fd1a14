"""Structured pruning: C steps on whole groups x (..., groups, size), and on N of every M weights.
All of them are exact.

What a group is, the view says: a row, a kernel, a block of a matrix, or all that belongs to one
channel of a net (`leco.Channels`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_count, check_number, check_share, plain, share
from leco.compressions.protocol import Compression, Penalty
from leco.compressions.pruning import TopK
from leco.theta import GroupSparse, NMSparse, Sparse, patterns

CHUNK = 2**17  # weights that N:M works on at a time: they stay in the cache


def _norms(x: Tensor) -> Tensor:
    """||x_g||, (..., groups) float64, in which no square overflows."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)


def _kept(x: Tensor, mask: Tensor) -> GroupSparse:
    """The groups where the mask is True."""
    return GroupSparse(mask, x.reshape(-1, x.shape[-1])[mask.view(-1).nonzero().squeeze(1)])


def _check_groups(name: str, shape: torch.Size) -> None:
    """Raise ValueError where a shape has no dimension of groups."""
    if len(shape) < 2:
        raise ValueError(
            f"{name}: takes groups (..., groups, size), not an array of shape {tuple(shape)}; "
            "choose a view such as leco.Rows()"
        )


@dataclass(frozen=True)
class GroupTopK(Compression[GroupSparse]):
    """min ||x - theta||^2 subject to at most kappa groups theta_g not 0: keep the kappa groups of
    largest ||x_g||.

    Exact; among equal norms the first ones are kept. Keeping group g lowers the objective by
    ||x_g||^2, whatever else is kept. O(n). Wen et al., NeurIPS 2016, learn such groups by a
    penalty; the constraint form is that of `leco.TopK`.

    Args:
        kappa: how many groups are kept (for each leading index): a count (int), or a share of them
            (float below 1), which is rounded; a share above 0 keeps at least 1.

    >>> import torch, leco
    >>> leco.GroupTopK(1).compress(torch.tensor([[1.0, 1.0], [0.0, 2.0]]), mu=1.0).decompress()
    tensor([[0., 0.],
            [0., 2.]])
    """

    kappa: int | float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("GroupTopK: kappa", self.kappa)

    def scaling(self) -> int | None:
        return 0

    def label(self, shape: torch.Size) -> str:
        return f"{self}: {share(self.kappa, shape[-2])} of {shape[-2]}"

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        _check_groups("GroupTopK", shape)
        if share(self.kappa, shape[-2]) > shape[-2]:
            raise ValueError(
                f"GroupTopK: kappa = {self.kappa} must be at most {shape[-2]}, the number of groups"
            )

    def c_step(self, x: Tensor, mu: float, theta: GroupSparse | None = None) -> GroupSparse:
        return _kept(x, TopK(share(self.kappa, x.shape[-2])).compress(_norms(x), mu).mask)


@dataclass(frozen=True)
class _GroupPenalty(Penalty[GroupSparse]):
    """What both penalties on groups share: a cost c_g for each group."""

    alpha: float
    costs: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        check_number(f"{name}: alpha", self.alpha)
        if not isinstance(self.costs, (int, float)):
            object.__setattr__(self, "costs", tuple(plain(cost) for cost in self.costs))
        for cost in self.costs if isinstance(self.costs, tuple) else (self.costs,):
            check_number(f"{name}: costs", cost)

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        name = type(self).__name__
        _check_groups(name, shape)
        if isinstance(self.costs, tuple) and len(self.costs) != shape[-2]:
            raise ValueError(
                f"{name}: costs has {len(self.costs)} numbers and must have {shape[-2]}, one for "
                "each group"
            )

    def cost_of_each(self, device: torch.device) -> Tensor:
        """c_g, (groups,) or (), float64."""
        return torch.tensor(self.costs, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class GroupL0Penalty(_GroupPenalty):
    """min mu/2 ||x - theta||^2 + alpha (sum of c_g over theta_g not 0): keep group g where mu/2
    ||x_g||^2 > alpha c_g.

    Exact: the objective is a sum over groups of min(mu/2 ||x_g||^2, alpha c_g). It is the knapsack
    problem "most of the energy within a budget" with a price in place of the budget: if the kept
    groups K have cost C(K), then no K' of cost at most C(K) keeps more energy, since mu/2 E(K') <=
    mu/2 E(K) + alpha (C(K') - C(K)) by optimality. As alpha falls from infinity, these are the
    budgets that it meets; between two of them the knapsack may gain at most one group's energy.
    O(n). Structural pruning as a knapsack: Shen et al., NeurIPS 2022.

    Args:
        alpha: price of a unit of cost.
        costs: c_g: one number for all groups, or one for each: bytes, multiply-adds, measured
            seconds (`leco.coupled` counts the former).

    >>> import torch, leco
    >>> x = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> leco.GroupL0Penalty(0.5, costs=(1.0, 9.0)).compress(x, mu=1.0).decompress()
    tensor([[1., 1.],
            [0., 0.]])
    """

    def scaling(self) -> int | None:
        return 2

    def family(
        self, x: Tensor, mu: float, theta: GroupSparse | None = None
    ) -> Callable[[float], GroupSparse]:
        norms, costs = _norms(x), self.cost_of_each(x.device)
        return lambda alpha: _kept(x, norms > (costs * (2 * alpha / mu)).sqrt())

    def usage(self, theta: GroupSparse) -> float:
        return float((theta.mask * self.cost_of_each(theta.mask.device)).sum())


@dataclass(frozen=True)
class GroupL1Penalty(_GroupPenalty):
    """min mu/2 ||x - theta||^2 + alpha (sum of c_g ||theta_g||): block soft threshold, theta_g =
    x_g max(0, 1 - alpha c_g / (mu ||x_g||)).

    Exact, O(n). The group lasso: Yuan and Lin, J. R. Stat. Soc. B 68 (2006), section 2, where the
    costs are roots of the groups' sizes.

    Args:
        alpha: price of a unit of cost.
        costs: c_g: one number for all groups, or one for each.

    >>> import torch, leco
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> leco.GroupL1Penalty(2.5).compress(x, mu=1.0).decompress()
    tensor([[1.5000, 2.0000],
            [0.0000, 0.0000]])
    """

    def family(
        self, x: Tensor, mu: float, theta: GroupSparse | None = None
    ) -> Callable[[float], GroupSparse]:
        norms, costs = _norms(x), self.cost_of_each(x.device)

        def shrink(alpha: float) -> GroupSparse:
            thresholds = costs * (alpha / mu)
            mask = norms > thresholds
            kept = _kept(x, mask)
            factors = 1 - thresholds.expand_as(norms)[mask] / norms[mask]
            return kept._replace(values=kept.values.mul_(factors.unsqueeze(-1).to(x.dtype)))

        return shrink

    def usage(self, theta: GroupSparse) -> float:
        norms = _norms(theta.values)
        costs = self.cost_of_each(norms.device).expand(theta.mask.shape)
        return float((costs[theta.mask] * norms).sum())


@dataclass(frozen=True)
class NM(Compression[NMSparse | Sparse]):
    """min ||x - theta||^2 subject to at most n weights not 0 in each block of m neighbours of x
    (..., k m): keep the n largest |x_i| of each.

    Exact; among equal magnitudes the first ones are kept. O(m) for each weight, by comparisons of
    whole planes. Nvidia's 2:4: Mishra et al., arXiv 2104.08378. Positions are written as the number
    of a block's pattern, log2 of (m over n) bits a block (2:4: 2/3 bit a weight); as a mask where m
    is above 16.

    Args:
        n: weights kept in each block.
        m: weights in a block; it must divide the last dimension. With `leco.Rows()`, blocks lie
            along a layer's inputs.

    >>> import torch, leco
    >>> x = torch.tensor([0.1, -3.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    >>> leco.NM(2, 4).compress(x, mu=1.0).decompress()
    tensor([ 0., -3.,  2.,  0.,  1.,  1.,  0.,  0.])
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("NM: m", self.m, 1)
        check_count("NM: n", self.n, 1, self.m)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if not shape or shape[-1] % self.m:
            raise ValueError(
                f"NM: m = {self.m} must divide the last dimension of an array of shape "
                f"{tuple(shape)}"
            )

    def c_step(
        self, x: Tensor, mu: float, theta: NMSparse | Sparse | None = None
    ) -> NMSparse | Sparse:
        if self.m > 16:
            kept = TopK(self.n).compress(x.unflatten(-1, (-1, self.m)), mu)
            return Sparse(kept.mask.flatten(-2), kept.values)
        blocks = x.reshape(-1, self.m)
        places, numbers = patterns(self.n, self.m, x.device)
        places_of_bits = places[numbers.int()]
        bits = torch.empty(
            len(blocks), dtype=torch.uint8 if self.m <= 8 else torch.int32, device=x.device
        )
        values = x.new_empty(len(blocks), self.n)
        rows = CHUNK // self.m
        for start in range(0, len(blocks), rows):
            chunk, chosen = blocks[start : start + rows], bits[start : start + rows]
            _choose(chunk, self.n, chosen)
            torch.gather(
                chunk,
                1,
                places_of_bits.index_select(0, chosen.int()),
                out=values[start : start + rows],
            )
        pattern = numbers.index_select(0, bits.int())
        shape = (*x.shape[:-1], x.shape[-1] // self.m)
        return NMSparse(pattern.view(shape), values.view(*shape, self.n), self.m)


def _choose(blocks: Tensor, n: int, bits: Tensor) -> None:
    """Set bit j of `bits` (rows,) where entry j is among the n largest magnitudes of its row of
    `blocks` (rows, m), and no other."""
    rows, m = blocks.shape
    planes = torch.abs(blocks.T, out=blocks.new_empty(m, rows))
    rank = torch.arange(m, dtype=torch.uint8, device=blocks.device).unsqueeze(1).repeat(1, rows)
    # an entry comes after all earlier ones, but for those that it exceeds
    for distance in range(1, m):
        exceeds = (planes[distance:] > planes[:-distance]).view(torch.uint8)
        rank[distance:] -= exceeds
        rank[:-distance] += exceeds
    bits.zero_()
    for j, kept in enumerate((rank < n).view(torch.uint8)):
        bits.add_(kept, alpha=1 << j)

"""Structured pruning: C steps on groups x (..., groups, size). All are exact, in a metric too.

The view defines the groups: rows, kernels, blocks of a matrix, or all that belongs to one channel
of a net (`leco.Channels`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_number, check_share, plain, share
from leco.compressions.largest import largest
from leco.compressions.protocol import Compression, Penalty
from leco.compressions.pruning import magnitudes
from leco.compressions.roots import Place, l2_root, row_parts
from leco.theta import GroupSparse


def _norms(x: Tensor, mu: float | Tensor = 1.0) -> Tensor:
    """||x_g||, (..., groups), or in a metric the root of (sum of mu_i x_i^2 over g): float64, in
    which no square of a float32 overflows."""
    values = x.reshape(-1, x.shape[-1])
    weights = mu.reshape(values.shape) if isinstance(mu, Tensor) else None
    norms = torch.empty(len(values), dtype=torch.float64, device=x.device)
    for part in row_parts(*values.shape):
        own = values[part] if weights is None else magnitudes(values[part], weights[part])
        torch.linalg.vector_norm(own, dim=-1, dtype=torch.float64, out=norms[part])
    return norms.view(x.shape[:-1])


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

    In a metric: keep the groups of largest (sum of mu_i x_i^2 over g), for the same reason. Exact.

    Args:
        kappa: how many groups are kept (for each leading index): a count (int), or a share of them
            (float below 1), which is rounded; a share above 0 keeps at least 1.

    >>> import torch, leco
    >>> leco.GroupTopK(1).compress(torch.tensor([[1.0, 1.0], [0.0, 2.0]]), mu=1.0).decompress()
    tensor([[0., 0.],
            [0., 2.]])
    """

    kappa: int | float

    takes_metric: ClassVar[bool] = True

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

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: GroupSparse | None = None
    ) -> GroupSparse:
        kappa = share(self.kappa, x.shape[-2])
        if not kappa:
            return _kept(x, torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device))
        return _kept(x, largest(kappa, torch.clone, _norms(x, mu)))


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

    In a metric: keep group g where (sum of mu_i x_i^2 over g) / 2 > alpha c_g. Exact, since each
    group is a problem of its own.

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

    takes_metric: ClassVar[bool] = True

    def scaling(self) -> int | None:
        return 2

    def family(
        self, x: Tensor, mu: float | Tensor, theta: GroupSparse | None = None
    ) -> Callable[[float], GroupSparse]:
        norms, costs = _norms(x, mu), self.cost_of_each(x.device)
        unit = 1.0 if isinstance(mu, Tensor) else mu
        return lambda alpha: _kept(x, norms > (costs * (2 * alpha / unit)).sqrt())

    def usage(self, theta: GroupSparse) -> float:
        return float((theta.mask * self.cost_of_each(theta.mask.device)).sum())


@dataclass(frozen=True)
class GroupL1Penalty(_GroupPenalty):
    """min mu/2 ||x - theta||^2 + alpha (sum of c_g ||theta_g||): block soft threshold, theta_g =
    x_g max(0, 1 - alpha c_g / (mu ||x_g||)).

    Exact, O(n). The group lasso: Yuan and Lin, J. R. Stat. Soc. B 68 (2006), section 2, where the
    costs are roots of the groups' sizes.

    In a metric, with t = alpha c_g: theta_g is 0 where ||mu x_g|| <= t, for then mu x_g is a
    subgradient of t ||.|| at 0. Elsewhere mu_i (x_i - theta_i) = t theta_i / ||theta_g||, so
    theta_i = x_i s / (s + 1/mu_i) with s = ||theta_g|| / t, and the norm of both sides gives s: the
    root of ||x_i / (s + 1/mu_i)|| = t, `leco.compressions.roots.l2_root`. Exact, O(n) for each of a
    few steps.

    Args:
        alpha: price of a unit of cost.
        costs: c_g: one number for all groups, or one for each.

    >>> import torch, leco
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> leco.GroupL1Penalty(2.5).compress(x, mu=1.0).decompress()
    tensor([[1.5000, 2.0000],
            [0.0000, 0.0000]])
    """

    takes_metric: ClassVar[bool] = True

    def family(
        self, x: Tensor, mu: float | Tensor, theta: GroupSparse | None = None
    ) -> Callable[[float], GroupSparse]:
        costs = self.cost_of_each(x.device)
        if isinstance(mu, Tensor):
            own = mu
            return lambda alpha: _weighed_shrink(x, own, alpha * costs)
        norms = _norms(x)

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


def _weighed_shrink(x: Tensor, mu: Tensor, thresholds: Tensor) -> GroupSparse:
    """The block soft threshold in a metric; `thresholds` (groups,) or (), float64."""
    groups, weights = x.view(-1, x.shape[-1]), mu.view(-1, x.shape[-1])
    radius = thresholds.expand(x.shape[:-1]).reshape(-1, 1)

    def terms(place: Place) -> tuple[Tensor, Tensor]:
        return groups[place].double(), weights[place].double().reciprocal()

    # the groups that are not 0 have a root above 0
    root = l2_root(terms, groups.shape[1], radius)
    mask = root.squeeze(1) > 0
    kept = mask.nonzero().squeeze(1)

    # their shrunk values
    values = x.new_empty(len(kept), x.shape[-1])
    for part in row_parts(*values.shape):
        own = kept[part]
        values[part] = groups[own] / (1 + 1 / (root[own] * weights[own]))
    return GroupSparse(mask.view(x.shape[:-1]), values)

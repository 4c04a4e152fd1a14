"""Pruning: C steps on the absolute values of x (..., n), each leading index on its own. All of them
are exact.

A constraint names how much is left, a penalty what a kept weight costs. Over one `Vector` of many
layers, how much each layer keeps comes out by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_number, check_share, share
from leco.compressions.protocol import Compression, Penalty
from leco.compressions.sorted_values import Sorted
from leco.theta import Dense, Sparse

FAR = 2**10  # radii of an l1 ball; thresholds above that lose too many digits of |x| - tau


def _sparse(x: Tensor, mask: Tensor) -> Sparse:
    """x where the mask is True."""
    return Sparse(mask, x[mask])


def _shrunk(x: Tensor, mask: Tensor, by: Tensor | float) -> Sparse:
    """x where the mask is True, with magnitudes less by `by`."""
    kept = x[mask]
    return Sparse(mask, kept.sub_(kept.sign().mul_(by)))


def _kth_largest(a: Tensor, kappa: int) -> Tensor:
    """The kappa-th largest entry along the last dimension, (..., 1). `a` is overwritten."""
    place = a.shape[-1] - kappa
    if a.device.type != "cpu":
        return a.kthvalue(place + 1, dim=-1, keepdim=True).values
    a.numpy().partition(place, axis=-1)  # numpy's selection is vectorised, torch's is not
    return a[..., place : place + 1].clone()


def _first_of_ties(row: Tensor, tied: Tensor, kappa: int) -> Tensor:
    """Which candidates stay so that each row keeps kappa: the last of the tied ones go.

    Args:
        row: the row of each candidate, in order, at least kappa in each row.
        tied: which candidates equal the kappa-th largest of their row.
    """
    places = tied.nonzero().squeeze(1)
    rows = row[places]
    rank = torch.arange(len(places), device=row.device) - torch.searchsorted(rows, rows)
    room = kappa - (row.bincount() - rows.bincount(minlength=int(row[-1]) + 1))
    stay = torch.ones_like(tied)
    stay[places[rank >= room[rows]]] = False
    return stay


@dataclass(frozen=True)
class TopK(Compression[Sparse]):
    """min mu/2 ||x - theta||^2 + gamma/2 ||theta||^2 subject to ||theta||_0 <= kappa: keep the
    kappa largest |x_i|, shrunk by mu/(mu + gamma).

    Exact; among equal magnitudes the first ones are kept. O(n). Carreira-Perpinan and Idelbayev,
    CVPR 2018; with gamma, ICASSP 2022: with theta fixed at x mu/(mu + gamma) on its support, each
    kept weight lowers the objective by mu^2 x_i^2 / (2 (mu + gamma)), which grows with |x_i|.

    Args:
        kappa: how many weights are kept (for each leading index): a count (int), or a share of them
            (float below 1), which is rounded; a share above 0 keeps at least 1.
        gamma: weight of the l2 term.

    >>> import torch, leco
    >>> leco.TopK(2).compress(torch.tensor([0.1, -3.0, 2.0, 0.5]), mu=1.0).decompress()
    tensor([ 0., -3.,  2.,  0.])
    """

    kappa: int | float
    gamma: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("TopK: kappa", self.kappa)
        check_number("TopK: gamma", self.gamma)

    def scaling(self) -> int | None:
        return 0 if not self.gamma else None

    def count(self, n: int) -> int:
        """The number of weights kept of n."""
        return share(self.kappa, n)

    def label(self, shape: torch.Size) -> str:
        return f"{self}: {self.count(shape[-1])} of {shape[-1]}"

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if self.count(shape[-1]) > shape[-1]:
            raise ValueError(
                f"TopK: kappa = {self.kappa} must be at most {shape[-1]}, the number of weights"
            )

    def c_step(self, x: Tensor, mu: float, theta: Sparse | None = None) -> Sparse:
        kappa = self.count(x.shape[-1])
        if kappa == 0:
            return _sparse(x, torch.zeros(x.shape, dtype=torch.bool, device=x.device))

        # all that reach the kappa-th largest magnitude
        magnitude = x.abs()
        threshold = _kth_largest(magnitude.clone(), kappa)
        mask = magnitude >= threshold
        del magnitude
        kept = mask.view(-1).nonzero().squeeze(1)
        values = x.view(-1)[kept]

        # of the tied ones, the first
        if len(kept) > kappa * threshold.numel():
            row = kept // x.shape[-1]
            stay = _first_of_ties(row, values.abs() == threshold.view(-1)[row], kappa)
            mask.view(-1)[kept[~stay]] = False
            values = values[stay]

        # the l2 term shrinks
        return Sparse(mask, values * (mu / (mu + self.gamma)) if self.gamma else values)

    def price(self, theta: Sparse) -> float:
        return self.gamma / 2 * float(theta.values.square().sum()) if self.gamma else 0.0


@dataclass(frozen=True)
class L1Ball(Compression[Sparse]):
    """min ||x - theta||^2 subject to ||theta||_1 <= kappa: the projection on the l1 ball,
    soft-thresholding at the tau that makes it tight.

    Exact; x itself inside the ball. O(n log n) to sort, then bisection. Duchi et al., ICML 2008.

    >>> import torch, leco
    >>> leco.L1Ball(2.0).compress(torch.tensor([3.0, -2.0, 0.5]), mu=1.0).decompress()
    tensor([ 1.5000, -0.5000,  0.0000])
    """

    kappa: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L1Ball: kappa", self.kappa)

    def feasible(self, theta: Sparse) -> Sparse:
        delta = theta.decompress()
        return theta._replace(values=self.compress(delta, 1.0).decompress()[theta.mask])

    def c_step(self, x: Tensor, mu: float, theta: Sparse | None = None) -> Sparse:
        tau = _l1_threshold(x.abs(), self.kappa).to(x.dtype)
        # exactly, whatever the rounding of tau
        mask = x.abs() > tau if self.kappa else torch.zeros_like(x, dtype=torch.bool)
        theta = _shrunk(x, mask, tau.expand_as(x)[mask])

        # where |x| is so large that the rounding of |x| - tau leaves the ball
        if not bool((tau > FAR * self.kappa).any()):
            return theta
        norms = theta.decompress().abs().sum(-1, keepdim=True, dtype=torch.float64)
        factors = (self.kappa / norms).clamp(max=1).to(x.dtype).expand_as(x)
        return Sparse(mask, theta.values * factors[mask])


def _l1_threshold(magnitude: Tensor, kappa: float) -> Tensor:
    """tau (..., 1), float64, from |x|, which is overwritten: 0 inside the ball, (sum of the largest
    values less kappa) / (their number) outside.

    The largest are those from the first place p, in increasing order, whose value is above the tau
    of p; that holds from p on: bisection.
    """
    data = Sorted(magnitude)
    total = data.prefix_sums(
        torch.full((*magnitude.shape[:-1], 1), data.n, device=magnitude.device)
    )

    def tau(p: Tensor) -> Tensor:
        return (total - data.prefix_sums(p) - kappa) / (data.n - p)

    low = torch.zeros_like(total, dtype=torch.long)
    high = torch.full_like(low, data.n - 1)
    for _ in range(data.n.bit_length()):
        middle = (low + high) // 2
        above = data.values.gather(-1, middle) > tau(middle)
        low, high = (
            torch.where(above, low, middle + 1).clamp(max=data.n - 1),
            torch.where(above, middle, high),
        )
    return torch.where(total > kappa, tau(high), 0.0)


@dataclass(frozen=True)
class L2Ball(Compression[Dense]):
    """min ||x - theta||^2 subject to ||theta||_2 <= kappa: x rescaled to the ball, x itself inside.
    Exact, O(n).

    >>> import torch, leco
    >>> leco.L2Ball(1.0).compress(torch.tensor([3.0, 4.0]), mu=1.0).decompress()
    tensor([0.6000, 0.8000])
    """

    kappa: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L2Ball: kappa", self.kappa)

    def feasible(self, theta: Dense) -> Dense:
        return self.compress(theta.decompress(), 1.0)

    def c_step(self, x: Tensor, mu: float, theta: Dense | None = None) -> Dense:
        # in units of the largest magnitude, so that no square overflows
        largest = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        units = x / largest
        norm = torch.linalg.vector_norm(units, dim=-1, keepdim=True, dtype=torch.float64)
        radius = (self.kappa / norm).to(x.dtype)
        return Dense(torch.where(norm * largest.double() > self.kappa, units * radius, x))


@dataclass(frozen=True)
class L0Penalty(Penalty[Sparse]):
    """min mu/2 ||x - theta||^2 + alpha ||theta||_0: keep x_i where |x_i| > sqrt(2 alpha/mu). Exact,
    O(n). CVPR 2018.

    Small mu prunes most: with alpha fixed, the net regains weights as mu grows.

    >>> import torch, leco
    >>> leco.L0Penalty(0.5).compress(torch.tensor([0.9, -1.1]), mu=1.0).decompress()
    tensor([ 0.0000, -1.1000])
    """

    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L0Penalty: alpha", self.alpha)

    def scaling(self) -> int | None:
        return 2

    def family(
        self, x: Tensor, mu: float, theta: Sparse | None = None
    ) -> Callable[[float], Sparse]:
        magnitude = x.abs()
        return lambda alpha: _sparse(x, magnitude > (2 * alpha / mu) ** 0.5)

    def usage(self, theta: Sparse) -> float:
        return int(theta.values.count_nonzero())


@dataclass(frozen=True)
class L1Penalty(Penalty[Sparse]):
    """min mu/2 ||x - theta||^2 + alpha ||theta||_1: soft threshold, sign(x_i) max(|x_i| - alpha/mu,
    0). Exact, O(n).

    >>> import torch, leco
    >>> leco.L1Penalty(0.5).compress(torch.tensor([0.25, -1.5]), mu=1.0).decompress()
    tensor([ 0., -1.])
    """

    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L1Penalty: alpha", self.alpha)

    def c_step(self, x: Tensor, mu: float, theta: Sparse | None = None) -> Sparse:
        threshold = self.alpha / mu
        return _shrunk(x, x.abs() > threshold, threshold)

    def usage(self, theta: Sparse) -> float:
        return float(theta.values.abs().sum())

"""Balls: projections of x (..., n) on an l1 or l2 ball, each leading index on its own. Both are
exact, in a metric too."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_number
from leco.compressions.protocol import Compression
from leco.compressions.pruning import shrunk
from leco.compressions.roots import Place, l1_root, l2_root, pieces, row_parts
from leco.compressions.sorted_values import Sorted
from leco.theta import Dense, Sparse

FAR = 2**10  # radii of an l1 ball; thresholds above that lose too many digits of |x| - tau


@dataclass(frozen=True)
class L1Ball(Compression[Sparse]):
    """min ||x - theta||^2 subject to ||theta||_1 <= kappa: the projection on the l1 ball,
    soft-thresholding at the tau that makes it tight.

    Exact; x itself inside the ball. O(n log n) to sort, then bisection. Duchi et al., ICML 2008.

    In a metric: soft-thresholding at tau/mu_i, since the optimum satisfies mu_i (x_i - theta_i) =
    tau sign(theta_i) where theta_i is not 0 and mu_i |x_i| <= tau where it is. tau is the root of a
    piecewise linear function, `leco.compressions.roots.l1_root`. Exact, O(n) for each of a few
    steps. `feasible` is the plain projection.

    >>> import torch, leco
    >>> leco.L1Ball(2.0).compress(torch.tensor([3.0, -2.0, 0.5]), mu=1.0).decompress()
    tensor([ 1.5000, -0.5000,  0.0000])
    """

    kappa: float

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L1Ball: kappa", self.kappa)

    def feasible(self, theta: Sparse) -> Sparse:
        delta = theta.decompress()
        return theta._replace(values=self.compress(delta, 1.0).decompress()[theta.mask])

    def c_step(self, x: Tensor, mu: float | Tensor, theta: Sparse | None = None) -> Sparse:
        if isinstance(mu, Tensor):
            return _weighed_l1(x, mu, self.kappa)
        tau = _l1_threshold(x.abs(), self.kappa).to(x.dtype)
        # exactly, whatever the rounding of tau
        mask = x.abs() > tau if self.kappa else torch.zeros_like(x, dtype=torch.bool)
        found = shrunk(x, mask, tau.expand_as(x)[mask])

        # where |x| is so large that the rounding of |x| - tau leaves the ball
        return _inside(found, self.kappa) if bool((tau > FAR * self.kappa).any()) else found


def _inside(theta: Sparse, kappa: float) -> Sparse:
    """A Theta with the l1 norms that rounding left above kappa scaled to it."""
    norms = theta.decompress().abs().sum(-1, keepdim=True, dtype=torch.float64)
    factors = (kappa / norms).clamp(max=1).to(theta.values.dtype)
    return theta._replace(values=theta.values * factors.expand_as(theta.mask)[theta.mask])


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


def _weighed_l1(x: Tensor, mu: Tensor, kappa: float) -> Sparse:
    """The projection of x on the l1 ball in the metric mu."""
    if not kappa:
        return Sparse(torch.zeros_like(x, dtype=torch.bool), x.new_empty(0))

    # the multiplier
    values, weights = x.view(-1, x.shape[-1]), mu.view(-1, x.shape[-1])
    rows, n = values.shape

    def terms(place: Place) -> tuple[Tensor, Tensor]:
        return values[place].double().abs(), weights[place].double().reciprocal()

    tau = l1_root(terms, rows, n, kappa, x.device)

    # the soft threshold
    found = torch.empty_like(values)
    norms = torch.zeros_like(tau)
    for part in row_parts(rows, n):
        for place in pieces(part, n):
            size, inverse = terms(place)
            found[place] = size.sub_(inverse.mul_(tau[part])).clamp_(min=0).copysign_(values[place])
            norms[part] += found[place].abs().sum(-1, keepdim=True, dtype=torch.float64)

    # rounding does not leave the ball
    outside = (norms > kappa) & (tau > 0)
    if bool(outside.any()):
        found *= torch.where(outside, kappa / norms, 1.0).to(x.dtype)
    mask = (found != 0).view(x.shape)
    return Sparse(mask, found.view(x.shape)[mask])


@dataclass(frozen=True)
class L2Ball(Compression[Dense]):
    """min ||x - theta||^2 subject to ||theta||_2 <= kappa: x rescaled to the ball, x itself inside.
    Exact, O(n).

    In a metric: theta_i = mu_i x_i / (mu_i + tau), since the optimum satisfies mu_i (x_i - theta_i)
    = tau theta_i. tau is the root of ||theta|| = kappa, `leco.compressions.roots.l2_root`. Exact,
    O(n) for each of a few steps. `feasible` is the plain projection.

    >>> import torch, leco
    >>> leco.L2Ball(1.0).compress(torch.tensor([3.0, 4.0]), mu=1.0).decompress()
    tensor([0.6000, 0.8000])
    """

    kappa: float

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L2Ball: kappa", self.kappa)

    def feasible(self, theta: Dense) -> Dense:
        return self.compress(theta.decompress(), 1.0)

    def c_step(self, x: Tensor, mu: float | Tensor, theta: Dense | None = None) -> Dense:
        if isinstance(mu, Tensor):
            return Dense(_weighed_l2(x, mu, self.kappa))
        # in units of the largest magnitude, so that no square overflows
        largest = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        units = x / largest
        norm = torch.linalg.vector_norm(units, dim=-1, keepdim=True, dtype=torch.float64)
        radius = (self.kappa / norm).to(x.dtype)
        return Dense(torch.where(norm * largest.double() > self.kappa, units * radius, x))


def _weighed_l2(x: Tensor, mu: Tensor, kappa: float) -> Tensor:
    """The projection of x on the l2 ball in the metric mu."""
    values, weights = x.view(-1, x.shape[-1]), mu.view(-1, x.shape[-1])
    rows, n = values.shape

    # in units of each row's largest magnitude, so that no square overflows
    unit = values.abs().amax(-1, keepdim=True).double().clamp_(min=torch.finfo(x.dtype).tiny)

    def terms(place: Place) -> tuple[Tensor, Tensor]:
        own = weights[place].double()
        return (values[place] / unit[place[0]]).mul_(own), own

    tau = l2_root(terms, n, kappa / unit)

    # the shrunk values; x itself inside the ball, where tau is 0
    found = torch.empty_like(values)
    for part in row_parts(rows, n):
        for place in pieces(part, n):
            found[place] = values[place] / (1 + tau[part] / weights[place])
    return found.view(x.shape)

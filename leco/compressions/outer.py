"""Metrics that are outer products, mu = r_1 o r_2 o ...: a number for each row times one for each
column, and the nearest of them to a metric that is none.

In an outer product the weighed problem of a low rank is a plain one:

    sum_ij r_i c_j (x_ij - Delta_ij)^2 = ||R x C - R Delta C||^2

with R = diag(r)^(1/2) and C = diag(c)^(1/2), and R Delta C has the rank of Delta. So scale, solve,
scale back. Tucker, CP and tensor trains keep their ranks in the same way, with a scale for each
mode.

For any other metric mu, an outer product D at or above it gives a majorisation at a Delta_0:

    sum mu (x - Delta)^2 <= sum D (y - Delta)^2 + sum mu (1 - mu/D) (x - Delta_0)^2,
    y = Delta_0 + (mu/D) (x - Delta_0),   with equality at Delta = Delta_0,

since the right side less the left is sum (D - mu) (Delta - Delta_0)^2. So a Delta that does not
raise the error of y in D does not raise the error of x in mu.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from leco.compressions.metric import distortion
from leco.theta import Theta
from leco.theta.tree import free_leaves, with_free_leaves

STEPS = 20  # of a majorisation, at most
FLAT = 1e-4  # a step that lowers the objective by a smaller share is the last
ROUNDING = 16  # roundings of its numbers by which a metric may differ from an outer product

T = TypeVar("T", bound=Theta)
Roots = tuple[Tensor, ...]
"""r_k^(1/2) for each mode, which broadcast against x."""


class Outer(NamedTuple):
    """The outer products of a metric mu.

    Attributes:
        fitted: roots of the outer product of the sums of mu along each mode. That is mu itself
            where mu is an outer product.
        bound: roots of an outer product D at or above mu.
        share: mu/D, of the shape of mu; None where mu is an outer product.
    """

    fitted: Roots
    bound: Roots
    share: Tensor | None

    def target(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Roots]:
        """What a plain step compresses, scaled by the roots that it returns: x itself in an outer
        product; x in the fitted one where there is no Delta to start from; else y."""
        if self.share is None or delta is None:
            return times(x, self.fitted), self.fitted
        return times(torch.lerp(delta, x, self.share), self.bound), self.bound


def outer(mu: Tensor, modes: int) -> Outer:
    """The outer products of a metric over its last `modes` dimensions, each leading index on its
    own.

    The bound starts from the fitted product. Each mode in turn is scaled, as far as mu allows.
    """
    dims = range(-modes, 0)
    rest = mu.to(torch.float64, copy=True)

    # the product of the sums over all other modes, over a power of the total
    total = rest.sum(tuple(dims), keepdim=True)
    sides = [rest.sum([d for d in dims if d != k], keepdim=True) for k in dims]
    sides = [sides[0], *(side / total for side in sides[1:])]
    for side in sides:
        rest.div_(side)
    least, most = torch.aminmax(rest)
    fitted = _roots(sides, mu.dtype)
    if max(1 - float(least), float(most) - 1) <= ROUNDING * torch.finfo(mu.dtype).eps:
        return Outer(fitted, fitted, None)

    # at or above mu
    for place, k in enumerate(dims):
        top = rest.amax([d for d in dims if d != k], keepdim=True)
        sides[place] = sides[place] * top
        rest.div_(top)
    return Outer(fitted, _roots(sides, mu.dtype), rest.to(mu.dtype))


def _roots(sides: Sequence[Tensor], dtype: torch.dtype) -> Roots:
    """Square roots, of one geometric mean in all modes, so that none overflows."""
    roots = [side.sqrt() for side in sides]
    means = [float(root.log().mean()) for root in roots]
    common = sum(means) / len(means)
    return tuple(
        (root * math.exp(common - mean)).to(dtype) for root, mean in zip(roots, means, strict=True)
    )


def times(x: Tensor, roots: Roots) -> Tensor:
    """x times the outer product of the roots."""
    for root in roots:
        x = x * root
    return x


def inverse(roots: Roots) -> Roots:
    """The roots of the inverse metric."""
    return tuple(root.reciprocal() for root in roots)


def descend(
    start: T,
    step: Callable[[Tensor, T], T],
    objective: Callable[[T, Tensor], float],
    steps: int | None = None,
) -> T:
    """Steps from `start` until the objective is flat, at most `steps` or STEPS. It never rises.

    A step starts ahead of the last Delta, in the direction from the one before (Nesterov), which
    saves most of the steps. Where that would raise the objective, it starts from the last Delta.

    Args:
        step: gives the Theta of the majorisation at a Delta, given the last Theta too.
        objective: that of a Theta and its Delta.
    """
    delta = start.decompress()
    value, ahead, taken = objective(start, delta), delta, 0
    for _ in range(STEPS if steps is None else steps):
        found = step(ahead, start)
        own = found.decompress()
        reached = objective(found, own)

        # back, or no further
        if not reached < value:
            if ahead is delta:
                break
            ahead, taken = delta, 0
            continue

        # on
        taken += 1
        ahead = torch.lerp(delta, own, 1 + taken / (taken + 3))
        start, delta, value, fall = found, own, reached, value - reached
        if fall <= FLAT * abs(value):
            break
    return start


def copied(theta: T) -> T:
    """A Theta with the same numbers in memory of its own."""
    return cast(T, with_free_leaves(theta, [leaf.detach().clone() for leaf in free_leaves(theta)]))


def offset(x: Tensor, mu: Tensor, own: Outer, delta: Tensor | None) -> float:
    """The constant of the majorisation at a Delta: half the sum of mu (1 - mu/D) (x - Delta)^2."""
    if own.share is None or delta is None:
        return 0.0
    return distortion(x, delta, mu * (1 - own.share))

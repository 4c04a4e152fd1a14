"""Decompositions of tensors in a metric: scaled along each mode, and majorised where that is not
enough (`leco.compressions.outer`)."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from leco.compressions.metric import distortion
from leco.compressions.outer import Roots, copied, descend, inverse, outer
from leco.compressions.tensors import no_worse
from leco.theta import Theta

STEPS = 8  # of a majorisation, each of many sweeps

T = TypeVar("T", bound=Theta)


def in_metric(
    x: Tensor,
    mu: Tensor,
    theta: T | None,
    solve: Callable[[Tensor, T | None], T],
    stretch: Callable[[T, Roots], T],
) -> T:
    """A descent step for a set of tensors that scales along modes leave in the set.

    In an outer product it is the plain step on the scaled x. Else such steps on a corrected x, each
    from the last Theta. Never worse than the last Theta.

    Args:
        theta: the last Theta, None where it has other sizes.
        solve: the step without a metric, of an array and a last Theta; never worse than that.
        stretch: a Theta with Delta times the outer product of the roots.
    """
    own = outer(mu, x.ndim)

    def at(delta: Tensor | None, last: T | None) -> T:
        target, roots = own.target(x, delta)
        found = solve(target, None if last is None else stretch(last, roots))
        return stretch(found, inverse(roots))

    if own.share is None:
        return no_worse(x, at(None, theta), theta, mu)
    return descend(
        at(None, None) if theta is None else copied(theta),
        at,
        lambda found, delta: distortion(x, delta, mu),
        STEPS,
    )

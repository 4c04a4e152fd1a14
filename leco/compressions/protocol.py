"""What a compression is: a family of forms Theta with its C step."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from leco.theta import Theta

T = TypeVar("T", bound=Theta)
Offer = Callable[[float], tuple[Any, float]]
"""alpha to a Theta and its C(Theta)."""


class Compression(Protocol[T]):
    """A frozen dataclass that holds options only; subclass it for the two defaults below,
    `compress` is all that must be written.

    The laws (each is a test over every compression, `tests/test_laws.py`): the input is untouched;
    dtype and device are kept; equal calls give equal results; Delta(Theta) is in the set and is its
    own compression; no point of the set has a lower objective (where the C step is exact); a warm
    start is never worse than the Theta it started from; NaN and infinity raise ValueError.
    """

    def check(self, shape: Any) -> None:
        """Raise ValueError, naming the option, its value and the bound, where an array of this
        shape can't be compressed."""

    def compress(self, x: Any, mu: float, theta: T | None = None) -> T:
        """The C step: argmin over Theta of mu/2 ||x - Delta(Theta)||^2 + cost(Theta), warm-started
        from `theta` where that helps."""
        ...

    def price(self, theta: T) -> float:
        """alpha C(Theta): 0 for a set, the price paid in the objective for a penalty form."""
        return 0.0


class Penalty(Compression[T], Protocol[T]):
    """A compression by a price: `alpha` for each unit of a cost C(Theta) that `usage` counts.
    `compress` and `usage` must be written.

    `leco.Budget` looks for the alpha at which the costs of its members meet a limit.
    """

    alpha: float

    def usage(self, theta: T) -> float:
        """C(Theta), without alpha: weights kept, parameters, multiply-adds, bits, seconds."""
        ...

    def family(self, x: Any, mu: float, theta: T | None = None) -> Callable[[float], T]:
        """alpha to its C step, for one x: what does not depend on alpha, such as an SVD, is done
        once."""
        return lambda alpha: dataclasses.replace(cast(Any, self), alpha=alpha).compress(
            x, mu, theta
        )

    def offers(self, x: Any, mu: float, theta: T | None = None) -> list[Offer]:
        """`family` with the C(Theta) of each Theta, for one who looks for an alpha. After the first
        may stand families of parts of the set.

        No price buys a point above the lower convex hull of (cost, distortion); one that is on the
        hull of a part of the set can be had there.
        """
        return [offer_of(self, self.family(x, mu, theta))]

    def price(self, theta: T) -> float:
        return self.alpha * self.usage(theta)


def offer_of(penalty: Penalty[Any], family: Callable[[float], Any]) -> Offer:
    """alpha to the family's Theta, and its C(Theta)."""

    def offer(alpha: float) -> tuple[Any, float]:
        theta = family(alpha)
        return theta, penalty.usage(theta)

    return offer


def is_penalty(compression: Any) -> bool:
    """Whether a compression is by a price: whether it has a C(Theta), and a C step for every
    alpha."""
    return hasattr(compression, "usage") and hasattr(compression, "offers")

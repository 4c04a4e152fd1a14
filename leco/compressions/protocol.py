"""What a compression is: a family of forms Theta with its C step."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from leco.compressions.checks import check_array, largest_magnitude
from leco.theta import Theta
from leco.theta.tree import leaves, with_leaves
from leco.views import array_shape, blocks

T = TypeVar("T", bound=Theta)
Offer = Callable[[float], tuple[Any, float]]
"""alpha to a Theta and its C(Theta)."""
PLAIN = 2.0**30
"""Arrays whose largest magnitude is between 1/PLAIN and PLAIN are compressed at their own scale."""


class Compression(Generic[T]):
    """A frozen dataclass that holds options only. Subclass it and write `c_step`.

    The laws (each is a test over every compression, `tests/test_laws.py`): the input is untouched;
    dtype and device are kept; equal calls give equal results; Delta(Theta) is in the set and is its
    own compression; no point of the set has a lower objective (where the C step is exact); a warm
    start is never worse than the Theta it started from; NaN and infinity raise ValueError.
    """

    def scaling(self) -> int | None:
        """The e of the law compress(c x, mu) = c compress(x, c^e mu) for every c > 0: 0 where the
        set is a cone, 2 where it is one and C does not see the scale; None where no such law holds.
        With a law, arrays of very large or very small numbers are compressed at another scale."""
        return None

    def check(self, shape: Any) -> None:
        """Raise ValueError, naming the option, its value and the bound, where an array of this
        shape can't be compressed. A subclass with bounds of its own calls this one first."""
        check_array(type(self).__name__, shape)

    def c_step(self, x: Any, mu: float, theta: T | None = None) -> T:
        """argmin over Theta of mu/2 ||x - Delta(Theta)||^2 + price(Theta), warm-started from
        `theta` where that helps. x is finite, contiguous, in float32 or float64, of a shape that
        `check` accepts; it must not be changed."""
        raise NotImplementedError(f"{type(self).__name__} must have a method c_step or compress")

    def compress(self, x: Any, mu: float, theta: T | None = None) -> T:
        """The C step of any floating-point array x (or tuple of blocks): checks it, and calls
        `c_step`.

        Half precision is compressed in float32, and Theta is rounded to it.

        Raises:
            ValueError: a shape that `check` refuses, NaN or infinity.
        """
        self.check(array_shape(x))
        first = blocks(x)[0]
        dtype = torch.float32 if first.element_size() < 4 else first.dtype
        largest = largest_magnitude(blocks(x))
        x = _each(x, lambda block: block.detach().to(dtype).contiguous())
        theta = None if theta is None else _cast(theta, dtype)
        scaling = self.scaling()
        if scaling is None or not largest or 1 / PLAIN <= largest <= PLAIN:
            found = self.c_step(x, mu, theta)
        else:
            c = 2.0 ** math.floor(math.log2(largest))
            theta = None if theta is None else cast(Any, theta).scaled(1 / c)
            found = self.c_step(_each(x, lambda block: block / c), mu * c**scaling, theta)
            found = cast(Any, found).scaled(c)
        return found if dtype == first.dtype else _cast(found, first.dtype)

    def feasible(self, theta: T) -> T:
        """A Theta of the set, with the discrete choices of one whose floats were moved freely.
        Most sets hold every such Theta already."""
        return theta

    def price(self, theta: T) -> float:
        """alpha C(Theta): 0 for a set, the price paid in the objective for a penalty form."""
        return 0.0


class Penalty(Compression[T]):
    """A compression by a price: `alpha` for each unit of a cost C(Theta) that `usage` counts.
    `family` (or `c_step`) and `usage` must be written.

    `leco.Budget` looks for the alpha at which the costs of its members meet a limit.
    """

    alpha: float

    def usage(self, theta: T) -> float:
        """C(Theta), without alpha: weights kept, parameters, multiply-adds, bits, seconds."""
        raise NotImplementedError(f"{type(self).__name__} must have a method usage")

    def c_step(self, x: Any, mu: float, theta: T | None = None) -> T:
        return self.family(x, mu, theta)(self.alpha)

    def family(self, x: Any, mu: float, theta: T | None = None) -> Callable[[float], T]:
        """alpha to its C step, for one x as `c_step` takes it: what does not depend on alpha, such
        as an SVD, is done once."""
        twin = cast(Any, self)
        return lambda alpha: dataclasses.replace(twin, alpha=alpha).compress(x, mu, theta)

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
    return isinstance(compression, Penalty)


def common_scaling(members: Any) -> int | None:
    """The `scaling` of a combination of compressions: a cone goes with any other law."""
    found = [member.scaling() if isinstance(member, Compression) else None for member in members]
    return None if None in found else max(found, default=0)


def _each(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return change(x) if isinstance(x, Tensor) else tuple(change(block) for block in x)


def _cast(theta: T, dtype: torch.dtype) -> T:
    """The Theta with its floating-point tensors in `dtype`."""
    return with_leaves(
        theta, (leaf.to(dtype) if leaf.is_floating_point() else leaf for leaf in leaves(theta))
    )

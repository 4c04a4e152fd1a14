"""What a compression is: a family of forms Theta with its C step."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor

from leco.compressions.checks import (
    check_array,
    check_floats,
    full_dtype,
    largest_magnitude,
    plain_options,
)
from leco.compressions.metric import Mu, checked_mu
from leco.theta import Theta
from leco.theta.tree import leaves, with_leaves
from leco.views import array_shape, blocks

T = TypeVar("T", bound=Theta)
Offer = Callable[[float], tuple[Any, float]]
"""alpha to a Theta and its C(Theta)."""
PLAIN, PLAIN_HALF = 30, 3
"""An array of largest magnitude 2^-PLAIN to 2^PLAIN is compressed at its own scale; the second
bound is that of float16."""
MOST, MOST_DOUBLE = 126, 1022
"""A scale is at least 2^-MOST and at most 2^MOST: it and its inverse are normal numbers."""
MOST_MU = 900
"""A mu of another scale is at least 2^-MOST_MU and below 2^MOST_MU."""


class Compression(Generic[T]):
    """A frozen dataclass that holds options only. Subclass it and write `c_step`.

    Each law is a test over every compression (`tests/laws`): the input is untouched; dtype and
    device are kept; equal calls give equal results; Delta(Theta) is in the set and is its own
    compression; no point of the set has a lower objective (where the C step is exact); a warm start
    is never worse than the Theta it started from; NaN and infinity raise ValueError.

    Attributes:
        takes_metric: whether `c_step` takes a mu that differs between the entries of x. A subclass
            that writes a C step of its own says it anew.
    """

    takes_metric: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "takes_metric" not in own and not own.keys().isdisjoint(
            ("compress", "c_step", "family")
        ):
            cls.takes_metric = False

    def __post_init__(self) -> None:
        """Store options as plain numbers. A subclass that checks its options calls this first."""
        if dataclasses.is_dataclass(self):
            plain_options(self)

    def scaling(self) -> int | None:
        """The e of the law compress(c x, mu) = c compress(x, c^e mu) for every c > 0, or None where
        no such law holds.

        0 where the set is a cone; 2 where it is a cone and C does not depend on the scale. With a
        law, `compress` moves arrays of very large or very small numbers to another scale.
        """
        return None

    def check(self, shape: Any) -> None:
        """Raise ValueError, naming the option, its value and the bound, where an array of this
        shape can't be compressed. A subclass with bounds of its own calls this one first."""
        check_array(type(self).__name__, shape)

    def check_metric(self, shape: Any) -> None:
        """Raise ValueError, with the reason, where the C step of an array of this shape can't weigh
        its entries by a metric."""
        if not self.takes_metric:
            raise ValueError(
                f"{type(self).__name__}: the C step takes one mu for all weights, not a metric; "
                "leave its parameters out of the metric"
            )

    def label(self, shape: Any) -> str:
        """One line for tables: the options, and what they come to for an array of this shape."""
        return str(self)

    def c_step(self, x: Any, mu: Mu, theta: T | None = None) -> T:
        """argmin over Theta of sum_i mu_i/2 (x_i - Delta(Theta)_i)^2 + price(Theta), warm-started
        from `theta` where that helps.

        x is finite, contiguous, in float32 or float64, of a shape that `check` accepts; it must not
        be changed. mu is a number; or, where `takes_metric`, tensors like x, positive and finite.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method c_step or compress")

    @torch.no_grad()
    def compress(self, x: Any, mu: Mu, theta: T | None = None) -> T:
        """The C step of any floating-point array x (or tuple of blocks): checks it, and calls
        `c_step`.

        Half precision is compressed in float32, and the floats of Theta are then rounded to it.

        Args:
            x: the array, or the blocks of `leco.Blocks`; it is not changed.
            mu: the weight of the squared error; or the weight mu d_i of each entry, in a metric d:
                tensors like x.
            theta: the last Theta, as a warm start.

        Raises:
            TypeError: x does not hold floating-point numbers.
            ValueError: a shape that `check` refuses, NaN or infinity; a metric with entries that
                are not positive and finite, or that the C step does not take.
        """
        self.check(array_shape(x))
        check_floats(type(self).__name__, blocks(x))

        # in float32 or float64, contiguous
        own = blocks(x)[0].dtype
        dtype = full_dtype(own)
        plain = _each(x, lambda block: block.detach().to(dtype).contiguous())
        mu = checked_mu(type(self).__name__, mu, plain, dtype)
        if isinstance(mu, (Tensor, tuple)):
            self.check_metric(array_shape(x))
        start = None if theta is None else _cast(theta, dtype)

        # at a scale whose squares are representable
        c = self._scale_of(largest_magnitude(blocks(plain)), own)
        if c == 1:
            return _cast(self.c_step(plain, mu, start), own)
        start = None if start is None else cast(Any, start).scaled(1 / c)
        found = self.c_step(
            _each(plain, lambda block: block / c), _scaled_mu(mu, c, self.scaling() or 0), start
        )
        return _cast(cast(Any, found).scaled(c), own)

    def _scale_of(self, largest: float, dtype: torch.dtype) -> float:
        """The power of 2 by which an array is divided: 1 where no law holds, or where its largest
        magnitude is neither very large nor very small for its `dtype`."""
        if self.scaling() is None or not largest:
            return 1.0
        exponent = math.frexp(largest)[1] - 1
        if abs(exponent) <= (PLAIN_HALF if dtype == torch.float16 else PLAIN):
            return 1.0
        most = MOST_DOUBLE if dtype == torch.float64 else MOST
        return math.ldexp(1.0, max(-most, min(most, exponent)))

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

    def c_step(self, x: Any, mu: Mu, theta: T | None = None) -> T:
        return self.family(x, mu, theta)(self.alpha)

    def family(self, x: Any, mu: Mu, theta: T | None = None) -> Callable[[float], T]:
        """A function that gives the C step of each alpha, for one x. What does not depend on alpha,
        such as an SVD, is done once."""
        twin = cast(Any, self)
        return lambda alpha: dataclasses.replace(twin, alpha=alpha).compress(x, mu, theta)

    def offers(self, x: Any, mu: Mu, theta: T | None = None) -> list[Offer]:
        """`family` with the C(Theta) of each Theta, for a search over alpha. Families of parts of
        the set may follow the first one.

        No alpha gives a point above the lower convex hull of (cost, distortion). The family of a
        part of the set reaches those that are on the hull of that part.
        """
        return [offer_of(self, self.family(x, mu, theta))]

    def price(self, theta: T) -> float:
        return priced(self.alpha, self.usage(theta))


def offer_of(penalty: Penalty[Any], family: Callable[[float], Any]) -> Offer:
    """A function of alpha that gives the family's Theta and its C(Theta)."""

    def offer(alpha: float) -> tuple[Any, float]:
        theta = family(alpha)
        return theta, penalty.usage(theta)

    return offer


def check_metric(compression: Any, shape: Any) -> None:
    """Raise ValueError where a compression, of the library or a user's own, takes no metric."""
    if isinstance(compression, Compression):
        compression.check_metric(shape)
    else:
        raise ValueError(f"{compression!r} has a C step that takes no metric")


def is_penalty(compression: Any) -> bool:
    """Whether a compression has a C(Theta), and a C step for every alpha."""
    return isinstance(compression, Penalty)


def common_scaling(members: Any) -> int | None:
    """The `scaling` of a combination of compressions, None where a member has none."""
    found = [member.scaling() if isinstance(member, Compression) else None for member in members]
    laws = [e for e in found if e is not None]
    return max(laws, default=0) if len(laws) == len(found) else None


def priced(alpha: float, cost: float) -> float:
    """alpha cost, and infinity for a forbidden Theta, one of infinite cost, at any alpha."""
    return alpha * cost if cost < math.inf else math.inf


def _scaled_mu(mu: Mu, c: float, e: int) -> Mu:
    """c^e mu, within the bounds of MOST_MU, or of the tensors' type."""
    if isinstance(mu, (Tensor, tuple)):
        return _each(mu, lambda m: _scaled_tensor(m, c, e))
    mantissa, exponent = math.frexp(mu)
    exponent += e * (math.frexp(c)[1] - 1)
    return math.ldexp(mantissa, max(-MOST_MU, min(MOST_MU, exponent)))


def _scaled_tensor(mu: Tensor, c: float, e: int) -> Tensor:
    """c^e mu, as normal numbers of its type."""
    info = torch.finfo(mu.dtype)
    for _ in range(e):
        mu = (mu * c).clamp_(info.tiny, info.max)
    return mu


def _each(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The array, or each of the blocks, changed."""
    return change(x) if isinstance(x, Tensor) else tuple(change(block) for block in x)


def _cast(theta: T, dtype: torch.dtype) -> T:
    """The Theta with its floating-point tensors in `dtype`."""
    found = leaves(theta)
    if all(leaf.dtype == dtype or not leaf.is_floating_point() for leaf in found):
        return theta
    return with_leaves(
        theta, (leaf.to(dtype) if leaf.is_floating_point() else leaf for leaf in found)
    )

"""A hard limit for the total cost of compressions of any kind: one price for all, found so that the
total cost meets the limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from leco.coding.tensors import bits
from leco.compressions.checks import check_number
from leco.compressions.counted import Counted, counted
from leco.compressions.metric import Mu
from leco.compressions.parts import OfParts, Part, block_shapes, join
from leco.compressions.points import Menus, Point, improved, loss_of_zeros, menu_of
from leco.compressions.prices import Found, search, spent
from leco.compressions.protocol import Compression, common_scaling, is_penalty
from leco.theta import Array, Sum, Theta
from leco.views import blocks

HUGE = 1e24  # a price at which nothing is bought, relative to the loss of zeros
SWEEPS = 20  # at most so many searches follow the first one, in a metric
ENOUGH = 0.01  # share of the loss that the next search must gain


def coded_bytes(theta: Any) -> float:
    """The bytes that the tensors of a Theta take in a file: `leco.bits` / 8.

    >>> import torch, leco
    >>> leco.coded_bytes(leco.Binary().compress(torch.tensor([0.5, -1.5, 1.0]), mu=1.0))
    13.0
    """
    return bits(theta) / 8


@dataclass(frozen=True)
class Budget(OfParts, Compression[Sum]):
    """min ||x - Delta(Theta)||^2 subject to sum over members of unit_j C_j(Theta_j) <= limit: how
    much each layer gets follows from one price for all.

    Every member makes its C step at the price alpha unit_j. `leco.compressions.prices.search` finds
    the least alpha at which the total cost is at most the limit (Lagrangian relaxation). Where the
    members' C steps are exact, no Theta of the same or a lower cost has less distortion, because
    its distortion + alpha cost would be lower too (Everett, Operations Research 11, 1963, theorem
    1; Shoham and Gersho, IEEE Trans. ASSP 36, 1988). The step is exact in this sense: Theta is a
    point on the lower convex hull of (cost, distortion). The argument holds for any distortion, so
    in a metric too. There the C steps of low ranks are descent steps, so a C step without a last
    Theta makes the search again from its own Theta while that gains 1 %. With a last Theta it makes
    one search.

    Between two such points a part of the limit may be left over, less than the cost of one more
    item of one member (a rank, a group). The members then spend what they can of it at prices of
    their own, also with one candidate of a `Choice` only, or with the ranks below a dense matrix
    only. Theta always keeps the limit, and is never worse than the last Theta if that one keeps it.

    The costs C_j are estimates of what a file takes: an entropy for a code, an average for the
    place of a kept weight. With `count`, the limit holds for count(Theta) instead
    (`leco.compressions.counted`): within 1 % of what there is to spend, or one item, below it.

    A search costs one SVD for each low-rank member, and 10 to 40 C steps of the others; with
    `count`, a few times as many. x is a tensor or a tuple of blocks (the view `leco.Blocks()`).

    Args:
        members: `Part(view, compression, at, unit)` with penalty forms; each block of x stands in
            exactly one. Their own alpha is not used. `unit` turns C into the unit of `limit`: for
            bytes, 4 for a parameter of `RankSelection`, 4 and the bytes of its place for a kept
            weight of `L0Penalty`, 1/8 for the bits of `Choice` or `EntropyCodebook`; for
            multiply-adds, the number of positions.
        limit: in bytes, multiply-adds, seconds: whatever the units give.
        count: the real cost of a Theta, in the units of the limit: `leco.coded_bytes` for a limit
            in bytes that the coded Theta never exceeds, or a measurement of your own. For a limit
            of the whole file, `leco.fit_to_file` sets the count.

    Raises:
        TypeError: a member that is not a penalty form.
        ValueError: blocks in no member or in two; a limit below the least possible cost, which is
            named.

    >>> import torch, leco
    >>> ranks = leco.Part(leco.Matrix(), leco.RankSelection(0), (0,), unit=4)
    >>> kept = leco.Part(leco.Vector(), leco.L0Penalty(0), (1,), unit=5)
    >>> budget = leco.Budget((ranks, kept), limit=1000)
    >>> theta = budget.compress((torch.randn(20, 30), torch.randn(500)), mu=1.0)
    >>> 990 <= budget.usage(theta) <= 1000
    True
    >>> exact = leco.Budget((ranks, kept), limit=1000, count=leco.coded_bytes)
    >>> theta = exact.compress((torch.randn(20, 30), torch.randn(500)), mu=1.0)
    >>> 900 <= leco.bits(theta) / 8 <= 1000
    True
    """

    takes_metric: ClassVar[bool] = True

    members: Sequence[Part]
    limit: float
    count: Callable[[Sum], float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "members", tuple(self.members))
        check_number("Budget: limit", self.limit)
        if self.count is not None and not callable(self.count):
            raise TypeError(
                f"Budget: count = {self.count!r} must be a function of Theta, such as "
                "leco.coded_bytes"
            )
        for j, part in enumerate(self.members):
            if not isinstance(part, Part):
                raise TypeError(
                    f"Budget: members[{j}] = {part!r} must be a leco.Part(view, compression)"
                )
            if not is_penalty(part.compression):
                raise TypeError(
                    f"Budget: members[{j}] has the compression {part.compression!r}, which has no "
                    "price; a penalty form is needed, such as leco.L0Penalty, leco.RankSelection, "
                    "or leco.Choice among candidates"
                )

    def scaling(self) -> int | None:
        """None with a count, which sees Theta at the scale that it is returned in."""
        if self.count is not None:
            return None
        return common_scaling(part.compression for part in self.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.members)

    def check(self, shape: Any) -> None:
        """Raise ValueError where blocks are not covered once, or zeros cost more than the limit."""
        shapes = block_shapes(shape)
        self._check_cover(shapes)
        zeros = [torch.zeros(()).expand(block) for block in shapes]
        x = zeros[0] if isinstance(shape, torch.Size) else tuple(zeros)
        self._least(x, self._menus(zeros, 1.0, [None] * len(self.members)), HUGE)

    def c_step(self, x: Array, mu: Mu, theta: Sum | None = None) -> Sum:
        whole = blocks(x)
        self._check_cover([block.shape for block in whole])
        count = len(self.members)
        starts = [None] * count if theta is None else [term.theta for term in theta.terms]
        point = self._search(x, mu, starts)

        # in a metric, where C steps may be descent steps: again from there, without a last Theta
        for _ in range(SWEEPS if theta is None and not isinstance(mu, (int, float)) else 0):
            last, point = point, self._search(x, mu, point.thetas)
            if not point.loss < (1 - ENOUGH) * last.loss:
                point = min(last, point, key=lambda p: p.loss)
                break

        # the last Theta, where that is better
        if theta is not None and self.usage(theta) <= self.limit:
            pairs = zip(self.members, theta.terms, strict=True)
            before = [part.loss(term.theta, whole, mu) for part, term in pairs]
            if sum(before) < point.loss:
                return theta
        return join(self.members, point.thetas, x)

    def _search(self, x: Array, mu: Mu, starts: Sequence[Theta | None]) -> Point:
        """The best point found that keeps the limit, by the estimate or by the count."""
        scale = loss_of_zeros(blocks(x), mu) or 1.0
        ceiling, guess = HUGE * max(scale, 1.0), scale / (self.limit or 1.0)
        menus = self._menus(blocks(x), mu, starts)
        least = self._least(x, menus, ceiling)
        if self.count is None:
            return self._within(self.limit, menus, guess, ceiling, least.point)
        return self._counted(x, menus, guess, ceiling, least)

    def usage(self, theta: Sum) -> float:
        """The total cost, in the units of the limit: count(Theta), or the sum of the members'."""
        return self._estimate(theta) if self.count is None else self.count(theta)

    def _estimate(self, theta: Sum) -> float:
        pairs = zip(self.members, theta.terms, strict=True)
        return sum(part.cost(term.theta) for part, term in pairs)

    def _within(
        self, limit: float, menus: Menus, guess: float, ceiling: float, least: Point
    ) -> Point:
        """The best point found whose estimated cost is at most `limit`."""
        found = search(lambda price: Point.at(menus, price), limit, guess, ceiling, least)
        if found.price and not spent(found.point, limit):
            return self._spend(limit, menus, found, ceiling)
        return found.point

    def _counted(
        self, x: Array, menus: Menus, guess: float, ceiling: float, least: Counted[Point]
    ) -> Point:
        """The best point found whose counted cost is at most the limit."""

        def cost(point: Point) -> float:
            return self._cost(x, point)

        def within(limit: float) -> Point:
            return self._within(limit, menus, guess, ceiling, least.point)

        # a limit that binds at no price
        point = Point.at(menus, 0.0)
        free = Counted(point, cost(point))
        if free.cost <= self.limit:
            return free.point
        return counted(within, cost, self.limit, least, free)

    def _cost(self, x: Array, point: Point) -> float:
        """The total cost of a point, in the units of the limit."""
        if self.count is None:
            return point.total
        return self.count(join(self.members, point.thetas, x))

    def _check_cover(self, shapes: Sequence[torch.Size]) -> None:
        for part in self.members:
            part.check(shapes)
        places = [b for part in self.members for b in part.places(len(shapes))]
        for b, shape in enumerate(shapes):
            if places.count(b) != 1:
                raise ValueError(
                    f"Budget: block {b} of shape {tuple(shape)} stands in {places.count(b)} "
                    "members; it must stand in exactly one"
                )

    def _menus(self, x: Sequence[Tensor], mu: Mu, starts: Sequence[Theta | None]) -> Menus:
        pairs = zip(self.members, starts, strict=True)
        return [menu_of(part, x, mu, start) for part, start in pairs]

    def _least(self, x: Array, menus: Menus, ceiling: float) -> Counted[Point]:
        """The point of least cost. Raises ValueError where that is above the limit."""
        point = Point.at(menus, ceiling)
        cost = self._cost(x, point)
        if cost > self.limit:
            raise ValueError(
                f"Budget: limit = {self.limit} must be at least {cost}, the least that the members "
                "can cost"
            )
        return Counted(point, cost)

    def _spend(self, limit: float, menus: Menus, found: Found[Point], ceiling: float) -> Point:
        """Give what is left over to the members in turn, first to the one whose distortion it
        lowers most."""
        base, every = found.point, range(len(self.members))
        trials = {j: improved(j, limit, menus[j], found, ceiling, base) for j in every}
        first, *others = sorted(trials, key=lambda j: trials[j].losses[j] - base.losses[j])
        point = trials[first]
        for j in others:
            if trials[j].losses[j] < base.losses[j] and not spent(point, limit):
                point = improved(j, limit, menus[j], found, ceiling, point)
        return point

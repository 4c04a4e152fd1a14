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
from leco.compressions.metric import Mu, distortion, mu_of_blocks
from leco.compressions.parts import OfParts, Part, block_shapes, join
from leco.compressions.points import Menus, Point, improved, menu_of
from leco.compressions.prices import Found, search, spent
from leco.compressions.protocol import Compression, common_scaling, is_penalty
from leco.theta import Array, Sum
from leco.views import blocks

HUGE = 1e24  # a price at which nothing is bought, relative to the loss of zeros


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
    in a metric, too, where the distortion is sum_i mu_i/2 (x_i - Delta(Theta)_i)^2.

    Between two such points a part of the limit may be left over, less than the cost of one more
    item of one member (a rank, a group). The members then spend what they can of it at prices of
    their own, also with one candidate of a `Choice` only, or with the ranks below a dense matrix
    only. Theta always keeps the limit, and is never worse than the last Theta if that one keeps it.

    The costs C_j are estimates of what a file takes: an entropy for a code, an average for the
    place of a kept weight. With `count`, the limit holds for count(Theta) instead
    (`leco.compressions.counted`): within 1 % of what there is to spend, or one item, below it.

    The cost is one SVD for each low-rank member, and 10 to 40 C steps of the others; with `count`,
    a few times as many. x is a tensor or, with the view `leco.Blocks()`, a tuple of blocks.

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
        """Raise ValueError where blocks are not covered once, or where the limit is below the least
        cost of blocks of zeros."""
        shapes = block_shapes(shape)
        self._check_cover(shapes)
        zeros = [torch.zeros(()).expand(block) for block in shapes]
        x = zeros[0] if isinstance(shape, torch.Size) else tuple(zeros)
        self._least(x, self._menus(zeros, 1.0, None), HUGE)

    def check_metric(self, shape: Any) -> None:
        for part in self.members:
            part.check_metric(block_shapes(shape))

    def c_step(self, x: Array, mu: Mu, theta: Sum | None = None) -> Sum:
        whole = blocks(x)
        self._check_cover([block.shape for block in whole])
        scale = _loss_of_zeros(whole, mu) or 1.0
        ceiling = HUGE * max(scale, 1.0)

        # the search, by the estimate or by the count
        menus = self._menus(whole, mu, theta)
        least = self._least(x, menus, ceiling)
        guess = scale / (self.limit or 1.0)
        if self.count is None:
            point = self._within(self.limit, menus, guess, ceiling, least.point)
        else:
            point = self._counted(x, menus, guess, ceiling, least)

        # the last Theta, where that is better
        if theta is not None and self.usage(theta) <= self.limit:
            pairs = zip(self.members, theta.terms, strict=True)
            last = [part.loss(term.theta, whole, mu) for part, term in pairs]
            if sum(last) < point.loss:
                return theta
        return join(self.members, point.thetas, x)

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

    def _menus(self, x: Sequence[Tensor], mu: Mu, theta: Sum | None) -> Menus:
        terms = [None] * len(self.members) if theta is None else theta.terms
        starts = [None if term is None else term.theta for term in terms]
        return [
            menu_of(part, x, mu, start) for part, start in zip(self.members, starts, strict=True)
        ]

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


def _loss_of_zeros(x: Sequence[Tensor], mu: Mu) -> float:
    """sum_i mu_i/2 x_i^2: the loss where nothing is bought."""
    if isinstance(mu, (int, float)):
        norms = [float(torch.linalg.vector_norm(block, dtype=torch.float64)) for block in x]
        return mu / 2 * sum(norm**2 for norm in norms)
    pairs = zip(x, mu_of_blocks(mu, len(x)), strict=True)
    return sum(distortion(block, block.new_zeros(()).expand_as(block), m) for block, m in pairs)

"""A hard budget over compressions of any kind: one price for all, found so that their costs meet a
limit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.compressions.checks import check_number
from leco.compressions.parts import OfParts, Part, block_shapes, join
from leco.compressions.protocol import Compression, Offer, common_scaling, is_penalty
from leco.theta import Array, Sum, Theta
from leco.views import blocks

HUGE = 1e24  # a price at which nothing is bought, relative to ||x||^2
SLACK = 1e-3  # of the limit: so little left over is not looked into
WIDTH = 1e-4  # of a bracket of log alpha that is not looked into
SAME = 1e-9  # relative difference of two objectives that are the same but for rounding
TURNS = 60


Buy = Callable[[float], tuple[Theta, float, float]]
"""alpha to a member's Theta, its cost in the units of the limit, and mu/2 times its distortion."""
Menus = list[list[Buy]]
"""The offers of each member."""


@dataclass(frozen=True)
class Budget(OfParts, Compression[Sum]):
    """min ||x - Delta(Theta)||^2 subject to sum over members of unit_j C_j(Theta_j) <= limit: how
    much each layer gets comes out by itself.

    Lagrangian relaxation: every member makes its C step at the price alpha unit_j, and one alpha
    for all is brought to the least at which the total cost is at most the limit. That Theta, where
    the members' C steps are exact, has the least distortion of all that cost as much or less
    (Everett, Operations Research 11, 1963, theorem 1; Shoham and Gersho, IEEE Trans. ASSP 36,
    1988): if another of no more cost had less, its distortion + alpha cost would be lower too. It
    is a point on the lower convex hull of (cost, distortion); between two such points some of the
    limit may be left over, less than what one more item of one member (a rank, a group) costs. The
    members then spend what they can of that, at prices of their own and, what no price buys, with
    one candidate of a `Choice` only or with the ranks below a dense matrix only. The limit is
    always kept; never worse than the last Theta, if that one keeps it.

    One SVD for each low-rank member, and 10 to 40 C steps of the others. x is a tensor or, with the
    view `leco.Blocks()`, a tuple of blocks.

    Args:
        members: `Part(view, compression, at, unit)` with penalty forms; each block of x stands in
            exactly one. Their own alpha is not used. `unit` turns C into the unit of `limit`: for
            bytes, 4 for a parameter of `RankSelection`, 4 and the bytes of its place for a kept
            weight of `L0Penalty`, 1/8 for the bits of `Choice` or `EntropyCodebook`; for
            multiply-adds, the number of positions.
        limit: in bytes, multiply-adds, seconds: whatever the units give.

    Raises:
        TypeError: a member that is not a penalty form.
        ValueError: blocks in no member or in two; a limit below the least possible cost, which is
            named.

    >>> import torch, leco
    >>> ranks, kept = leco.Part(leco.Matrix(), leco.RankSelection(0), (0,), unit=4), leco.Part(leco.Vector(), leco.L0Penalty(0), (1,), unit=5)
    >>> budget = leco.Budget((ranks, kept), limit=1000)
    >>> theta = budget.compress((torch.randn(20, 30), torch.randn(500)), mu=1.0)
    >>> 990 <= budget.usage(theta) <= 1000
    True
    """

    members: Sequence[Part]
    limit: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "members", tuple(self.members))
        check_number("Budget: limit", self.limit)
        for j, part in enumerate(self.members):
            if not isinstance(part, Part):
                raise TypeError(
                    f"Budget: members[{j}] = {part!r} must be a leco.Part(view, compression)"
                )
            if not is_penalty(part.compression):
                raise TypeError(
                    f"Budget: members[{j}] has the compression {part.compression!r}, which has no price; "
                    "a penalty form is needed, such as leco.L0Penalty, leco.RankSelection, or leco.Choice among candidates"
                )

    def scaling(self) -> int | None:
        return common_scaling(part.compression for part in self.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.members)

    def check(self, shape: Any) -> None:
        """Raise ValueError where blocks are not covered once, or where the limit is below the least
        cost of blocks of zeros."""
        shapes = block_shapes(shape)
        self._check_cover(shapes)
        self._least(
            self._menus([torch.zeros(()).expand(block) for block in shapes], 1.0, None), HUGE
        )

    def c_step(self, x: Array, mu: float, theta: Sum | None = None) -> Sum:
        whole = blocks(x)
        self._check_cover([block.shape for block in whole])
        menus = self._menus(whole, mu, theta)
        scale = (
            mu
            / 2
            * sum(
                float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2 for block in whole
            )
            or 1.0
        )
        ceiling = HUGE * max(scale, 1.0)
        least = self._least(menus, ceiling)
        found = _search(
            lambda a: _Point.at(menus, a), self.limit, scale / (self.limit or 1.0), ceiling, least
        )
        point = found.point
        if found.alpha and not _spent(point, self.limit):
            point = self._spend(menus, found, ceiling)
        if theta is not None and self.usage(theta) <= self.limit:
            last = [
                mu / 2 * part.distortion(term.theta, whole)
                for part, term in zip(self.members, theta.terms, strict=True)
            ]
            if sum(last) < point.loss:
                return theta
        return join(self.members, point.thetas, x)

    def usage(self, theta: Sum) -> float:
        """The total cost, in the units of the limit."""
        return sum(
            part.cost(term.theta) for part, term in zip(self.members, theta.terms, strict=True)
        )

    def _check_cover(self, shapes: Sequence[torch.Size]) -> None:
        for part in self.members:
            part.check(shapes)
        places = [b for part in self.members for b in part.places(len(shapes))]
        for b, shape in enumerate(shapes):
            if places.count(b) != 1:
                raise ValueError(
                    f"Budget: block {b} of shape {tuple(shape)} stands in {places.count(b)} members; it must stand in exactly one"
                )

    def _menus(self, x: Sequence[Tensor], mu: float, theta: Sum | None) -> Menus:
        starts = (
            [None] * len(self.members) if theta is None else [term.theta for term in theta.terms]
        )
        return [_menu(part, x, mu, start) for part, start in zip(self.members, starts, strict=True)]

    def _least(self, menus: Menus, ceiling: float) -> "_Point":
        point = _Point.at(menus, ceiling)
        if point.total > self.limit:
            raise ValueError(
                f"Budget: limit = {self.limit} must be at least {point.total}, the least that the members can cost"
            )
        return point

    def _spend(self, menus: Menus, found: "_Found", ceiling: float) -> "_Point":
        """What is left over goes to the members in turn, first to where it lowers the distortion
        most."""
        trials = {
            j: self._improved(j, menus[j], found, ceiling, found.point)
            for j in range(len(self.members))
        }
        first, *others = sorted(trials, key=lambda j: trials[j].losses[j] - found.point.losses[j])
        point = trials[first]
        for j in others:
            if trials[j].losses[j] < found.point.losses[j] and not _spent(point, self.limit):
                point = self._improved(j, menus[j], found, ceiling, point)
        return point

    def _improved(
        self, j: int, menu: list[Buy], found: "_Found", ceiling: float, base: "_Point"
    ) -> "_Point":
        """The best of member j's offers that keep the limit, the others fixed as in `base`."""
        best = base
        for k, buy in enumerate(menu):

            def at(alpha: float, buy: Buy = buy) -> "_Point":
                return base.replaced(j, *buy(alpha))

            if k:  # what no price buys
                top, last, guess = at(ceiling), ceiling, found.alpha
            else:
                over = found.over
                top, last, guess = (
                    base.replaced(j, over.thetas[j], over.costs[j], over.losses[j]),
                    found.below,
                    0.9 * found.below,
                )
            if top.total <= self.limit:
                trial = _search(at, self.limit, guess, last, top).point
                if trial.losses[j] < best.losses[j]:
                    best = trial
        return best


class _Point(NamedTuple):
    """The members' Thetas at some prices, their costs in the units of the limit, and mu/2 times
    their distortions."""

    thetas: tuple[Theta, ...]
    costs: tuple[float, ...]
    losses: tuple[float, ...]

    @classmethod
    def at(cls, menus: Menus, alpha: float) -> "_Point":
        return cls(*zip(*(menu[0](alpha) for menu in menus), strict=True))

    @property
    def total(self) -> float:
        return sum(self.costs)

    @property
    def loss(self) -> float:
        return sum(self.losses)

    def objective(self, alpha: float) -> float:
        return self.loss + alpha * self.total

    def replaced(self, j: int, theta: Theta, cost: float, loss: float) -> "_Point":
        """Another Theta of member j, the rest as they are."""
        head, rest = slice(j), slice(j + 1, None)
        thetas = (*self.thetas[head], theta, *self.thetas[rest])
        return _Point(
            thetas,
            (*self.costs[head], cost, *self.costs[rest]),
            (*self.losses[head], loss, *self.losses[rest]),
        )


class _Found(NamedTuple):
    """The least price found whose point keeps the limit, and the greatest found whose point does
    not (0 where every price's does)."""

    alpha: float
    point: _Point
    below: float
    over: _Point


def _menu(part: Part, x: Sequence[Tensor], mu: float, start: Theta | None) -> list[Buy]:
    compression: Any = part.compression

    def bought(offer: Offer) -> Buy:
        def at(alpha: float) -> tuple[Theta, float, float]:
            theta, usage = offer(alpha * part.unit)
            return theta, part.unit * usage, mu / 2 * part.distortion(theta, x)

        return at

    return [bought(offer) for offer in compression.offers(part.array(x), mu, start)]


def _spent(point: _Point, limit: float) -> bool:
    return limit - point.total <= SLACK * limit


def _search(
    at: Callable[[float], _Point], limit: float, guess: float, ceiling: float, best: _Point
) -> _Found:
    """`best`: the point at alpha = `ceiling`, which keeps the limit.

    log alpha is bracketed from `guess` on in growing steps. Then it is where the line through the
    last two totals, of logarithms, meets the limit. After a turn that brought the total no nearer,
    it is the price at which both ends of the bracket have the same objective: what is not below
    that there leaves no point of the hull between them (Shoham and Gersho). It ends there, where
    the limit is spent, or with a bracket narrower than `WIDTH`.
    """
    floor, top, aim = math.log(guess) - 60, math.log(ceiling), limit * (1 - SLACK / 2)
    low, over, high = floor, None, top
    probe, step = (
        math.log(guess),
        math.log(ceiling / guess) / 2 if ceiling < 2 * guess else math.log(16),
    )
    # the last probe, log(total / aim) there, and what both ends' objectives are at this one
    last = excess = tie = math.nan
    for _ in range(TURNS):
        point = at(math.exp(probe))
        lower = tie - point.objective(math.exp(probe))
        if point.total > limit:
            low, over = probe, point
        else:
            # a descent step's may be worse
            high, best = probe, point if point.loss <= best.loss else best
            if over is None:
                over = at(0.0)
                if over.total <= limit:
                    return _Found(0.0, over, 0.0, over)
        if _spent(best, limit) or high - low < WIDTH or lower <= SAME * tie:
            break
        before, excess = excess, math.log(point.total / aim) if aim and point.total else -math.inf
        slope, nearer = (excess - before) / (probe - last), abs(excess) < abs(before) / 2
        last, level, tie = probe, math.isnan(tie) and not nearer, math.nan
        if low == floor or (high == top and low + step < high):
            probe, step = (high - step if low == floor else low + step), 2 * step
            continue
        price = (best.loss - over.loss) / (over.total - best.total)
        if level and price > 0:
            probe, tie = math.log(price), best.objective(price)
        elif slope < 0:
            probe -= excess / slope
        if probe == last or not low < probe < high:
            probe, tie = (low + high) / 2, math.nan
    return _Found(math.exp(high), best, math.exp(low), over or best)

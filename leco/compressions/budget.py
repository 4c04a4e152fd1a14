"""A hard budget over compressions of any kind: one price for all, found so that their costs meet a limit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.compressions.parts import OfParts, Part, block_shapes, join
from leco.compressions.protocol import Compression, Offer, check_number, is_penalty
from leco.theta import Array, Sum, Theta
from leco.views import blocks

HUGE = 1e24  # a price at which nothing is bought, relative to ||x||^2
SLACK = 1e-3  # of the limit: so little left over is not looked into
TURNS = 60


Menus = list[list[Offer]]
"""The offers of each member, in the units of the limit."""


@dataclass(frozen=True)
class Budget(OfParts, Compression[Sum]):
    """min ||x - Delta(Theta)||^2 subject to sum over members of unit_j C_j(Theta_j) <= limit: how much each layer gets comes out by itself.

    Lagrangian relaxation: every member makes its C step at the price alpha unit_j, and one alpha for all is bisected to the least at which
    the total cost is at most the limit. That Theta, where the members' C steps are exact, has the least distortion of all that cost as much
    or less (Everett, Operations Research 11, 1963, theorem 1; Shoham and Gersho, IEEE Trans. ASSP 36, 1988): if another of no more cost
    had less, its distortion + alpha cost would be lower too. It is a point on the lower convex hull of (cost, distortion); between two such
    points some of the limit may be left over, less than what one more item of one member (a rank, a group) costs. The members then spend
    what they can of that, at prices of their own and, what no price buys, with one candidate of a `Choice` only or with the ranks below a
    dense matrix only. The limit is always kept; never worse than the last Theta, if that one keeps it.

    One SVD for each low-rank member, and 15 to 60 C steps of the others. x is a tensor or, with the view `leco.Blocks()`, a tuple of blocks.

    Args:
        members: `Part(view, compression, at, unit)` with penalty forms; each block of x stands in exactly one. Their own alpha is not used.
            `unit` turns C into the unit of `limit`: for bytes, 4 for a parameter of `RankSelection`, 4 and the bytes of its place for a kept
            weight of `L0Penalty`, 1/8 for the bits of `Choice` or `EntropyCodebook`; for multiply-adds, the number of positions.
        limit: in bytes, multiply-adds, seconds: whatever the units give.

    Raises:
        TypeError: a member that is not a penalty form.
        ValueError: blocks in no member or in two; a limit below the least possible cost, which is named.

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
        object.__setattr__(self, "members", tuple(self.members))
        check_number("Budget: limit", self.limit)
        for j, part in enumerate(self.members):
            if not isinstance(part, Part):
                raise TypeError(f"Budget: members[{j}] = {part!r} must be a leco.Part(view, compression)")
            if not is_penalty(part.compression):
                raise TypeError(
                    f"Budget: members[{j}] has the compression {part.compression!r}, which has no price; "
                    "a penalty form is needed, such as leco.L0Penalty, leco.RankSelection, or leco.Choice among candidates"
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.members)

    def check(self, shape: Any) -> None:
        """Raise ValueError where blocks are not covered once, or where the limit is below the least cost of blocks of zeros."""
        shapes = block_shapes(shape)
        self._check_cover(shapes)
        self._least(self._menus([torch.zeros(()).expand(block) for block in shapes], 1.0, None), HUGE)

    def compress(self, x: Array, mu: float, theta: Sum | None = None) -> Sum:
        whole = blocks(x)
        self._check_cover([block.shape for block in whole])
        menus = self._menus(whole, mu, theta)
        scale = mu / 2 * sum(float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2 for block in whole) or 1.0
        ceiling = HUGE * max(scale, 1.0)
        least = self._least(menus, ceiling)
        alpha, point = _search(lambda a: _Point.at(menus, a), self.limit, scale / (self.limit or 1.0), ceiling, least)
        if alpha and not _spent(point, self.limit):
            point = self._spend(whole, menus, alpha, ceiling, point)
        found = join(self.members, point.thetas, x)
        return found if theta is None else self._better(whole, found, theta)

    def usage(self, theta: Sum) -> float:
        """The total cost, in the units of the limit."""
        return sum(part.cost(term.theta) for part, term in zip(self.members, theta.terms, strict=True))

    def _check_cover(self, shapes: Sequence[torch.Size]) -> None:
        for part in self.members:
            part.check(shapes)
        places = [b for part in self.members for b in part.places(len(shapes))]
        for b, shape in enumerate(shapes):
            if places.count(b) != 1:
                raise ValueError(f"Budget: block {b} of shape {tuple(shape)} stands in {places.count(b)} members; it must stand in exactly one")

    def _menus(self, x: Sequence[Tensor], mu: float, theta: Sum | None) -> Menus:
        starts = [None] * len(self.members) if theta is None else [term.theta for term in theta.terms]
        return [_menu(part, x, mu, start) for part, start in zip(self.members, starts, strict=True)]

    def _least(self, menus: Menus, ceiling: float) -> "_Point":
        point = _Point.at(menus, ceiling)
        if point.total > self.limit:
            raise ValueError(f"Budget: limit = {self.limit} must be at least {point.total}, the least that the members can cost")
        return point

    def _spend(self, x: Sequence[Tensor], menus: Menus, alpha: float, ceiling: float, point: "_Point") -> "_Point":
        """What is left over goes to the members in turn, first to where it lowers the distortion most."""
        trials = {j: self._improved(j, x, menus[j], alpha, ceiling, point) for j in range(len(self.members))}
        first, *others = sorted(trials, key=lambda j: -trials[j][0])
        point = trials[first][1]
        for j in others:
            if trials[j][0] > 0 and not _spent(point, self.limit):
                point = self._improved(j, x, menus[j], alpha, ceiling, point)[1]
        return point

    def _improved(self, j: int, x: Sequence[Tensor], menu: list[Offer], alpha: float, ceiling: float, base: "_Point") -> tuple[float, "_Point"]:
        """The best of member j's offers that keep the limit, the others fixed, and by how much it lowers the distortion."""
        part, best = self.members[j], base
        before = least = part.distortion(base.thetas[j], x)
        for k, offer in enumerate(menu):
            at = partial(base.bought, j, offer)
            top = at(ceiling) if k else base
            if top.total > self.limit:
                continue
            _, trial = _search(at, self.limit, alpha if k else 0.9 * alpha, ceiling if k else alpha, top)
            reached = part.distortion(trial.thetas[j], x)
            if reached < least:
                best, least = trial, reached
        return before - least, best

    def _better(self, x: Sequence[Tensor], found: Sum, last: Sum) -> Sum:
        if self.usage(last) > self.limit:
            return found
        new, old = (sum(p.distortion(t.theta, x) for p, t in zip(self.members, theta.terms, strict=True)) for theta in (found, last))
        return found if new <= old else last


class _Point(NamedTuple):
    """The members' Thetas at some prices, and their costs in the units of the limit."""

    thetas: tuple[Theta, ...]
    costs: tuple[float, ...]

    @classmethod
    def at(cls, menus: Menus, alpha: float) -> "_Point":
        pairs = [menu[0](alpha) for menu in menus]
        return cls(tuple(theta for theta, _ in pairs), tuple(cost for _, cost in pairs))

    @property
    def total(self) -> float:
        return sum(self.costs)

    def bought(self, j: int, offer: Offer, alpha: float) -> "_Point":
        """Member j's Theta from an offer, the others as they are."""
        theta, cost = offer(alpha)
        return _Point((*self.thetas[:j], theta, *self.thetas[j + 1 :]), (*self.costs[:j], cost, *self.costs[j + 1 :]))


def _menu(part: Part, x: Sequence[Tensor], mu: float, start: Theta | None) -> list[Offer]:
    compression: Any = part.compression

    def scaled(offer: Offer) -> Offer:
        def at(alpha: float) -> tuple[Theta, float]:
            theta, usage = offer(alpha * part.unit)
            return theta, part.unit * usage

        return at

    return [scaled(offer) for offer in compression.offers(part.array(x), mu, start)]


def _spent(point: _Point, limit: float) -> bool:
    return limit - point.total <= SLACK * limit


def _search(at: Callable[[float], _Point], limit: float, guess: float, ceiling: float, best: _Point, width: float = 1e-3) -> tuple[float, _Point]:
    """The least alpha found whose total is at most the limit, and its point. `best`: the point at alpha = `ceiling`, which keeps the limit.

    log alpha is bracketed from `guess` on in growing steps, then halved, or in every other turn divided where the totals' straight line
    meets the limit, until the bracket is narrower than `width` or the limit is spent.
    """
    free = at(0.0)
    if free.total <= limit:
        return 0.0, free
    floor, top = math.log(guess) - 60, math.log(ceiling)
    low, over, high = floor, free.total, top
    probe, step = math.log(guess), math.log(ceiling / guess) / 2 if ceiling < 2 * guess else math.log(16)
    for turn in range(TURNS):
        point = at(math.exp(probe))
        if point.total <= limit:
            high, best = probe, point
        else:
            low, over = probe, point.total
        if _spent(best, limit) or high - low < width:
            break
        if low == floor or (high == top and low + step < high):
            probe, step = (high - step if low == floor else low + step), 2 * step
        else:
            probe = high - (high - low) * (min(max((limit - best.total) / (over - best.total), 0.02), 0.98) if turn % 2 else 0.5)
        if not low < probe < high:
            probe = (low + high) / 2
    return math.exp(high), best

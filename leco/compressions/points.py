"""What the members of a budget buy: their offers at a price, and their Thetas together."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.compressions.metric import Mu, distortion, mu_of_blocks
from leco.compressions.parts import Part
from leco.compressions.prices import Found, search
from leco.compressions.protocol import Offer
from leco.theta import Theta

Buy = Callable[[float], tuple[Theta, float, float]]
"""alpha to a member's Theta, its cost in the units of the limit, and mu/2 times its distortion."""
Menus = list[list[Buy]]
"""The offers of each member."""


class Point(NamedTuple):
    """The members' Thetas at some prices, their costs in the units of the limit, and mu/2 times
    their distortions."""

    thetas: tuple[Theta, ...]
    costs: tuple[float, ...]
    losses: tuple[float, ...]

    @classmethod
    def at(cls, menus: Menus, alpha: float) -> "Point":
        return cls(*zip(*(menu[0](alpha) for menu in menus), strict=True))

    @property
    def total(self) -> float:
        return sum(self.costs)

    @property
    def loss(self) -> float:
        return sum(self.losses)

    def replaced(self, j: int, theta: Theta, cost: float, loss: float) -> "Point":
        """Another Theta of member j, the rest as they are."""
        head, rest = slice(j), slice(j + 1, None)
        thetas = (*self.thetas[head], theta, *self.thetas[rest])
        return Point(
            thetas,
            (*self.costs[head], cost, *self.costs[rest]),
            (*self.losses[head], loss, *self.losses[rest]),
        )


def loss_of_zeros(x: Sequence[Tensor], mu: Mu) -> float:
    """sum_i mu_i/2 x_i^2: the loss where nothing is bought."""
    if isinstance(mu, (int, float)):
        norms = [float(torch.linalg.vector_norm(block, dtype=torch.float64)) for block in x]
        return mu / 2 * sum(norm**2 for norm in norms)
    pairs = zip(x, mu_of_blocks(mu, len(x)), strict=True)
    return sum(distortion(block, block.new_zeros(()).expand_as(block), m) for block, m in pairs)


def menu_of(part: Part, x: Sequence[Tensor], mu: Mu, start: Theta | None) -> list[Buy]:
    """The offers of a member, in the units of the limit."""
    compression: Any = part.compression

    def bought(offer: Offer) -> Buy:
        def at(alpha: float) -> tuple[Theta, float, float]:
            theta, usage = offer(alpha * part.unit)
            return theta, part.unit * usage, part.loss(theta, x, mu)

        return at

    return [
        bought(offer) for offer in compression.offers(part.array(x), part.mu(mu, len(x)), start)
    ]


def improved(
    j: int,
    limit: float,
    menu: list[Buy],
    found: Found[Point],
    ceiling: float,
    base: Point,
) -> Point:
    """The best of member j's offers that keep the limit, with the other members as in `base`."""
    best, over = base, found.over
    for k, buy in enumerate(menu):

        def at(alpha: float, buy: Buy = buy) -> Point:
            return base.replaced(j, *buy(alpha))

        # member j at the price below; of an offer that the first price does not see, at the ceiling
        if k:
            top, last, guess = at(ceiling), ceiling, found.price
        else:
            top = base.replaced(j, over.thetas[j], over.costs[j], over.losses[j])
            last, guess = found.below, 0.9 * found.below
        if top.total <= limit:
            trial = search(at, limit, guess, last, top).point
            best = trial if trial.losses[j] < best.losses[j] else best
    return best

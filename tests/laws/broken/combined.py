"""Combinations that are wrong in one way each."""

import torch

from laws.broken.fault import Fault
from laws.broken.values import ForgetsItsGrid
from leco.compressions import (
    Additive,
    Binary,
    Budget,
    Choice,
    Codebook,
    Compose,
    L0Penalty,
    LowRank,
    Part,
    PowersOfTwo,
    RankSelection,
    TopK,
    Uniform,
)
from leco.compressions.parts import join
from leco.views import Matrix, Vector

CONVEX_RANKS = (Part(Matrix(), RankSelection(0, lambda shape, r: r * sum(shape))),)


SCHEMES = (Part(Vector(), Binary()), Part(Vector(), L0Penalty(0), unit=3))


class OneItemTooMuch(Budget):
    """The first point above the limit instead of the last one below it."""

    def compress(self, x, mu, theta=None):
        return Budget(self.members, self.limit + 12).compress(x, mu)


class LeavesHalf(Budget):
    def compress(self, x, mu, theta=None):
        return Budget(self.members, self.limit / 2).compress(x, mu)


class NearestScheme(Choice):
    """The candidate of least distortion, whatever it costs."""

    def compress(self, x, mu, theta=None):
        return self.family(x, mu)(0.0)


class ForgetsTheUnit(Choice):
    def usage(self, theta):
        return sum(
            part.numel()
            for term in theta.terms
            for part in term.theta
            if isinstance(part, torch.Tensor)
        )


def one_after_another(additive, x, mu):
    """Each term at what those before it left, once."""
    thetas, left = [], x
    for part in additive.parts:
        thetas.append(part.compression.compress(part.view.forward([left]), mu))
        left = left - part.delta(thetas[-1], [x.shape])[0]
    return join(additive.parts, thetas, x)


class OneAfterAnother(Additive):
    def compress(self, x, mu, theta=None):
        return one_after_another(self, x, mu)


class EachAtTheWhole(Additive):
    """No term sees the others."""

    def compress(self, x, mu, theta=None):
        thetas = [part.compression.compress(part.view.forward([x]), mu) for part in self.parts]
        return join(self.parts, thetas, x)


class PriceOfTheLastTerm(Additive):
    def price(self, theta):
        return self.parts[-1].compression.price(theta.terms[-1].theta)


class QuantizesFirst(Compose):
    """The largest of the quantized weights, and not quantized kept weights."""

    def compress(self, x, mu, theta=None):
        return self.first.compress(self.then.compress(x, mu).decompress(), mu)


class LeavesTheValues(Compose):
    def compress(self, x, mu, theta=None):
        return self.first.compress(x, mu)


class RoundsFactorsOnce(Compose):
    """To the widest grid, and never again."""

    def compress(self, x, mu, theta=None):
        factors = self.first.compress(x, mu)
        return factors._replace(
            **{
                name: ForgetsItsGrid(self.then.bits)
                .compress(getattr(factors, name), mu)
                .decompress()
                for name in ("u", "v")
            }
        )


FAULTS = (
    Fault("member", "budget of 2 ranks", OneItemTooMuch(CONVEX_RANKS, 35)),
    Fault("optimal", "budget of 2 ranks", LeavesHalf(CONVEX_RANKS, 35)),
    Fault("optimal", "choice, alpha 0.2", NearestScheme(0.2, SCHEMES)),
    Fault("price_is_the_cost", "choice, alpha 0.01", ForgetsTheUnit(0.01, SCHEMES)),
    Fault(
        "optimal", "binary + top 5", OneAfterAnother([(Vector(), Binary()), (Vector(), TopK(5))])
    ),
    Fault(
        "optimal",
        "signs + top 5",
        OneAfterAnother([(Vector(), TopK(5)), (Vector(), Binary(scale=False))]),
    ),
    Fault(
        "optimal",
        "ranks of two matrices",
        EachAtTheWhole([(Matrix(), LowRank(1)), (Matrix((0, 2)), LowRank(1))]),
    ),
    Fault(
        "idempotent",
        "rank 1 + top 5",
        OneAfterAnother([(Matrix(), LowRank(1)), (Vector(), TopK(5))]),
    ),
    Fault(
        "warm_start_is_never_worse",
        "codebook 2 + top 5",
        OneAfterAnother([(Vector(), Codebook(2)), (Vector(), TopK(5))]),
    ),
    Fault(
        "price_is_the_cost",
        "powers + l0 penalty",
        PriceOfTheLastTerm([(Vector(), L0Penalty(0.2)), (Vector(), PowersOfTwo(1))]),
    ),
    Fault("optimal", "top 7, codebook 3", QuantizesFirst(TopK(7), Codebook(3))),
    Fault("member", "top 7, codebook 3", LeavesTheValues(TopK(7), Codebook(3))),
    Fault("warm_start_is_never_worse", "rank 2, grid", RoundsFactorsOnce(LowRank(2), Uniform(6))),
)

"""Decompositions that are wrong in one way each."""

import torch

from laws.broken.fault import Fault
from leco.compressions import (
    CP,
    ConvRankSelection,
    LowRank,
    RankSelection,
    TensorTrain,
    Tucker2,
    TuckerSelection,
)
from leco.theta import ConvFactors, CPFactors, Dense, Factors


class SharesAtFullRank(LowRank):
    def compress(self, x, mu, theta=None):
        return Dense(x[..., :, :])


class OneRankMore(LowRank):
    def compress(self, x, mu, theta=None):
        return LowRank(self.rank + 1).compress(x, mu)


class FirstColumns(LowRank):
    """x projected on its first r columns instead of its first singular vectors."""

    def compress(self, x, mu, theta=None):
        u = torch.linalg.qr(x[..., : self.rank]).Q
        return Factors(u, u.mT @ x)


class EnergyRank(RankSelection):
    """The rank that keeps 90 % of the energy, whatever it costs."""

    def compress(self, x, mu, theta=None):
        s = torch.linalg.svdvals(x).square()
        return LowRank(int((s.cumsum(0) < 0.9 * s.sum()).sum()) + 1).compress(x, mu)


class FirstScheme(ConvRankSelection):
    """Scheme 1 without a look at scheme 2."""

    def compress(self, x, mu, theta=None):
        return ConvRankSelection(self.alpha, self.cost, schemes=(1,)).compress(x, mu)


class WrongReshape(ConvRankSelection):
    """Height and in not exchanged in scheme 2."""

    def compress(self, x, mu, theta=None):
        matrix = x.reshape(x.shape[0] * x.shape[2], -1)
        theta = RankSelection(self.alpha, self.cost).compress(matrix, mu)
        return (
            Dense(x.clone())
            if isinstance(theta, Dense)
            else ConvFactors(theta.u, theta.v, 2, x.shape[2], x.shape[3])
        )


class OneTuckerRankMore(Tucker2):
    def compress(self, x, mu, theta=None):
        return Tucker2((self.ranks[0], self.ranks[1] + 1)).compress(x, mu)


class FirstFibres(CP):
    """The tensor's first fibres, with no least squares."""

    def compress(self, x, mu, theta=None):
        first = torch.eye(len(x), self.rank, dtype=x.dtype)
        others = [torch.ones(n, self.rank, dtype=x.dtype) for n in x.shape[1:]]
        return CPFactors((first * x.mean(), *others))


class TruncatesOneUnfolding(TensorTrain):
    """The rank of the first bond only; the others full."""

    def compress(self, x, mu, theta=None):
        return Dense(LowRank(self.ranks[0]).compress(x.flatten(1), mu).decompress().view(x.shape))


class ForgetsTheLastCores(TensorTrain):
    """A retrained Theta is not looked at, and the sweeps from the TT-SVD are left out: it can be
    far behind."""

    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        return theta._replace(cores=(theta.cores[0] * 0.9, *theta.cores[1:]))


class SquareRanks(TuckerSelection):
    """The same rank for both modes, whatever the other pairs cost."""

    def compress(self, x, mu, theta=None):
        found = [Tucker2((r, r)).compress(x, mu) for r in range(1, min(x.shape[:2]))]
        return min(
            found, key=lambda t: mu / 2 * float((x - t.decompress()).square().sum()) + self.price(t)
        )


class PriceOfTheCore(TuckerSelection):
    def price(self, theta):
        return self.alpha * theta[0].numel()


class PriceOfEntries(RankSelection):
    """Numbers in the factors, also where a dense matrix is smaller, and whatever the cost."""

    def price(self, theta):
        return self.alpha * sum(field.numel() for field in theta)


FAULTS = (
    Fault("own_memory", "rank 5", SharesAtFullRank(5)),
    Fault("member", "rank 2", OneRankMore(2)),
    Fault("optimal", "rank 2", FirstColumns(2)),
    Fault("optimal", "rank selection 0.2", EnergyRank(0.2)),
    Fault("optimal", "conv ranks (1, 2), alpha 0.02", FirstScheme(0.02)),
    Fault("optimal", "conv ranks (2,), alpha 0.1", WrongReshape(0.1, schemes=(2,))),
    Fault("member", "tucker-2 (3, 2)", OneTuckerRankMore((3, 2))),
    Fault("member", "train (3, 2)", TruncatesOneUnfolding((3, 2))),
    Fault("optimal", "cp 2", FirstFibres(2)),
    Fault("optimal", "tucker selection 0.02, modes 2", SquareRanks(0.02)),
    Fault("warm_start_is_never_worse", "train (3, 2)", ForgetsTheLastCores((3, 2))),
    Fault("price_is_the_cost", "tucker selection 0.02, modes 2", PriceOfTheCore(0.02)),
    Fault("price_is_the_cost", "table", PriceOfEntries(0.9, lambda shape, rank: 1.0)),
)

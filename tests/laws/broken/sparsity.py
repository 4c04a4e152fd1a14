"""Prunings that are wrong in one way each."""

import torch

from laws.broken.fault import Fault
from leco.compressions import (
    NM,
    GroupL0Penalty,
    GroupL1Penalty,
    GroupTopK,
    L0Penalty,
    L1Ball,
    L1Penalty,
    L2Ball,
    TopK,
)
from leco.theta import Dense, GroupSparse, Sparse


def sparse(x, mask):
    return Sparse(mask, x[mask])


class ThresholdsInPlace(TopK):
    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        x *= theta.mask
        return theta


class SharesInside(L2Ball):
    def compress(self, x, mu, theta=None):
        return Dense(x)


class AlwaysDouble(TopK):
    def compress(self, x, mu, theta=None):
        return super().compress(x.double(), mu)


class BreaksTiesAtRandom(TopK):
    def compress(self, x, mu, theta=None):
        order = torch.randperm(len(x))
        kept = order[x[order].abs().argsort(descending=True)[: self.kappa]]
        return sparse(x, torch.zeros_like(x, dtype=torch.bool).index_fill_(0, kept, True))


class ReadsMemoryInOrder(L1Penalty):
    def compress(self, x, mu, theta=None):
        return self.c_step(torch.as_strided(x, (len(x),), (1,)), mu)


class KeepsOneMore(TopK):
    def compress(self, x, mu, theta=None):
        return TopK(self.kappa + 1).compress(x, mu)


class KeepsAllForZero(TopK):
    def compress(self, x, mu, theta=None):
        kept = x.abs().argsort()[-self.kappa :]  # x[-0:] is x
        return sparse(x, torch.zeros_like(x, dtype=torch.bool).index_fill_(0, kept, True))


class KeepsAllTies(TopK):
    def compress(self, x, mu, theta=None):
        return sparse(x, x.abs() >= x.abs().sort(descending=True).values[self.kappa - 1])


class ThresholdTooLate(L1Ball):
    """The threshold of one entry more than belongs to the support: it is too low, and too much is
    left."""

    late = 1

    def compress(self, x, mu, theta=None):
        a = x.abs().sort(descending=True).values
        tau = (a.cumsum(0) - self.kappa) / torch.arange(1, len(x) + 1)
        last = int((a > tau).nonzero()[-1]) + self.late
        t = tau[min(max(last, 0), len(x) - 1)].clamp(min=0)
        return sparse(x.sign() * (x.abs() - t), x.abs() > t)


class ThresholdTooEarly(ThresholdTooLate):
    """So is the threshold of one entry less."""

    late = -1


class RescalesToTheBall(L1Ball):
    """A point of the ball, but not the nearest one."""

    def compress(self, x, mu, theta=None):
        delta = x * min(1.0, self.kappa / max(float(x.abs().sum()), 1e-300))
        return sparse(delta, torch.ones_like(x, dtype=torch.bool))


class RescalesInside(L2Ball):
    def compress(self, x, mu, theta=None):
        return Dense(x * (self.kappa / x.norm().clamp(min=1e-300)))


class ShrinksABit(L2Ball):
    """A margin for rounding errors, on points of the ball too."""

    def compress(self, x, mu, theta=None):
        return Dense(0.999 * super().compress(x, mu).values)


class ShrinksTwice(L1Penalty):
    def compress(self, x, mu, theta=None):
        return super().compress(super().compress(x, mu).decompress(), mu)


class ThresholdWithoutSquareRoot(L0Penalty):
    def compress(self, x, mu, theta=None):
        return sparse(x, x.abs() > 2 * self.alpha / mu)


class ThresholdWithoutMu(L1Penalty):
    def compress(self, x, mu, theta=None):
        return super().compress(x, 1.0)


class ForgetsToShrink(TopK):
    def compress(self, x, mu, theta=None):
        return TopK(self.kappa).compress(x, mu)


class PriceWithoutAlpha(L0Penalty):
    def price(self, theta):
        return float(theta.values.count_nonzero())


class OneThresholdForAllRows(TopK):
    def compress(self, x, mu, theta=None):
        count = self.kappa * x.numel() // x.shape[-1]
        return sparse(x, x.abs() >= x.abs().flatten().sort(descending=True).values[count - 1])


class LargestEntry(GroupTopK):
    """Groups by their largest entry, not by their norm."""

    def compress(self, x, mu, theta=None):
        mask = TopK(self.kappa).compress(x.abs().amax(-1), mu).mask
        return GroupSparse(mask, x[mask])


class OneMoreGroup(GroupTopK):
    def compress(self, x, mu, theta=None):
        return GroupTopK(self.kappa + 1).compress(x, mu)


class GroupsOfAllRows(GroupTopK):
    """One ranking for a whole batch."""

    def compress(self, x, mu, theta=None):
        theta = GroupTopK(self.kappa * x[..., 0].numel() // x.shape[-2]).compress(
            x.flatten(0, -2), mu
        )
        return theta._replace(mask=theta.mask.view(x.shape[:-1]))


class IgnoresCosts(GroupL0Penalty):
    def compress(self, x, mu, theta=None):
        return GroupL0Penalty(self.alpha).compress(x, mu)


class CountsGroups(GroupL0Penalty):
    def usage(self, theta):
        return int(theta.mask.sum())


class EntriesOneByOne(GroupL1Penalty):
    """The soft threshold of the l1 norm."""

    def compress(self, x, mu, theta=None):
        return Dense(torch.nn.functional.softshrink(x, self.alpha / mu))

    def price(self, theta):
        return self.alpha * float(theta.values.norm(dim=-1).sum())


class KeepsTiesInBlocks(NM):
    def compress(self, x, mu, theta=None):
        blocks = x.unflatten(-1, (-1, self.m))
        mask = (
            blocks.abs() >= blocks.abs().sort(descending=True).values[..., self.n - 1 : self.n]
        ).flatten(-2)
        return sparse(x, mask)


class SignedOrder(NM):
    def compress(self, x, mu, theta=None):
        order = x.unflatten(-1, (-1, self.m)).argsort(descending=True)[..., : self.n]
        return sparse(
            x,
            torch.zeros_like(x, dtype=torch.bool)
            .unflatten(-1, (-1, self.m))
            .scatter(-1, order, True)
            .flatten(-2),
        )


class SquaresInFloat32(GroupTopK):
    def compress(self, x, mu, theta=None):
        kept = TopK(self.kappa).c_step(x.square().sum(-1), mu).mask
        return GroupSparse(kept, x[kept])


class KeepsFloat32(TopK):
    def compress(self, x, mu, theta=None):
        return super().compress(x.float() if x.element_size() < 4 else x, mu, theta)


FAULTS = (
    Fault("scale", "3 groups", SquaresInFloat32(3)),
    Fault("half_precision_and_parameters", "top 7", KeepsFloat32(7)),
    Fault("input_untouched", "top 7", ThresholdsInPlace(7)),
    Fault("own_memory", "l2 ball of 1000000.0", SharesInside(1e6)),
    Fault("dtype_kept", "top 7", AlwaysDouble(7)),
    Fault("deterministic", "top 7", BreaksTiesAtRandom(7)),
    Fault("strides_do_not_matter", "l1 penalty 0.2", ReadsMemoryInOrder(0.2)),
    Fault("member", "top 7", KeepsOneMore(7)),
    Fault("member", "top 0", KeepsAllForZero(0)),
    Fault("member", "top 7", KeepsAllTies(7)),
    Fault("member", "l1 ball of 3.0", ThresholdTooLate(3.0)),
    Fault("member", "l1 ball of 3.0", ThresholdTooEarly(3.0)),
    Fault("member", "3 groups", OneMoreGroup(3)),
    Fault("member", "2:4", KeepsTiesInBlocks(2, 4)),
    Fault("idempotent", "l2 ball of 1.5", ShrinksABit(1.5)),
    Fault("idempotent", "l1 penalty 0.2", ShrinksTwice(0.2)),
    Fault("optimal", "l1 ball of 3.0", RescalesToTheBall(3.0)),
    Fault("optimal", "l2 ball of 1.5", RescalesInside(1.5)),
    Fault("optimal", "l0 penalty 0.2", ThresholdWithoutSquareRoot(0.2)),
    Fault("optimal", "l1 penalty 0.2", ThresholdWithoutMu(0.2)),
    Fault("optimal", "top 7, l2", ForgetsToShrink(7, gamma=0.5)),
    Fault("optimal", "3 groups", LargestEntry(3)),
    Fault(
        "optimal", "GroupL0Penalty 0.7, costs", IgnoresCosts(0.7, (1.0, 2.0, 0.0, 0.5, 3.0, 0.1))
    ),
    Fault("optimal", "GroupL1Penalty 0.7, a cost", EntriesOneByOne(0.7)),
    Fault("optimal", "2:4", SignedOrder(2, 4)),
    Fault("price_is_the_cost", "l0 penalty 0.2", PriceWithoutAlpha(0.2)),
    Fault(
        "price_is_the_cost",
        "GroupL0Penalty 0.7, costs",
        CountsGroups(0.7, (1.0, 2.0, 0.0, 0.5, 3.0, 0.1)),
    ),
    Fault("leading_dimensions_are_a_batch", "top 7", OneThresholdForAllRows(7)),
    Fault("leading_dimensions_are_a_batch", "3 groups", GroupsOfAllRows(3)),
)

"""Compressions that are wrong in one way each, with the law that must notice it. Most mistakes are
ones that people made."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from leco.compressions import (
    CP,
    NM,
    Additive,
    Binary,
    Budget,
    Choice,
    Codebook,
    Compose,
    ConvRankSelection,
    EntropyCodebook,
    EntropyMatrix,
    FixedCodebook,
    GroupL0Penalty,
    GroupL1Penalty,
    GroupTopK,
    Hashed,
    L0Penalty,
    L1Ball,
    L1Penalty,
    L2Ball,
    LowRank,
    Part,
    PowersOfTwo,
    RankSelection,
    TensorTrain,
    Ternary,
    TopK,
    Tucker2,
    TuckerSelection,
    Uniform,
    VectorCodebook,
)
from leco.compressions.parts import join
from leco.theta import (
    Affine,
    Codes,
    ConvFactors,
    CPFactors,
    Dense,
    Factors,
    Fixed,
    GroupSparse,
    Scaled,
    Sparse,
    VectorCodes,
    ZeroCodes,
)
from leco.views import Matrix, Vector


class Fault(NamedTuple):
    """`compression` takes the place of the one in the case named `case`, where `law` must fail."""

    law: str
    case: str
    compression: Any


def sparse(x, mask):
    return Sparse(mask, x[mask])


class ThresholdsInPlace(TopK):
    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        x *= theta.mask
        return theta


class MovesTheWarmStart(Codebook):
    def compress(self, x, mu, theta=None):
        if theta is not None:
            theta.codebook.mul_(0.9)
        return super().compress(x, mu, theta)


class SharesInside(L2Ball):
    def compress(self, x, mu, theta=None):
        return Dense(x)


class SharesAtFullRank(LowRank):
    def compress(self, x, mu, theta=None):
        return Dense(x[..., :, :])


class AlwaysSingle(Binary):
    def compress(self, x, mu, theta=None):
        return super().compress(x.float(), mu)


class AlwaysDouble(TopK):
    def compress(self, x, mu, theta=None):
        return super().compress(x.double(), mu)


class WideIndices(Codebook):
    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        return theta._replace(indices=theta.indices.long())


class ComesBackOnTheCPU(Ternary):
    def compress(self, x, mu, theta=None):
        return super().compress(x.cpu(), mu)


class BreaksTiesAtRandom(TopK):
    def compress(self, x, mu, theta=None):
        order = torch.randperm(len(x))
        kept = order[x[order].abs().argsort(descending=True)[: self.kappa]]
        return sparse(x, torch.zeros_like(x, dtype=torch.bool).index_fill_(0, kept, True))


class StartsAtRandom(Codebook):
    def compress(self, x, mu, theta=None):
        values = x[torch.randint(len(x), (self.k,))].sort().values
        return Codes((x.unsqueeze(-1) - values).abs().argmin(-1).to(torch.uint8), values)


class ReadsMemoryInOrder(L1Penalty):
    def compress(self, x, mu, theta=None):
        return super().compress(torch.as_strided(x, (len(x),), (1,)), mu)


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


class OneValueMore(Codebook):
    def compress(self, x, mu, theta=None):
        return Codebook(self.k + 1).compress(x, mu)


class OneRankMore(LowRank):
    def compress(self, x, mu, theta=None):
        return LowRank(self.rank + 1).compress(x, mu)


class SignOfZeroIsZero(Binary):
    def compress(self, x, mu, theta=None):
        return Dense(x.sign())


class ScaleForEachSign(Ternary):
    """{-a, 0, +b}: trained ternary quantization, another set."""

    def compress(self, x, mu, theta=None):
        delta = super().compress(x, mu).decompress()
        for side in (delta > 0, delta < 0):
            delta[side] = x[side].mean()
        return Dense(delta)


class BothEndsOfTheGrid(Uniform):
    """-2^(b-1) .. +2^(b-1): one level too many."""

    def compress(self, x, mu, theta=None):
        middle = 2 ** (self.bits - 1)
        s = x.abs().max().clamp(min=1e-30) / middle
        return Affine(
            (x / s).round().add(middle).to(torch.uint8), s, torch.tensor(middle, dtype=torch.uint8)
        )


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


class ForgetsItsGrid(Uniform):
    """The widest range at every call, also for data that lie on a narrower grid."""

    def compress(self, x, mu, theta=None):
        middle = 2 ** (self.bits - 1)
        s = (x.max() - x.min()).clamp(min=1e-30) / (2 * middle - 1) * 1.1
        return Affine(
            (x / s).round().clamp(-middle, middle - 1).add(middle).to(torch.uint8),
            s,
            torch.tensor(middle, dtype=torch.uint8),
        )


class MedianScale(Binary):
    def compress(self, x, mu, theta=None):
        return super().compress(x, mu)._replace(scale=x.abs().median())


class UsualTernaryThreshold(Ternary):
    """0 below 0.7 mean |x_i|: ternary weight networks, an approximation."""

    def compress(self, x, mu, theta=None):
        support = x.abs() > 0.7 * x.abs().mean()
        a = x.abs()[support].sum() / support.sum().clamp(min=1)
        return Scaled(
            (x.sign() * support + 1).to(torch.uint8),
            torch.tensor([-1.0, 0.0, 1.0], dtype=x.dtype),
            a,
        )


class RoundsTheExponent(PowersOfTwo):
    """Borders at 2^-(j + 1/2), where the logarithm is halfway, not at 3/4 2^-j."""

    def compress(self, x, mu, theta=None):
        j = (-x.abs().log2()).round().clamp(min=0)
        return Dense(torch.where(j > self.c, 0.0, x.sign() * 2.0**-j))


class NextValueDown(FixedCodebook):
    def compress(self, x, mu, theta=None):
        values = torch.tensor(self.values, dtype=x.dtype)
        return Fixed((torch.searchsorted(values, x) - 1).clamp(min=0).to(torch.uint8), values)


class Quantiles(Codebook):
    def compress(self, x, mu, theta=None):
        values = x.sort().values[(torch.arange(self.k) * 2 + 1) * len(x) // (2 * self.k)]
        return Codes((x.unsqueeze(-1) - values).abs().argmin(-1).to(torch.uint8), values)


class ThresholdWithoutSquareRoot(L0Penalty):
    def compress(self, x, mu, theta=None):
        return sparse(x, x.abs() > 2 * self.alpha / mu)


class ThresholdWithoutMu(L1Penalty):
    def compress(self, x, mu, theta=None):
        return super().compress(x, 1.0)


class ForgetsToShrink(TopK):
    def compress(self, x, mu, theta=None):
        return TopK(self.kappa).compress(x, mu)


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


class PriceWithoutAlpha(L0Penalty):
    def price(self, theta):
        return float(theta.values.count_nonzero())


class PriceOfEntries(RankSelection):
    """Numbers in the factors, also where a dense matrix is smaller, and whatever the cost."""

    def price(self, theta):
        return self.alpha * sum(field.numel() for field in theta)


class StartsCold(Codebook):
    """A uniform grid with no look at the warm start, and no iteration."""

    def compress(self, x, mu, theta=None):
        low, high = x.min(), x.max()
        values = low + (high - low) * torch.linspace(0, 1, self.k, dtype=x.dtype)
        return Codes((x.unsqueeze(-1) - values).abs().argmin(-1).to(torch.uint8), values)


class KeepsTheOldIndices(Ternary):
    """Refits the scale only, though with the wrong formula: the mean of all |x_i|."""

    def compress(self, x, mu, theta=None):
        return super().compress(x, mu) if theta is None else theta._replace(scale=x.abs().mean())


class OneThresholdForAllRows(TopK):
    def compress(self, x, mu, theta=None):
        count = self.kappa * x.numel() // x.shape[-1]
        return sparse(x, x.abs() >= x.abs().flatten().sort(descending=True).values[count - 1])


class OneScaleForAllRows(Binary):
    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        return theta._replace(scale=theta.scale.mean().expand_as(theta.scale))


class AcceptsEverything(Binary):
    def compress(self, x, mu, theta=None):
        return super().compress(x.nan_to_num(), mu)


class AcceptsInfinity(FixedCodebook):
    def compress(self, x, mu, theta=None):
        if x.isnan().any():
            raise ValueError("NaN or infinite entries")
        return super().compress(x.nan_to_num(), mu)


@dataclass(frozen=True)
class IndicesOfNoFile(Codebook):
    """Indices of a type that torch indexes with and a file does not hold."""

    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        return theta._replace(indices=theta.indices.to(torch.uint16))


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


class TakesTheFirstVectors(VectorCodebook):
    def compress(self, x, mu, theta=None):
        codebook = x[..., : self.k, :].clone()
        return VectorCodes(torch.cdist(x, codebook).argmin(-1).to(torch.uint8), codebook)


class OneCodebookForAllProblems(VectorCodebook):
    def compress(self, x, mu, theta=None):
        theta = super().compress(x.flatten(0, -2), mu)
        return VectorCodes(
            theta.indices.view(x.shape[:-1]), theta.codebook.expand(*x.shape[:-2], -1, -1)
        )


class ForgetsItsCodewords(VectorCodebook):
    def compress(self, x, mu, theta=None):
        return TakesTheFirstVectors(self.k).compress(x, mu)


class HashesByAnotherSeed(Hashed):
    def compress(self, x, mu, theta=None):
        return Hashed(self.k, self.seed + 1).compress(x, mu)


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


class ValuesBesideZero(EntropyCodebook):
    """As many values as asked for, and 0."""

    def compress(self, x, mu, theta=None):
        return EntropyCodebook(self.alpha, self.k + 1).compress(x, mu)


class CodesAfterwards(EntropyCodebook):
    def compress(self, x, mu, theta=None):
        return self.family(x, mu)(0.0)


class PriceOfTheCodesAlone(EntropyCodebook):
    def usage(self, theta):
        return super().usage(theta) - 48 * theta.codebook.shape[-1]


class OneTableForAllRows(EntropyCodebook):
    def compress(self, x, mu, theta=None):
        found = super().compress(x.reshape(-1), mu)
        return ZeroCodes(
            found.indices.view(x.shape), found.codebook.expand(*x.shape[:-1], -1).clone()
        )


class PositionsOneByOne(EntropyMatrix):
    """Each position at the entropy of all of them, as if rows and columns did not matter."""

    def usage(self, theta):
        return EntropyCodebook(self.alpha, self.k).usage(
            ZeroCodes(theta.indices.view(-1), theta.codebook)
        )


class PriceWithoutMu(EntropyMatrix):
    def compress(self, x, mu, theta=None):
        return super().compress(x, 1e-3 * mu)


FAULTS = (
    Fault("input_untouched", "top 7", ThresholdsInPlace(7)),
    Fault("input_untouched", "codebook 3", MovesTheWarmStart(3)),
    Fault("own_memory", "l2 ball of 1000000.0", SharesInside(1e6)),
    Fault("own_memory", "rank 5", SharesAtFullRank(5)),
    Fault("dtype_kept", "binary", AlwaysSingle()),
    Fault("dtype_kept", "top 7", AlwaysDouble(7)),
    Fault("dtype_kept", "codebook 3", WideIndices(3)),
    Fault("device_kept", "ternary", ComesBackOnTheCPU()),
    Fault("deterministic", "top 7", BreaksTiesAtRandom(7)),
    Fault("deterministic", "codebook 3, lloyd", StartsAtRandom(3)),
    Fault("strides_do_not_matter", "l1 penalty 0.2", ReadsMemoryInOrder(0.2)),
    Fault("member", "top 7", KeepsOneMore(7)),
    Fault("member", "top 0", KeepsAllForZero(0)),
    Fault("member", "top 7", KeepsAllTies(7)),
    Fault("member", "l1 ball of 3.0", ThresholdTooLate(3.0)),
    Fault("member", "l1 ball of 3.0", ThresholdTooEarly(3.0)),
    Fault("member", "codebook 3", OneValueMore(3)),
    Fault("member", "entropy 0.0, 4 values, with 0", ValuesBesideZero(0.0, 4)),
    Fault("optimal", "entropy 0.03, 4 values, with 0", CodesAfterwards(0.03, 4)),
    Fault("optimal", "entropy 0.03, 2 values, matrix", PriceWithoutMu(0.03, 2)),
    Fault("price_is_the_cost", "entropy 0.03, 4 values, with 0", PriceOfTheCodesAlone(0.03, 4)),
    Fault("price_is_the_cost", "entropy 0.001, 4 values, matrix", PositionsOneByOne(1e-3, 4)),
    Fault(
        "leading_dimensions_are_a_batch",
        "entropy 0.001, 2 values, with 0",
        OneTableForAllRows(1e-3, 2),
    ),
    Fault("member", "3 groups", OneMoreGroup(3)),
    Fault("member", "2:4", KeepsTiesInBlocks(2, 4)),
    Fault("member", "hashed 6, seed 0", HashesByAnotherSeed(6)),
    Fault("member", "rank 2", OneRankMore(2)),
    Fault("member", "signs", SignOfZeroIsZero(False)),
    Fault("member", "ternary", ScaleForEachSign()),
    Fault("member", "uniform 2 bits", BothEndsOfTheGrid(2)),
    Fault("idempotent", "l2 ball of 1.5", ShrinksABit(1.5)),
    Fault("idempotent", "l1 penalty 0.2", ShrinksTwice(0.2)),
    Fault("idempotent", "uniform 4 bits", ForgetsItsGrid(4)),
    Fault("optimal", "l1 ball of 3.0", RescalesToTheBall(3.0)),
    Fault("optimal", "l2 ball of 1.5", RescalesInside(1.5)),
    Fault("optimal", "binary", MedianScale()),
    Fault("optimal", "ternary", UsualTernaryThreshold()),
    Fault("optimal", "powers of two to 2^-3", RoundsTheExponent(3)),
    Fault("optimal", "values", NextValueDown((2, -1, 0))),
    Fault("optimal", "codebook 3", Quantiles(3)),
    Fault("optimal", "l0 penalty 0.2", ThresholdWithoutSquareRoot(0.2)),
    Fault("optimal", "l1 penalty 0.2", ThresholdWithoutMu(0.2)),
    Fault("optimal", "top 7, l2", ForgetsToShrink(7, gamma=0.5)),
    Fault("optimal", "3 groups", LargestEntry(3)),
    Fault(
        "optimal", "GroupL0Penalty 0.7, costs", IgnoresCosts(0.7, (1.0, 2.0, 0.0, 0.5, 3.0, 0.1))
    ),
    Fault("optimal", "GroupL1Penalty 0.7, a cost", EntriesOneByOne(0.7)),
    Fault("optimal", "2:4", SignedOrder(2, 4)),
    Fault("optimal", "rank 2", FirstColumns(2)),
    Fault("optimal", "rank selection 0.2", EnergyRank(0.2)),
    Fault("optimal", "conv ranks (1, 2), alpha 0.02", FirstScheme(0.02)),
    Fault("optimal", "conv ranks (2,), alpha 0.1", WrongReshape(0.1, schemes=(2,))),
    Fault("optimal", "codewords 5", TakesTheFirstVectors(5)),
    Fault("member", "budget of 2 ranks", OneItemTooMuch(CONVEX_RANKS, 35)),
    Fault("optimal", "budget of 2 ranks", LeavesHalf(CONVEX_RANKS, 35)),
    Fault("optimal", "choice, alpha 0.2", NearestScheme(0.2, SCHEMES)),
    Fault("price_is_the_cost", "choice, alpha 0.01", ForgetsTheUnit(0.01, SCHEMES)),
    Fault("member", "tucker-2 (3, 2)", OneTuckerRankMore((3, 2))),
    Fault("member", "train (3, 2)", TruncatesOneUnfolding((3, 2))),
    Fault("optimal", "cp 2", FirstFibres(2)),
    Fault("optimal", "tucker selection 0.02, modes 2", SquareRanks(0.02)),
    Fault("warm_start_is_never_worse", "train (3, 2)", ForgetsTheLastCores((3, 2))),
    Fault("price_is_the_cost", "tucker selection 0.02, modes 2", PriceOfTheCore(0.02)),
    Fault("price_is_the_cost", "l0 penalty 0.2", PriceWithoutAlpha(0.2)),
    Fault(
        "price_is_the_cost",
        "GroupL0Penalty 0.7, costs",
        CountsGroups(0.7, (1.0, 2.0, 0.0, 0.5, 3.0, 0.1)),
    ),
    Fault("price_is_the_cost", "table", PriceOfEntries(0.9, lambda shape, rank: 1.0)),
    Fault("warm_start_is_never_worse", "codebook 3, lloyd", StartsCold(3)),
    Fault("warm_start_is_never_worse", "codewords 5", ForgetsItsCodewords(5)),
    Fault("warm_start_is_never_worse", "ternary", KeepsTheOldIndices()),
    Fault("leading_dimensions_are_a_batch", "top 7", OneThresholdForAllRows(7)),
    Fault("leading_dimensions_are_a_batch", "3 groups", GroupsOfAllRows(3)),
    Fault("leading_dimensions_are_a_batch", "codewords 5", OneCodebookForAllProblems(5)),
    Fault("leading_dimensions_are_a_batch", "binary", OneScaleForAllRows()),
    Fault("nan_and_infinity_raise", "binary", AcceptsEverything()),
    Fault("nan_and_infinity_raise", "values", AcceptsInfinity((2, -1, 0))),
    Fault("bits_are_the_bytes_written", "codebook 3", IndicesOfNoFile(3)),
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

"""Quantizations that are wrong in one way each."""

from dataclasses import dataclass

import torch

from laws.broken.fault import Fault
from leco.compressions import (
    Binary,
    Codebook,
    EntropyCodebook,
    EntropyMatrix,
    FixedCodebook,
    Hashed,
    PowersOfTwo,
    Ternary,
    Uniform,
    VectorCodebook,
)
from leco.theta import Affine, Codes, Dense, Fixed, Scaled, VectorCodes, ZeroCodes


class MovesTheWarmStart(Codebook):
    def compress(self, x, mu, theta=None):
        if theta is not None:
            theta.codebook.mul_(0.9)
        return super().compress(x, mu, theta)


class AlwaysSingle(Binary):
    def compress(self, x, mu, theta=None):
        return super().compress(x.float(), mu)


class WideIndices(Codebook):
    def compress(self, x, mu, theta=None):
        theta = super().compress(x, mu)
        return theta._replace(indices=theta.indices.long())


class ComesBackOnTheCPU(Ternary):
    def compress(self, x, mu, theta=None):
        return super().compress(x.cpu(), mu)


class StartsAtRandom(Codebook):
    def compress(self, x, mu, theta=None):
        values = x[torch.randint(len(x), (self.k,))].sort().values
        return Codes((x.unsqueeze(-1) - values).abs().argmin(-1).to(torch.uint8), values)


class OneValueMore(Codebook):
    def compress(self, x, mu, theta=None):
        return Codebook(self.k + 1).compress(x, mu)


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
    Fault("input_untouched", "codebook 3", MovesTheWarmStart(3)),
    Fault("dtype_kept", "binary", AlwaysSingle()),
    Fault("dtype_kept", "codebook 3", WideIndices(3)),
    Fault("device_kept", "ternary", ComesBackOnTheCPU()),
    Fault("deterministic", "codebook 3, lloyd", StartsAtRandom(3)),
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
    Fault("member", "hashed 6, seed 0", HashesByAnotherSeed(6)),
    Fault("member", "signs", SignOfZeroIsZero(False)),
    Fault("member", "ternary", ScaleForEachSign()),
    Fault("member", "uniform 2 bits", BothEndsOfTheGrid(2)),
    Fault("idempotent", "uniform 4 bits", ForgetsItsGrid(4)),
    Fault("optimal", "binary", MedianScale()),
    Fault("optimal", "ternary", UsualTernaryThreshold()),
    Fault("optimal", "powers of two to 2^-3", RoundsTheExponent(3)),
    Fault("optimal", "values", NextValueDown((2, -1, 0))),
    Fault("optimal", "codebook 3", Quantiles(3)),
    Fault("optimal", "codewords 5", TakesTheFirstVectors(5)),
    Fault("warm_start_is_never_worse", "codebook 3, lloyd", StartsCold(3)),
    Fault("warm_start_is_never_worse", "codewords 5", ForgetsItsCodewords(5)),
    Fault("warm_start_is_never_worse", "ternary", KeepsTheOldIndices()),
    Fault("leading_dimensions_are_a_batch", "codewords 5", OneCodebookForAllProblems(5)),
    Fault("leading_dimensions_are_a_batch", "binary", OneScaleForAllRows()),
    Fault("nan_and_infinity_raise", "binary", AcceptsEverything()),
    Fault("nan_and_infinity_raise", "values", AcceptsInfinity((2, -1, 0))),
    Fault("bits_are_the_bytes_written", "codebook 3", IndicesOfNoFile(3)),
)

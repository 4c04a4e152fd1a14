"""Pruning: C steps on single weights x (..., n), each leading index on its own. All are exact, in a
metric too.

A constraint says how much is left, a penalty what a kept weight costs. Over one `Vector` of many
layers, the C step also decides how much each layer keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_number, check_share, share
from leco.compressions.largest import largest
from leco.compressions.protocol import Compression, Penalty
from leco.theta import Sparse


def _sparse(x: Tensor, mask: Tensor) -> Sparse:
    """x where the mask is True."""
    return Sparse(mask, x[mask])


def shrunk(x: Tensor, mask: Tensor, by: Tensor | float) -> Sparse:
    """x where the mask is True, with magnitudes less by `by`, one number or one for each True."""
    kept = x[mask]
    return Sparse(mask, kept.sub_(kept.sign().mul_(by)))


def magnitudes(x: Tensor, mu: float | Tensor) -> Tensor:
    """|x_i| for a number mu, sqrt(mu_i) |x_i| in a metric, as a new tensor.

    Both have the order of mu_i x_i^2 / 2, what keeping x_i gains, and they don't overflow.
    """
    return mu.sqrt().mul_(x).abs_() if isinstance(mu, Tensor) else x.abs()


@dataclass(frozen=True)
class TopK(Compression[Sparse]):
    """min mu/2 ||x - theta||^2 + gamma/2 ||theta||^2 subject to ||theta||_0 <= kappa: keep the
    kappa largest |x_i|, shrunk by mu/(mu + gamma).

    Exact; among equal magnitudes the first ones are kept. O(n). Carreira-Perpinan and Idelbayev,
    CVPR 2018; with gamma, ICASSP 2022. On its support theta_i = x_i mu/(mu + gamma), and each kept
    weight lowers the objective by mu^2 x_i^2 / (2 (mu + gamma)), which grows with |x_i|.

    In a metric: the same with mu_i for each weight. The objective is a sum over weights, so the
    kappa weights of largest mu_i^2 x_i^2 / (mu_i + gamma) are the best ones; without gamma, those
    of largest mu_i x_i^2. Exact.

    Args:
        kappa: how many weights are kept (for each leading index): a count (int), or a share of them
            (float below 1), which is rounded; a share above 0 keeps at least 1.
        gamma: weight of the l2 term.

    >>> import torch, leco
    >>> leco.TopK(2).compress(torch.tensor([0.1, -3.0, 2.0, 0.5]), mu=1.0).decompress()
    tensor([ 0., -3.,  2.,  0.])
    """

    kappa: int | float
    gamma: float = 0.0

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("TopK: kappa", self.kappa)
        check_number("TopK: gamma", self.gamma)

    def scaling(self) -> int | None:
        return 0 if not self.gamma else None

    def count(self, n: int) -> int:
        """The number of weights kept of n."""
        return share(self.kappa, n)

    def label(self, shape: torch.Size) -> str:
        return f"{self}: {self.count(shape[-1])} of {shape[-1]}"

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if self.count(shape[-1]) > shape[-1]:
            raise ValueError(
                f"TopK: kappa = {self.kappa} must be at most {shape[-1]}, the number of weights"
            )

    def c_step(self, x: Tensor, mu: float | Tensor, theta: Sparse | None = None) -> Sparse:
        kappa = self.count(x.shape[-1])
        if kappa == 0:
            return _sparse(x, torch.zeros(x.shape, dtype=torch.bool, device=x.device))

        # the support that gains most
        if isinstance(mu, Tensor):
            mask = largest(kappa, partial(_gains, gamma=self.gamma), x, mu)
        else:
            mask = largest(kappa, torch.abs, x)

        # the l2 term shrinks
        values = x[mask]
        if self.gamma:
            own = mu[mask] if isinstance(mu, Tensor) else mu
            values *= own / (own + self.gamma)
        return Sparse(mask, values)

    def price(self, theta: Sparse) -> float:
        return self.gamma / 2 * float(theta.values.square().sum()) if self.gamma else 0.0


def _gains(x: Tensor, mu: Tensor, gamma: float) -> Tensor:
    """Roots of twice what keeping each entry gains: mu_i |x_i| / sqrt(mu_i + gamma)."""
    if not gamma:
        return magnitudes(x, mu)
    root = (mu + gamma).sqrt_()
    return torch.div(mu, root, out=root).mul_(x).abs_()


@dataclass(frozen=True)
class L0Penalty(Penalty[Sparse]):
    """min mu/2 ||x - theta||^2 + alpha ||theta||_0: keep x_i where |x_i| > sqrt(2 alpha/mu). Exact,
    O(n). CVPR 2018.

    In a metric: keep x_i where mu_i x_i^2 / 2 > alpha. Exact, since each weight is a problem of its
    own.

    Small mu prunes most: with alpha fixed, the net regains weights as mu grows.

    >>> import torch, leco
    >>> leco.L0Penalty(0.5).compress(torch.tensor([0.9, -1.1]), mu=1.0).decompress()
    tensor([ 0.0000, -1.1000])
    """

    alpha: float

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L0Penalty: alpha", self.alpha)

    def scaling(self) -> int | None:
        return 2

    def family(
        self, x: Tensor, mu: float | Tensor, theta: Sparse | None = None
    ) -> Callable[[float], Sparse]:
        size, unit = magnitudes(x, mu), 1.0 if isinstance(mu, Tensor) else mu
        return lambda alpha: _sparse(x, size > (2 * alpha / unit) ** 0.5)

    def usage(self, theta: Sparse) -> float:
        return int(theta.values.count_nonzero())


@dataclass(frozen=True)
class L1Penalty(Penalty[Sparse]):
    """min mu/2 ||x - theta||^2 + alpha ||theta||_1: soft threshold, sign(x_i) max(|x_i| - alpha/mu,
    0). Exact, O(n).

    In a metric: soft threshold at alpha/mu_i. Exact, since each weight is a problem of its own.

    >>> import torch, leco
    >>> leco.L1Penalty(0.5).compress(torch.tensor([0.25, -1.5]), mu=1.0).decompress()
    tensor([ 0., -1.])
    """

    alpha: float

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("L1Penalty: alpha", self.alpha)

    def c_step(self, x: Tensor, mu: float | Tensor, theta: Sparse | None = None) -> Sparse:
        threshold = self.alpha / mu
        mask = x.abs() > threshold
        return shrunk(x, mask, threshold[mask] if isinstance(threshold, Tensor) else threshold)

    def usage(self, theta: Sparse) -> float:
        return float(theta.values.abs().sum())

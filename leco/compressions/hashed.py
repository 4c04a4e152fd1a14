"""Values shared by position: the hashing trick."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.metric import Mu
from leco.compressions.protocol import Compression
from leco.theta import HashedValues, hashed_positions

CHUNK = 2**18  # positions held at once: they stay in cache


@dataclass(frozen=True)
class Hashed(Compression[HashedValues]):
    """min ||x - v[h]||^2 over k values v, h(i) in 0..k-1 a fixed pseudo-random function of the
    position i: v_j = mean of the x_i with h(i) = j.

    Exact, O(n): for given cells the error is a sum over cells, each least at the mean; in a metric
    d, at the weighted mean, sum d_i x_i / sum d_i, and exact too. A value that no position has is
    0. No indices are kept: 32 k/n bits a weight.

    The cells do not depend on the weights, so that a trained net's direct compression is near 0
    everywhere. For k far below n the learned codes of `leco.Codebook` or pruning mostly lose less
    for the same bytes.

    Reference: Chen et al. 2015, "Compressing neural networks with the hashing trick" (HashedNets),
    equation 3, with no sign hash.

    Args:
        k: values, at least 1 and at most n; the same positions share a value for each leading
            index.
        seed: of h, 0 to 2^32 - 1: see `leco.theta.hashed_positions`.

    >>> import torch, leco
    >>> theta = leco.Hashed(2).compress(torch.tensor([1.0, 2.0, 3.0, 4.0]), mu=1.0)
    >>> leco.bits(theta)
    64
    """

    takes_metric: ClassVar[bool] = True

    k: int
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Hashed: k", self.k, 1, 2**31 - 1)
        check_count("Hashed: seed", self.seed, 0, 2**32 - 1)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if self.k > shape[-1]:
            raise ValueError(
                f"Hashed: k = {self.k} must be at most {shape[-1]}, the number of weights that "
                "share the values"
            )

    def c_step(self, x: Tensor, mu: Mu, theta: HashedValues | None = None) -> HashedValues:
        n = x.shape[-1]
        weights = mu.expand_as(x) if isinstance(mu, Tensor) else None
        shape = x.shape[:-1] if weights is not None else ()
        sums = x.new_zeros(*x.shape[:-1], self.k, dtype=torch.float64)
        masses = x.new_zeros(*shape, self.k, dtype=torch.float64)
        for first in range(0, n, CHUNK):
            part = x[..., first : first + CHUNK].double()
            cells = hashed_positions(self.k, self.seed, first, first + part.shape[-1], x.device)
            if weights is None:
                masses.index_add_(0, cells, masses.new_ones(1).expand(len(cells)))
            else:
                own = weights[..., first : first + CHUNK].double()
                masses.index_add_(-1, cells, own)
                part = part * own
            sums.index_add_(-1, cells, part)
        values = sums / torch.where(masses > 0, masses, 1)
        return HashedValues(values.to(x.dtype), n, self.seed)

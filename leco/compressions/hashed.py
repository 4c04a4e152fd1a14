"""Values shared by position: the hashing trick."""

from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.protocol import Compression
from leco.theta import HashedValues, hashed_positions

CHUNK = 2**18  # positions held at once: they stay in cache


@dataclass(frozen=True)
class Hashed(Compression[HashedValues]):
    """min ||x - v[h]||^2 over k values v, h(i) in 0..k-1 a fixed pseudo-random function of the
    position i: v_j = mean of the x_i with h(i) = j.

    Exact, O(n): for given cells the error is a sum over cells, each least at the mean. No indices
    are kept: 32 k/n bits a weight. The cells know nothing of the weights, so that a trained net's
    direct compression is near 0 everywhere: for k far below n the learned codes of `leco.Codebook`
    or pruning mostly lose less for the same bytes. A value that no position has is 0. Chen et al.
    2015, "Compressing neural networks with the hashing trick" (HashedNets), equation 3, with no
    sign hash.

    Args:
        k: values, at least 1 and at most n; the same positions share a value for each leading
            index.
        seed: of h, 0 to 2^32 - 1: see `leco.theta.hashed_positions`.

    >>> import torch, leco
    >>> theta = leco.Hashed(2).compress(torch.tensor([1.0, 2.0, 3.0, 4.0]), mu=1.0)
    >>> leco.bits(theta)
    64
    """

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

    def c_step(self, x: Tensor, mu: float, theta: HashedValues | None = None) -> HashedValues:
        n = x.shape[-1]
        sums, counts = (
            x.new_zeros(*x.shape[:-1], self.k, dtype=torch.float64),
            x.new_zeros(self.k, dtype=torch.float64),
        )
        for first in range(0, n, CHUNK):
            part = x[..., first : first + CHUNK].double()
            cells = hashed_positions(self.k, self.seed, first, first + part.shape[-1], x.device)
            sums.index_add_(-1, cells, part)
            counts.index_add_(0, cells, counts.new_ones(1).expand(len(cells)))
        return HashedValues((sums / counts.clamp(min=1)).to(x.dtype), n, self.seed)

"""N:M sparsity: N of every M neighbouring weights. The C step is exact, in a metric too."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.protocol import Compression
from leco.compressions.pruning import TopK, magnitudes
from leco.compressions.roots import row_parts
from leco.theta import NMSparse, Sparse, patterns


@dataclass(frozen=True)
class NM(Compression[NMSparse | Sparse]):
    """min ||x - theta||^2 subject to at most n weights not 0 in each block of m neighbours of x
    (..., k m): keep the n largest |x_i| of each.

    Exact; among equal magnitudes the first ones are kept. O(m) for each weight, by comparisons of
    whole planes. Nvidia's 2:4: Mishra et al., arXiv 2104.08378. Positions are written as the number
    of a block's pattern, log2 of (m over n) bits a block (2:4: 2/3 bit a weight); as a mask where m
    is above 16.

    In a metric: keep the n largest mu_i x_i^2 of each block. Exact: what is kept lowers the
    objective by its mu_i x_i^2 / 2, whatever else is kept.

    Args:
        n: weights kept in each block.
        m: weights in a block; it must divide the last dimension. With `leco.Rows()`, blocks lie
            along a layer's inputs.

    >>> import torch, leco
    >>> x = torch.tensor([0.1, -3.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    >>> leco.NM(2, 4).compress(x, mu=1.0).decompress()
    tensor([ 0., -3.,  2.,  0.,  1.,  1.,  0.,  0.])
    """

    n: int
    m: int

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("NM: m", self.m, 1)
        check_count("NM: n", self.n, 1, self.m)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if not shape or shape[-1] % self.m:
            raise ValueError(
                f"NM: m = {self.m} must divide the last dimension of an array of shape "
                f"{tuple(shape)}"
            )

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: NMSparse | Sparse | None = None
    ) -> NMSparse | Sparse:
        if self.m > 16:
            cut = mu.unflatten(-1, (-1, self.m)) if isinstance(mu, Tensor) else mu
            kept = TopK(self.n).c_step(x.unflatten(-1, (-1, self.m)), cut)
            return Sparse(kept.mask.flatten(-2), kept.values)

        # the pattern of each block, and its values
        blocks = x.reshape(-1, self.m)
        weights = mu.reshape(blocks.shape) if isinstance(mu, Tensor) else None
        places, numbers = patterns(self.n, self.m, x.device)
        places_of_bits = places[numbers.int()]
        bits = torch.empty(
            len(blocks), dtype=torch.uint8 if self.m <= 8 else torch.int32, device=x.device
        )
        values = x.new_empty(len(blocks), self.n)
        for part in row_parts(*blocks.shape):
            chunk, chosen = blocks[part], bits[part]
            _choose(chunk if weights is None else magnitudes(chunk, weights[part]), self.n, chosen)
            torch.gather(chunk, 1, places_of_bits.index_select(0, chosen.int()), out=values[part])

        # numbered
        pattern = numbers.index_select(0, bits.int())
        shape = (*x.shape[:-1], x.shape[-1] // self.m)
        return NMSparse(pattern.view(shape), values.view(*shape, self.n), self.m)


def _choose(blocks: Tensor, n: int, bits: Tensor) -> None:
    """Set bit j of `bits` (rows,) where entry j is among the n largest magnitudes of its row of
    `blocks` (rows, m), and no other."""
    rows, m = blocks.shape
    planes = torch.abs(blocks.T, out=blocks.new_empty(m, rows))
    rank = torch.arange(m, dtype=torch.uint8, device=blocks.device).unsqueeze(1).repeat(1, rows)
    # an entry comes after all earlier ones, but for those that it exceeds
    for distance in range(1, m):
        exceeds = (planes[distance:] > planes[:-distance]).view(torch.uint8)
        rank[distance:] -= exceeds
        rank[:-distance] += exceeds
    bits.zero_()
    for j, kept in enumerate((rank < n).view(torch.uint8)):
        bits.add_(kept, alpha=1 << j)

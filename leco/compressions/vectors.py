"""Weights that share values beyond one number at a time: codewords of several weights, and values
shared by position.

`Groups(d)` gives vector quantization of runs of d neighbouring weights, over one layer or several;
`Subvectors(d)` gives product quantization, a codebook for each block of columns. Codebooks of
single weights are in `quantization`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.codebooks import Codebook
from leco.compressions.metric import Mu
from leco.compressions.protocol import Compression
from leco.compressions.vector_cells import Vectors, lloyd
from leco.compressions.vector_starts import cold_start
from leco.theta import Codes, VectorCodes


@dataclass(frozen=True)
class VectorCodebook(Compression[VectorCodes]):
    """min sum_i ||x_i - c[z_i]||^2 over k codewords c_j of d weights and assignments z: k-means in
    d dimensions.

    x (..., n, d): n vectors of d weights share a codebook, leading dimensions have codebooks of
    their own. log2(k)/d bits a weight, and 32 d k for each codebook. For d = 1 it is
    `leco.Codebook`, which is exact up to its bounds.

    The problem is NP-hard, so this is a descent step: Lloyd's algorithm from the last codebook;
    cold, from the best of up to 64 k-means++ starts (from a fixed seed) on a sample of about 64 k
    vectors, and of 2 starts where there are very many codebooks. A codeword that no vector uses
    moves to the vector farthest from its own. O(n k d) a sweep, in parts.

    In a metric with a weight for each entry the squared errors are weighed: a vector takes the
    codeword of least sum_j d_ij (x_ij - c_j)^2, and a codeword is the weighted mean of its vectors
    in each coordinate.

    Reference: Gong et al. 2014 (arXiv 1412.6115); Stock et al. 2020, "And the bit goes down" (arXiv
    1907.05686), sections 3.1 and 3.3, with weights in place of activations; k-means++: Arthur and
    Vassilvitskii, SODA 2007.

    Args:
        k: codewords, 1 to 65536 and at most n.
        sweeps: of Lloyd's algorithm in a C step, fewer where nothing moves any more.

    >>> import torch, leco
    >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 5.0], [9.0, 7.0]])
    >>> leco.VectorCodebook(2).compress(x, mu=1.0).decompress()
    tensor([[0., 1.],
            [0., 1.],
            [9., 6.],
            [9., 6.]])
    """

    takes_metric: ClassVar[bool] = True

    k: int
    sweeps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("VectorCodebook: k", self.k, 1, 65536)
        check_count("VectorCodebook: sweeps", self.sweeps, 1)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) < 2:
            raise ValueError(
                f"VectorCodebook: an array of shape {tuple(shape)} must be (..., n, d), as "
                "Groups(d) and Subvectors(d) give it"
            )
        if self.k > shape[-2]:
            raise ValueError(
                f"VectorCodebook: k = {self.k} must be at most {shape[-2]}, the number of vectors "
                "that share a codebook"
            )

    def c_step(self, x: Tensor, mu: Mu, theta: VectorCodes | None = None) -> VectorCodes:
        *batch, n, d = x.shape
        start = (
            theta.codebook
            if theta is not None and theta.codebook.shape == (*batch, self.k, d)
            else None
        )
        weights = mu.expand_as(x) if isinstance(mu, Tensor) else None
        if d == 1:
            last = (
                None if start is None or theta is None else Codes(theta.indices, start.squeeze(-1))
            )
            single = mu if weights is None else weights.squeeze(-1)
            found = Codebook(self.k).compress(x.squeeze(-1), single, last)
            return VectorCodes(found.indices, found.codebook.unsqueeze(-1))
        vectors = Vectors(
            x.contiguous().view(-1, n, d),
            # only ratios count: products of weights and squares stay in range
            None if weights is None else (weights / weights.max()).view(-1, n, d),
        )
        codebook = (
            cold_start(vectors, self.k) if start is None else start.reshape(-1, self.k, d).double()
        )
        indices, codebook = lloyd(vectors, codebook, self.sweeps)
        return VectorCodes(indices.view(*batch, n), codebook.to(x.dtype).view(*batch, self.k, d))

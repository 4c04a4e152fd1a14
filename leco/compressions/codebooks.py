"""Learned codebooks: one-dimensional k-means, a codebook for each leading index of x (..., n)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.cells import nearest
from leco.compressions.checks import check_count
from leco.compressions.kmeans1d import EXACT_WORK, best_split, lloyd, optimal_codebook
from leco.compressions.many_codebooks import cold_codebooks, warm_codebooks
from leco.compressions.metric import Mu
from leco.compressions.protocol import Compression
from leco.compressions.sorted_values import COARSE_CUTS, Sorted
from leco.theta import Codes

MANY = 32  # codebooks, from which on all of them are solved at once
EXACT_SIZE = 2**20  # weights; the dynamic program holds about twenty numbers for each


@dataclass(frozen=True)
class Codebook(Compression[Codes]):
    """min ||x - c[z]||^2 over a codebook c of k values and assignments z: one-dimensional k-means.

    The C step is exact for k = 2, and by dynamic programming. Else it is a descent step:

    - One codebook, or a few: Lloyd's algorithm on the sorted values until no cell changes, from the
      last codebook; cold, from the best of coarse cells. O(n log n) to sort, then O(k log n) a
      sweep.
    - Many codebooks (32 or more): warm, two sweeps of Lloyd's algorithm without a sort, O(n k);
      cold, a dynamic program over few candidates for the borders, then over small moves of them.

    In a metric d it minimises sum_i d_i (x_i - c[z_i])^2, and is exact where it is without one: the
    best cells are runs of the sorted values there too, since the nearest value of x_i does not
    depend on d_i.

    Args:
        k: codebook entries, at least 1.
        exact: True for dynamic programming, O(k n log n) for k > 2; False for the descent step;
            None for the former where k = 2, and up to 2^20 weights and about a second of work.

    Reference: Part II, section 4.1.

    >>> import torch, leco
    >>> leco.Codebook(2).compress(torch.tensor([0.0, 1.0, 10.0, 12.0]), mu=1.0).decompress()
    tensor([ 0.5000,  0.5000, 11.0000, 11.0000])
    """

    takes_metric: ClassVar[bool] = True

    k: int
    exact: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Codebook: k", self.k, 1, 65536)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if self.k > shape[-1]:
            raise ValueError(
                f"Codebook: k = {self.k} must be at most {shape[-1]}, the number of weights that "
                "share a codebook"
            )

    def _is_exact(self, shape: torch.Size) -> bool:
        n = shape[-1]
        work = math.prod(shape) * (1 + max(0, self.k - 2) * math.log2(n + 1))
        return (
            work <= EXACT_WORK and math.prod(shape) <= EXACT_SIZE
            if self.exact is None
            else self.exact
        )

    def _coarse_cuts(self, shape: torch.Size) -> int:
        """So many that the cold start of all leading indices costs about what an exact program may
        cost."""
        rows = math.prod(shape[:-1])
        return max(4 * self.k, min(COARSE_CUTS, EXACT_WORK // (8 * rows * self.k)))

    def c_step(self, x: Tensor, mu: Mu, theta: Codes | None = None) -> Codes:
        weights = mu if isinstance(mu, Tensor) else None
        warm = theta is not None and theta.codebook.shape == (*x.shape[:-1], self.k)
        exact = (self.k == 2 and self.exact is not False) or self._is_exact(x.shape)
        if not exact and math.prod(x.shape[:-1]) >= MANY and self.k > 1:
            return self._many(x, weights, theta if warm else None)
        # only ratios count: products of weights and values stay in range
        data = Sorted(x.clone(), None if weights is None else weights / weights.max())
        if self.k == 2 and self.exact is not False:
            codebook = best_split(data)
        elif exact:
            codebook = optimal_codebook(data, self.k, data.candidates(data.n))
        elif theta is not None and warm:
            # retraining may have changed their order
            codebook = lloyd(data, theta.codebook.double().sort(dim=-1).values)
        else:
            codebook = lloyd(
                data, optimal_codebook(data, self.k, data.candidates(self._coarse_cuts(x.shape)))
            )
        del data
        return Codes(nearest(x, codebook), codebook.to(x.dtype))

    def _many(self, x: Tensor, weights: Tensor | None, theta: Codes | None) -> Codes:
        """The C step of many rows, which are not solved exactly."""
        rows = x.reshape(-1, x.shape[-1])
        d = None if weights is None else weights.expand_as(x).reshape(rows.shape)
        if theta is not None and theta.indices.shape == x.shape:
            indices, codebook = warm_codebooks(
                rows, d, theta.indices.reshape(rows.shape), theta.codebook.reshape(-1, self.k)
            )
        else:
            codebook = cold_codebooks(rows, d, self.k)
            indices = nearest(rows, codebook)
        return Codes(indices.view(x.shape), codebook.to(x.dtype).view(*x.shape[:-1], self.k))

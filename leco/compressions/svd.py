"""Singular values and vectors, from the short side of a matrix.

float32: an eigendecomposition of the Gram matrix of the short side, in float64. Its rounding
changes the Gram matrix by about 2^-52 s_1^2. So each squared singular value, and the squared error
of each truncation, is off by about that much: 1e-16 of ||x||^2 for each rank, less than float32
rounds off x itself (2^-48 of it). A singular value below 2^-26 s_1, which float32 does not resolve,
comes out as any number below that. It is 2 to 4 times as fast as the SVD in float32.

float64: the SVD, since the same rounding would show.
"""

from typing import NamedTuple

import torch
from torch import Tensor

PART = 2**22  # entries of the matrix that are in float64 at a time


class Spectrum(NamedTuple):
    """Singular values of matrices x (..., m, n), and the vectors of their short side.

    `s` (..., k) in decreasing order, k = min(m, n); `vectors` (..., k, k), orthonormal columns: the
    right singular vectors where m >= n, the left ones elsewhere.
    """

    x: Tensor
    s: Tensor
    vectors: Tensor

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """u (..., m, rank) and v (..., rank, n) whose product is the truncated SVD, x V V' for the
        leading right vectors V, or U U' x for the left ones. O(m n rank).

        A column of u has the norm of its row of v, the root of the singular value.
        """
        tall = self.x.shape[-2] >= self.x.shape[-1]
        own = self.vectors[..., :rank]
        other = (self.x if tall else self.x.mT) @ own

        # the singular values once more, from the product
        root = torch.linalg.vector_norm(other, dim=-2, keepdim=True).sqrt_()
        other = torch.where(root > 0, other / root, 0.0)
        own = own * root
        return (other, own.mT.contiguous()) if tall else (own, other.mT.contiguous())


def spectrum(x: Tensor) -> Spectrum:
    """The singular values of matrices x (..., m, n), float32 or float64."""
    tall = x if x.shape[-2] >= x.shape[-1] else x.mT
    s, vectors = _right(tall)
    return Spectrum(x, s, vectors)


def left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors of a matrix (m, n), (m, rank), orthonormal.

    The vectors beyond n, which a rank above n asks for, are any orthonormal complement.
    """
    m, n = matrix.shape
    if m <= n:
        return _right(matrix.mT)[1][:, :rank].contiguous()
    if rank > n:
        return torch.linalg.svd(matrix, full_matrices=True).U[:, :rank]
    if matrix.dtype == torch.float64:
        return torch.linalg.svd(matrix, full_matrices=False).U[:, :rank]
    return torch.linalg.qr(matrix @ _right(matrix)[1][:, :rank]).Q


def _right(tall: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (..., n) and right vectors (..., n, n) of matrices (..., m, n), m >= n."""
    if tall.dtype != torch.float64:
        try:
            squares, vectors = torch.linalg.eigh(_gram(tall))
        except torch.linalg.LinAlgError:  # did not converge
            s, vectors = _right(tall.double())
            return s.to(tall.dtype), vectors.to(tall.dtype)
        s = squares.clamp_(min=0).sqrt_().flip(-1)
        return s.to(tall.dtype), vectors.flip(-1).to(tall.dtype)
    _, s, vh = torch.linalg.svd(tall, full_matrices=False)
    return s, vh.mT


def _gram(tall: Tensor) -> Tensor:
    """tall' tall in float64, a part of the rows at a time."""
    n = tall.shape[-1]
    gram = tall.new_zeros(*tall.shape[:-2], n, n, dtype=torch.float64)
    rows = max(n, PART * tall.shape[-2] // max(1, tall.numel()))
    for part in tall.split(rows, dim=-2):
        own = part.double()
        gram += own.mT @ own
    return gram

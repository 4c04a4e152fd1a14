"""Low rank without training: the SVD of the whitened weights."""

import torch
from torch import Tensor

from benchmarks.baselines.oneshot import damped


def whitened_svd(w0: Tensor, h: Tensor, rank: int, *, damping: float = 0.01) -> Tensor:
    """argmin tr((W - W0) H (W - W0)') over matrices of the rank: the truncated SVD of W0 L times
    L^-1, with H = L L'.

    Wang et al. (SVD-LLM), arXiv 2403.07378, section 3.1.

    Args:
        w0: (out, in).
        h: second moments (in, in), not damped.
        rank: of the result.
        damping: share of the mean diagonal.
    """
    factor = torch.linalg.cholesky(damped(h, damping))
    u, s, v = torch.linalg.svd(w0.double() @ factor, full_matrices=False)
    right = torch.linalg.solve_triangular(factor, v[:rank], upper=False, left=False)
    return ((u[:, :rank] * s[:rank]) @ right).to(w0.dtype)

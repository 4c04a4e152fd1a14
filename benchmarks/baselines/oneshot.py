"""What the one-shot methods share: the damped moments, the layer's error, and the sweep.

A one-shot method is a pure function of a layer's weights W0 (out, in) and of the second moments of
its inputs H = X X'/n (in, in). It returns the compressed weights (out, in), in W0's dtype.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Choose = Callable[[int, Tensor], Tensor]


def damped(h: Tensor, damping: float = 0.01) -> Tensor:
    """H with `damping` of its mean diagonal added to the diagonal, in float64."""
    h = h.double()
    return h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype, device=h.device)


def layer_error(w: Tensor, w0: Tensor, h: Tensor) -> float:
    """tr((W - W0) H (W - W0)') / tr(W0 H W0'), in float64."""
    w, w0, h = w.double(), w0.double(), h.double()
    change = w - w0
    return float(((change @ h) * change).sum() / ((w0 @ h) * w0).sum())


def inverse_factor(h: Tensor) -> Tensor:
    """The upper triangular U with H^-1 = U' U.

    Row i of U over U_ii is row 0 of the inverse of H[i:, i:] over its first diagonal element. It is
    the least-squares change of the columns after i for a unit change of column i. U_ii^2 is the
    first diagonal element itself. Frantar et al., arXiv 2210.17323, section 3.3, step 3.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def sweep(w: Tensor, factor: Tensor, choose: Choose, block: int = 128) -> Tensor:
    """Settle column after column; the columns after it make up for its error.

    For each column i: q = choose(i, columns), e = (w_i - q) / U_ii, W[:, i:] -= e U[i, i:]. Columns
    behind the block of i are updated once a block. `choose` gets the current columns from i to the
    end of the block (out, block end - i) and returns the new column (out,).
    """
    w, found = w.clone(), torch.empty_like(w)
    for start in range(0, w.shape[1], block):
        part = w[:, start : start + block]
        width = part.shape[1]
        end, errors = start + width, torch.empty_like(part)

        # the columns of the block
        for i in range(width):
            row = factor[start + i, start + i : end]
            q = choose(start + i, part[:, i:])
            errors[:, i] = (part[:, i] - q) / row[0]
            found[:, start + i] = q
            part[:, i:] -= torch.outer(errors[:, i], row)

        # all columns behind it
        w[:, end:] -= errors @ factor[start:end, end:]
    return found

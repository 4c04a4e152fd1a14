"""Pruning without training: magnitude, Wanda and SparseGPT."""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.baselines.oneshot import damped, inverse_factor, sweep


class Kept(NamedTuple):
    """How many weights stay: a share of all, or n in each m neighbours of a row (n:m)."""

    share: float
    n: int = 0
    m: int = 0


def n_of_m(n: int, m: int) -> Kept:
    return Kept(n / m, n, m)


def largest(score: Tensor, kept: Kept, *, rows: bool = False) -> Tensor:
    """A mask of the largest scores (out, in): in each m neighbours, in each row, or in all."""
    if kept.m:
        groups = score.unflatten(1, (-1, kept.m))
        return _top(groups, kept.n).flatten(1)
    if rows:
        return _top(score, round(kept.share * score.shape[1]))
    return _top(score.flatten(), round(kept.share * score.numel())).view_as(score)


def _top(score: Tensor, count: int) -> Tensor:
    """A mask of the `count` largest scores along the last dimension."""
    places = score.topk(count, -1).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, places, True)


def magnitude(w0: Tensor, kept: Kept) -> Tensor:
    """The largest weights stay."""
    return w0 * largest(w0.abs(), kept)


def wanda(w0: Tensor, h: Tensor, kept: Kept) -> Tensor:
    """The largest |w_ij| ||x_j|| stay, compared in each row. Sun et al., arXiv 2306.11695."""
    return w0 * largest(w0.abs() * h.diagonal().sqrt().to(w0.dtype), kept, rows=True)


def sparsegpt(
    w0: Tensor, h: Tensor, kept: Kept, *, block: int = 128, damping: float = 0.01
) -> Tensor:
    """SparseGPT: masks by w^2 / U_ii^2 in blocks of columns, the columns after make up for it.

    Frantar and Alistarh, arXiv 2301.00774, algorithm 1. The mask of a block is chosen when the
    sweep comes to it, over all rows; that of n:m for each m columns.

    Args:
        w0: (out, in).
        h: second moments (in, in), not damped.
        kept: the share or n:m.
        block: columns whose mask is chosen together.
        damping: share of the mean diagonal.
    """
    factor = inverse_factor(damped(h, damping)).to(w0.dtype)
    inverse, every = factor.diagonal(), kept.m or block
    mask = torch.empty_like(w0, dtype=torch.bool)

    def choose(i: int, columns: Tensor) -> Tensor:
        if i % every == 0:
            part = columns[:, :every]
            end = i + part.shape[1]
            mask[:, i:end] = largest((part / inverse[i:end]).square(), kept)
        return columns[:, 0] * mask[:, i]

    return sweep(w0, factor, choose, block)

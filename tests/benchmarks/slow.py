"""Layers for the one-shot methods, and the slow version of their sweep."""

from typing import Any

import torch
from torch import Tensor


def layer(out: int, inner: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights, and the second moments of correlated inputs, one of them an outlier."""
    generator = torch.Generator().manual_seed(seed)
    draw: Any = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x = draw(inner, inner) @ draw(inner, 3 * inner) / inner**0.5
    x[inner // 2] *= 5
    return draw(out, inner), x @ x.T / x.shape[1]


def settled_one_by_one(w: Tensor, h: Tensor, choose: Any) -> Tensor:
    """Each column in order: the later ones take the least-squares change, by the inverse of what
    is left of H."""
    w = w.clone()
    for i in range(w.shape[1]):
        inverse = torch.linalg.inv(h[i:, i:])
        q = choose(i, w, inverse)
        w[:, i + 1 :] -= torch.outer((w[:, i] - q) / inverse[0, 0], inverse[0, 1:])
        w[:, i] = q
    return w

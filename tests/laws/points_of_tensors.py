"""Random points of sets of matrices, tensors and combinations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laws.case import MU
from laws.points import near_grid
from laws.sets import scheme, unfold


def truncated(matrix: Tensor, r: int) -> Tensor:
    u, s, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return torch.from_numpy(u[:, :r] * s[:r] @ v[:r])


def near_rank(r: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, delta: truncated(
        (x if torch.rand(()) < 0.5 else delta)
        + torch.randn_like(x) * 10 ** float(-3 * torch.rand(())),
        r,
    )


def near_any_rank(x: Tensor, delta: Tensor) -> Tensor:
    return truncated(x, int(torch.randint(min(x.shape) + 1, ())))


def near_kernel(x: Tensor, delta: Tensor) -> Tensor:
    number = int(torch.randint(1, 3, ()))
    matrix = near_any_rank(scheme(x, number), delta)
    out, channels, height, width = x.shape
    return (
        matrix.reshape(x.shape)
        if number == 1
        else matrix.reshape(out, height, channels, width).transpose(1, 2)
    )


def near_sum(
    *terms: tuple[Any, Any, Callable[[Tensor, Tensor], Tensor]],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Of (view, compression, near): a random point of each set, near what those before it left, in
    random order."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        left = x
        for t in torch.randperm(len(terms)).tolist():
            view, compression, own = terms[t]
            array = view.forward([left])
            left = (
                left
                - view.backward(
                    own(array, compression.compress(array, MU).decompress()), [x.shape]
                )[0]
            )
        return x - left

    return near


def near_composed(
    near: Callable[[Tensor, Tensor], Tensor], then: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The entries of a random point that are not 0, again near a set."""

    def composed(x: Tensor, delta: Tensor) -> Tensor:
        point = near(x, delta)
        kept = point != 0
        return (
            torch.zeros_like(x).masked_scatter(kept, then(point[kept], delta[delta != 0]))
            if (delta != 0).any() and kept.any()
            else 0 * x
        )

    return composed


def near_factors(r: int, bits: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Balanced factors of a random point, each rounded to a grid."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(near_rank(r)(x, delta))
        root = s[:r].sqrt()
        factors = u[:, :r] * root, root.unsqueeze(1) * v[:r]
        first, second = (
            near_grid(bits, False)(f.flatten(), f).view(f.shape) if f.abs().max() > 0 else f
            for f in factors
        )
        return first @ second

    return near


def disturbed(x: Tensor, delta: Tensor) -> Tensor:
    return (x if torch.rand(()) < 0.5 else delta) + torch.randn_like(x) * 10 ** float(
        -3 * torch.rand(())
    )


def near_tucker(*ranks: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        point = disturbed(x, delta)
        for k, r in enumerate(ranks):
            u = torch.linalg.svd(unfold(point, k)).U[:, :r]
            x = torch.tensordot(u @ u.T, x, ([1], [k])).movedim(0, k)
        return x

    return near


def near_train(*ranks: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        point = disturbed(x, delta)
        # a projection of the modes behind k + 1 leaves the earlier ranks as they are
        for k, r in enumerate(ranks):
            point = truncated(point.flatten(k + 1).flatten(0, k), r).view(x.shape)
        return point

    return near


def near_cp(r: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Least squares for the first factor, the others random or near singular vectors."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        products = torch.ones(1, r, dtype=x.dtype)
        for k in range(1, x.ndim):
            u = torch.linalg.svd(unfold(disturbed(x, delta), k)).U
            u = (
                u[:, :r]
                if r <= len(u) and torch.rand(()) < 0.5
                else torch.randn(len(u), r, dtype=x.dtype)
            )
            products = (products.unsqueeze(1) * u).flatten(0, 1)
        return (products @ torch.linalg.pinv(products) @ unfold(x, 0).T).T.view(x.shape)

    return near

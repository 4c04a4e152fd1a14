"""Random points of sets of quantized and of pruned vectors."""

from collections.abc import Callable

import torch
from torch import Tensor

from laws.case import MU
from laws.sets import hashed_cells


def nearest(x: Tensor, values: Tensor) -> Tensor:
    return values[(x.unsqueeze(-1) - values).abs().argmin(-1)]


def change(delta: Tensor, values: Tensor) -> Tensor:
    """Some entries set to random ones of `values`."""
    return torch.where(
        torch.rand(delta.shape) < 0.1, values[torch.randint(len(values), delta.shape)], delta
    )


def near_codebook(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        values = delta.unique()
        drawn = x[torch.randint(len(x), (k,))]
        values = (
            torch.where(torch.rand(k) < 0.5, values[torch.randint(len(values), (k,))], drawn)
            if torch.rand(()) < 0.5
            else values
        )
        return nearest(
            x,
            values
            + torch.randn(len(values)) * 10 ** float(-3 * torch.rand(())) * x.std(correction=0),
        )

    return near


def near_codewords(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        codewords = delta.unique(dim=0) if torch.rand(()) < 0.5 else x[torch.randint(len(x), (k,))]
        codewords = codewords + torch.randn_like(codewords) * 10 ** float(
            -3 * torch.rand(())
        ) * x.std(correction=0)
        return codewords[torch.cdist(x, codewords).argmin(-1)]

    return near


def near_entropy(k: int, zero: bool, alpha: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Values near those of Delta or of x, and the cells of code lengths that are about those of
    their nearest-value cells."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        flat = x.flatten()
        values = near_codebook(k - zero)(flat, delta.flatten()).unique()
        values = torch.cat(
            [values[torch.randperm(len(values))[: k - zero]], x.new_zeros(int(zero))]
        ).unique()
        counts = (flat.unsqueeze(-1) - values).abs().argmin(-1).bincount(minlength=len(values))
        lengths = 2 * torch.rand(()) * -((counts + 0.1) / len(flat)).log2()
        return values[
            ((flat.unsqueeze(-1) - values).square() + 2 * alpha / MU * lengths).argmin(-1)
        ].view(x.shape)

    return near


def by_cell(k: int, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        cells = hashed_cells(len(x), k, seed)
        means = torch.stack(
            [x[cells == j].mean() if (cells == j).any() else x.new_zeros(()) for j in range(k)]
        )
        return (means + torch.randn(k) * torch.randint(2, (k,)) * 10 ** float(-4 * torch.rand(())))[
            cells
        ]

    return near


def near_fixed(*values: float) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        allowed = x.new_tensor(values)
        return (
            change(delta, allowed)
            if torch.rand(()) < 0.5
            else nearest(x + torch.randn_like(x) * 10 ** float(-4 * torch.rand(())), allowed)
        )

    return near


def near_scaled(*values: float) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        allowed = x.new_tensor(values)
        scaled = float(x.abs().max() / allowed.abs().max() * 2 * torch.rand(()) ** 2) * allowed
        return nearest(x, scaled) if torch.rand(()) < 0.8 else change(nearest(x, scaled), scaled)

    return near


def near_stored(
    dtype: str, either_sign: bool, *values: float
) -> Callable[[Tensor, Tensor], Tensor]:
    kind = getattr(torch, dtype)

    def near(x: Tensor, delta: Tensor) -> Tensor:
        allowed = x.new_tensor(values)
        scale = x.abs().max() / allowed.abs().max() * 2 * torch.rand(()) ** 2
        sign = -1 if either_sign and torch.rand(()) < 0.5 else 1
        return nearest(x, sign * scale.to(kind).to(x) * allowed)

    return near


def near_shifted(bits: int, dtype: str | None) -> Callable[[Tensor, Tensor], Tensor]:
    kind = getattr(torch, dtype or "float64")

    def near(x: Tensor, delta: Tensor) -> Tensor:
        spread = x.max() - x.min()
        scale = spread / (2**bits - 1) * (0.3 + torch.rand(()))
        shift = x.min() + spread * (0.6 * torch.rand(()) - 0.2)
        line = scale.to(kind).to(x) * torch.arange(2**bits) + shift.to(kind).to(x)
        return nearest(x, line)

    return near


def near_grid(bits: int, zero_point: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        zero = int(torch.randint(2**bits, ())) if zero_point else 2 ** (bits - 1)
        return nearest(
            x,
            x.abs().max()
            * 2
            * torch.rand(())
            / 2 ** (bits - 1)
            * (torch.arange(2**bits) - zero).to(x.dtype),
        )

    return near


def near_sparse(kappa: int, shrink: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        order = (x.abs() + x.abs().max() * torch.rand(x.shape) * torch.rand(())).argsort(
            descending=True
        )
        mask = torch.zeros_like(x).index_fill_(0, order[:kappa], 1.0)
        return x * mask * shrink + mask * torch.randn_like(x) * 0.1 * torch.randint(2, ())

    return near


def near_penalty(x: Tensor, delta: Tensor) -> Tensor:
    t = float(x.abs().max() * torch.rand(()))
    cut = (
        torch.where(x.abs() > t, x, 0.0)
        if torch.rand(()) < 0.5
        else torch.nn.functional.softshrink(x, t)
    )
    noisy = delta + torch.randn_like(x) * 10 ** float(-4 * torch.rand(()))
    choice = torch.randint(4, x.shape) if torch.rand(()) < 0.5 else torch.tensor(2)
    return torch.where(
        choice == 0, noisy, torch.where(choice == 1, 0.0, torch.where(choice == 2, cut, delta))
    )


def near_groups(kappa: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        order = (x.norm(dim=1) + x.abs().max() * torch.rand(len(x)) * torch.rand(())).argsort(
            descending=True
        )
        point = torch.where(torch.rand(()) < 0.5, x, x + 0.1 * torch.randn_like(x))
        return torch.zeros_like(x).index_copy(0, order[:kappa], point[order[:kappa]])

    return near


def near_group_penalty(x: Tensor, delta: Tensor) -> Tensor:
    norms, t = x.norm(dim=1, keepdim=True), float(x.norm(dim=1).max() * torch.rand(()))
    cut = (
        torch.where(norms > t, x, 0.0)
        if torch.rand(()) < 0.5
        else x * (1 - t / norms.clamp(min=1e-300)).clamp(min=0)
    )
    noisy = delta + torch.randn_like(x) * 10 ** float(-4 * torch.rand(()))
    choice = torch.randint(4, (len(x), 1)) if torch.rand(()) < 0.5 else torch.tensor(2)
    return torch.where(
        choice == 0, noisy, torch.where(choice == 1, 0.0, torch.where(choice == 2, cut, delta))
    )


def near_blocks(n: int, m: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, delta: torch.cat([near_sparse(n)(part, part) for part in x.split(m)])

"""Uniform grids, the format of integer arithmetic."""

from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.protocol import Compression
from leco.compressions.scales import SCALES, search_scale
from leco.compressions.sorted_values import Sorted
from leco.theta import Affine


@dataclass(frozen=True)
class Uniform(Compression[Affine]):
    """s (q - z) with integers 0 <= q < 2^bits: a uniform grid, the format of integer arithmetic.

    A descent step: nearest level and least-squares scale in turn, on sorted data, from the best of
    many ranges and the last (s, z). The error is not convex in s. Without `zero_point`, z = 2^(bits
    - 1), the signed integers; with it, z is searched too, for data that are not symmetric. O(n log
    n) to sort. Part II, section 4.2, with a search.

    >>> import torch, leco
    >>> theta = leco.Uniform(8).compress(torch.tensor([-1.0, 0.5, 0.25]), mu=1.0)
    >>> theta.zero_point
    tensor(128, dtype=torch.uint8)
    """

    bits: int
    zero_point: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("Uniform: bits", self.bits, 2, 8)

    def scaling(self) -> int | None:
        return 0

    def c_step(self, x: Tensor, mu: float, theta: Affine | None = None) -> Affine:
        data = Sorted(x.clone())
        levels, middle = 2**self.bits, 2 ** (self.bits - 1)
        low, high = (
            data.values[..., :1].double().clamp(max=0),
            data.values[..., -1:].double().clamp(min=0),
        )
        shares = torch.linspace(0.1, 1, SCALES // 2, dtype=torch.float64, device=x.device)
        scale = shares * torch.maximum(-low / middle, high / (middle - 1))
        zero = torch.full_like(scale, middle)
        if self.zero_point:
            wide = shares * (high - low) / (levels - 1)
            ratio = (
                (-low / (high - low).clamp(min=torch.finfo(torch.float64).tiny) * (levels - 1))
                .round()
                .clamp(0, levels - 1)
            )
            near = [(ratio + step).clamp(0, levels - 1).expand_as(wide) for step in (-1, 0, 1)]
            scale, zero = (
                torch.cat([scale, wide, wide, wide], dim=-1),
                torch.cat([zero, *near], dim=-1),
            )
        if theta is not None and theta.scale.shape == x.shape[:-1]:
            scale = torch.cat([scale, theta.scale.double().unsqueeze(-1)], dim=-1)
            zero = torch.cat([zero, theta.zero_point.double().unsqueeze(-1)], dim=-1)
        grid = torch.arange(levels, dtype=torch.float64, device=x.device)
        s, best = search_scale(data, grid - zero.unsqueeze(-1), scale)
        del data
        s, z = s.to(x.dtype), zero.gather(-1, best)
        q = (
            (x / torch.where(s > 0, s, torch.inf))
            .add_(z.to(x.dtype))
            .round_()
            .clamp_(0, levels - 1)
        )
        return Affine(q.to(torch.uint8), s.squeeze(-1), z.squeeze(-1).to(torch.uint8))

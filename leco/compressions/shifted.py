"""Uniform grids with a least value that is any number, as runtimes store a scale and a minimum."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.metric import Mu
from leco.compressions.protocol import Compression
from leco.compressions.scale_search import blocks_of_rows, per_row
from leco.compressions.stored import beside, check_scale_options, shown, stored
from leco.theta import Shifted

SHARES = (0.3, 0.5, 0.7, 0.85, 0.95, 1.03)  # of the range, tried from cold
PLACES = (0.0, 0.5, 1.0)  # of that share in the range: at its lower end, in its middle, at its top
SWEEPS = 6  # of nearest level and least squares, from the best start


class Lines(NamedTuple):
    """A scale and a shift for each row, (R,), and their errors sum d (x - s q - m)^2."""

    scale: Tensor
    shift: Tensor
    error: Tensor


@dataclass(frozen=True)
class UniformShift(Compression[Shifted]):
    """s q + m with integers 0 <= q < 2^bits: a uniform grid anywhere on the line.

    `Uniform(bits, zero_point=True)` has 0 among its levels; this grid need not.

    A descent step, since the error is not convex in s. It tries 6 shares of the range of x, from
    0.3 to 1.03, at its lower end, its middle and its top, with least-squares lines; or the last
    (s, m). From the best of them it takes nearest level
    and the least-squares line in turn. With `scale_dtype`, the numbers of that type on both sides
    of s, and for each those on both sides of the best m, are tried. Never worse than the last
    Theta. In a metric: the same with weighted least squares.

    Args:
        bits: 1 to 8.
        scale_dtype: "float16" or "bfloat16", the type in which a runtime stores s and m; None for
            that of the weights.

    >>> import torch, leco
    >>> leco.UniformShift(1).compress(torch.tensor([3.0, 3.0, 5.0]), mu=1.0).decompress()
    tensor([3., 3., 5.])
    """

    bits: int
    scale_dtype: str | None = None

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("UniformShift: bits", self.bits, 1, 8)
        check_scale_options("UniformShift", True, self.scale_dtype)

    def __repr__(self) -> str:
        return shown(self)

    def scaling(self) -> int | None:
        return 0 if self.scale_dtype is None else None

    def feasible(self, theta: Shifted) -> Shifted:
        scale, shift = (stored(own, self.scale_dtype) for own in (theta.scale, theta.shift))
        return theta._replace(scale=scale, shift=shift)

    def c_step(self, x: Tensor, mu: Mu, theta: Shifted | None = None) -> Shifted:
        rows, top = x.reshape(-1, x.shape[-1]), 2**self.bits - 1
        d = mu.expand_as(x).reshape(rows.shape) if isinstance(mu, Tensor) else None
        last = None
        if theta is not None and theta.scale.shape == x.shape[:-1] and theta.top == top:
            last = theta.scale.reshape(-1), theta.shift.reshape(-1)
        indices = torch.empty(rows.shape, dtype=torch.uint8, device=x.device)
        scale, shift = x.new_empty(2, len(rows))
        for part in blocks_of_rows(rows):
            weights = torch.ones_like(rows[part]) if d is None else per_row(d[part])
            before = None if last is None else (last[0][part], last[1][part])
            search = Search(rows[part], weights, top, self.scale_dtype)
            found = search.from_last(*before) if before else search.cold()
            scale[part], shift[part] = found.scale, found.shift
            indices[part] = search.levels(found.scale, found.shift).to(torch.uint8)
        batch = x.shape[:-1]
        return Shifted(indices.view(x.shape), scale.view(batch), shift.view(batch), top)


class Search(NamedTuple):
    """The search for the lines of rows x (R, n) with weights d (R, n)."""

    x: Tensor
    d: Tensor
    top: int
    dtype: str | None

    def levels(self, scale: Tensor, shift: Tensor) -> Tensor:
        """The nearest level of each entry."""
        divisor = torch.where(scale == 0, torch.inf, scale).unsqueeze(-1)
        return ((self.x - shift.unsqueeze(-1)) / divisor).round_().clamp_(0, self.top)

    def tried(self, scale: Tensor, shift: Tensor) -> Lines:
        """The lines with their errors."""
        delta = scale.unsqueeze(-1) * self.levels(scale, shift) + shift.unsqueeze(-1)
        return Lines(scale, shift, ((self.x - delta).square_() * self.d).sum(-1))

    def fitted(self, scale: Tensor, shift: Tensor) -> Lines:
        """The least-squares lines of the nearest levels."""
        q, mass = self.levels(scale, shift), self.d.sum(-1, keepdim=True)
        q_mean, x_mean = ((self.d * y).sum(-1, keepdim=True) / mass for y in (q, self.x))
        spread = (self.d * (q - q_mean).square()).sum(-1)
        cross = (self.d * (q - q_mean) * (self.x - x_mean)).sum(-1)
        slope = torch.where(spread > 0, cross / spread, scale).clamp_(min=0)
        return self.tried(slope, (x_mean - slope.unsqueeze(-1) * q_mean).squeeze(-1))

    def cold(self) -> Lines:
        """From shares of the range."""
        low, high = self.x.aminmax(dim=-1)
        range_, best = high - low, self.tried((high - low) / self.top, low)
        for share in SHARES:
            for place in PLACES:
                step, shift = share * range_ / self.top, low + (1 - share) * place * range_
                best = _better(best, self.fitted(step, shift))
        return self._refined(best)

    def from_last(self, scale: Tensor, shift: Tensor) -> Lines:
        """From the last lines, which a retrained scale below 0 may have turned round."""
        turned = scale < 0
        shift = torch.where(turned, shift + scale * self.top, shift)
        last = self.tried(stored(scale.abs(), self.dtype), stored(shift, self.dtype))
        return _better(last, self._refined(last))

    def _refined(self, best: Lines) -> Lines:
        """Nearest level and least squares in turn, then the stored numbers beside."""
        for _ in range(SWEEPS):
            best = _better(best, self.fitted(best.scale, best.shift))
        if self.dtype is None:
            return best
        found = None
        for scale in beside(best.scale, self.dtype):
            # the best shift for the levels at this scale
            gap = self.x - scale.unsqueeze(-1) * self.levels(scale, best.shift)
            shift = (self.d * gap).sum(-1) / self.d.sum(-1)
            for near in beside(shift.abs(), self.dtype):
                own = self.tried(scale, torch.copysign(near, shift))
                found = own if found is None else _better(found, own)
        assert found is not None
        return found


def _better(best: Lines, other: Lines) -> Lines:
    """The line of less error for each row; of equal ones the first."""
    wins = other.error < best.error
    return Lines(*(torch.where(wins, b, a) for a, b in zip(best, other, strict=True)))

"""The search for the scale of given values, for each of many rows."""

import torch
from torch import Tensor

from leco.compressions.cells import COUNTED
from leco.compressions.scale_search import (
    LARGEST,
    NOTHING,
    Rows,
    Tried,
    better,
    blocks_of_rows,
    per_row,
    refit,
    tile_buffers,
)

LONG_TAILS = torch.logspace(-1.6, -0.7, 6, dtype=torch.float64)
STARTS = torch.cat([LONG_TAILS, torch.logspace(-0.55, 0.2, 20, dtype=torch.float64)])
"""Scales that a cold search tries, by the one at which max |x| meets the largest value."""
BESIDE = (1, 0.95, 1.05)  # multiples of the last scale, each with its least squares
NEAR = (0.9, 0.95, 1.05, 1.1)  # multiples of the best that are tried at last


class Values:
    """The nearest of increasing values (K,), by comparisons with the borders between them.

    Of symmetric values only those at or above 0 are needed: `folded` says that |x| stands for x.
    """

    def __init__(self, values: Tensor):
        self.folded = bool((values == -values.flip(0)).all())
        self.largest = float(values.abs().max())
        self.values = values[values >= 0] if self.folded else values
        self._borders = (self.values[1:] + self.values[:-1]) / 2

        # from the value of least magnitude outwards, so that sums of steps lose nothing
        own = self.values.double()
        inner = int(own.abs().argmin())
        self._inner, steps = float(own[inner]), own.diff().tolist()
        borders = self._borders.double().tolist()
        self._up = list(zip(borders[inner:], steps[inner:], strict=True))
        self._down = list(zip(borders[:inner], steps[:inner], strict=True))

    def nearest(self, t: Tensor, q: Tensor, other: Tensor) -> None:
        """Write the nearest value of each t to q."""
        if len(self._borders) > COUNTED:
            torch.take(self.values, torch.bucketize(t, self._borders), out=q)
            return
        q.fill_(self._inner)
        for border, step in self._up:
            q.add_(torch.gt(t, border, out=other), alpha=step)
        for border, step in self._down:
            q.sub_(torch.le(t, border, out=other), alpha=step)


def search_values(x: Tensor, weights: Tensor | None, values: Tensor, last: Tensor | None) -> Tensor:
    """The best scales (R,) of the rows x (R, n) that passes over the rows find; `weights` (R, n) in
    a metric. Never worse than the `last` ones, (R,) and at least 0."""
    book, scale, buffers = Values(values), x.new_empty(len(x)), tile_buffers(x)
    for part in blocks_of_rows(x):
        own = x[part].abs() if book.folded else x[part]
        largest = torch.maximum(own.amax(-1), -own.amin(-1))
        unit = (largest / book.largest).clamp_(min=torch.finfo(x.dtype).tiny * LARGEST**2)
        d = None if weights is None else per_row(weights[part])
        rows = Rows(own, d, unit, book.nearest, buffers)
        best = _search(rows, None if last is None else last[part])
        scale[part] = torch.where(best.share > NOTHING, best.share * unit, 0)
        scale[part] *= largest > 0
    return scale


def _search(rows: Rows, last: Tensor | None) -> Tried:
    """From many scales and then neighbours of the best; or from the last scales and neighbours."""
    if last is not None:
        near = torch.tensor(BESIDE, dtype=rows.x.dtype, device=rows.x.device).unsqueeze(-1)
        share = (near * (last / rows.unit)).clamp_(NOTHING, LARGEST)
        return better(rows.nothing(), rows.fits(share))
    starts = STARTS.to(rows.x).unsqueeze(-1)
    best = refit(rows, better(rows.nothing(), rows.errors(starts)))
    near = torch.tensor(NEAR, dtype=rows.x.dtype, device=rows.x.device).unsqueeze(-1)
    share = (near * best.share).clamp_(NOTHING, LARGEST)
    return refit(rows, better(best, rows.errors(share)))

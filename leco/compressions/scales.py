"""The best scale s of given values v: min over s and z of ||x - s v[z]||^2, by enumeration or by
descent."""

from typing import NamedTuple

import torch
from torch import Tensor

from leco.compressions import sorted_values
from leco.compressions.kmeans1d import MAX_SWEEPS
from leco.compressions.sorted_values import Sorted, midpoints

SCALES = 32  # starting points of the search for a scale that is too large to enumerate
TRIAL_SWEEPS = 3  # of each starting scale, before only the best goes on


class Fit(NamedTuple):
    """Scales (..., C) of C candidates, and how much each lowers ||x||^2."""

    scale: Tensor
    gain: Tensor


def search_scale(data: Sorted, values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The best scale (..., 1) that `fit_scale` reaches from the candidates (..., C), and the index
    (..., 1) of the one it came from."""
    *batch, count, k = values.shape
    values, scale = values.reshape(-1, count, k), scale.reshape(-1, count)
    found = []
    rows = max(1, sorted_values.QUERIES // (count * k))  # at a time, for the memory's sake
    for first in range(0, len(scale), rows):
        part = slice(first, first + rows)
        own = data.rows(part)
        trial = fit_scale(own, values[part], scale[part], TRIAL_SWEEPS)
        best = trial.gain.argmax(-1, keepdim=True)
        chosen = values[part].gather(-2, best.unsqueeze(-1).expand(*best.shape, k))
        found.append((fit_scale(own, chosen, trial.scale.gather(-1, best), MAX_SWEEPS).scale, best))
    return tuple(torch.cat(parts).view(*batch, 1) for parts in zip(*found, strict=True))  # pyright: ignore[reportReturnType]


def fit_scale(data: Sorted, values: Tensor, scale: Tensor, sweeps: int) -> Fit:
    """Alternate nearest value and least-squares scale from each of the candidate scales (..., C);
    `values` (..., C, K), increasing.

    With A = sum over cells of value_k sum_k and B = sum of value_k^2 number_k, the best scale of an
    assignment is A/B and lowers ||x||^2 by A^2/B. Each sweep raises it.
    """
    gain = torch.full_like(scale, -torch.inf)
    for _ in range(sweeps):
        numbers, sums = data.cells(scale.unsqueeze(-1) * midpoints(values))
        a = (sums * values).sum(-1)
        b = (numbers * values.square()).sum(-1)
        new = torch.where((a > 0) & (b > 0), a / b.clamp(min=torch.finfo(b.dtype).tiny), 0.0)
        reached = new * a
        if not bool((reached > gain * (1 + 1e-12)).any()):
            break
        scale, gain = new, torch.maximum(gain, reached)
    return Fit(scale, gain)


def best_scale(x: Tensor, values: Tensor) -> Tensor:
    """The scale s >= 0 of least ||x - s values[nearest]||^2, exactly: (...) for x (..., n) and
    increasing `values` (K,).

    As s falls from infinity each x_i starts at the innermost value on its side, and steps outwards
    where x_i = s m_j for a midpoint m_j of its sign. All n (K - 1) such scales are sorted; between
    two of them the assignment is fixed, and A^2/B (see `fit_scale`) is its gain. Every step adds to
    A and to B, so that nothing cancels. O(n K log(n K)).
    """
    x, values = x.double(), values.double()
    edges, steps = midpoints(values), values.diff()
    zero = edges.new_zeros(())
    inner = torch.where(
        x > 0,
        values[torch.searchsorted(edges, zero, right=True)],
        values[torch.searchsorted(edges, zero)],
    )
    ratio = x.unsqueeze(-1) / torch.where(edges == 0, torch.inf, edges)
    meets = ratio > 0
    step_a = torch.where(meets, steps * x.unsqueeze(-1).abs(), 0).flatten(-2)
    step_b = torch.where(meets, 2 * steps * edges.abs(), 0).flatten(-2)
    order = ratio.flatten(-2).argsort(dim=-1, descending=True)
    a = (inner * x).sum(-1, keepdim=True)
    b = inner.square().sum(-1, keepdim=True)
    a = torch.cat([a, a + step_a.gather(-1, order).cumsum(-1)], dim=-1)
    b = torch.cat([b, b + step_b.gather(-1, order).cumsum(-1)], dim=-1)
    valid = (a > 0) & (b > 0)
    gain = torch.where(valid, a.square() / torch.where(valid, b, 1.0), 0.0)
    best = gain.argmax(dim=-1, keepdim=True)
    return torch.where(valid, a / torch.where(valid, b, 1.0), 0.0).gather(-1, best).squeeze(-1)

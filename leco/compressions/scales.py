"""The best scale s of given values v: min over s and z of ||x - s v[z]||^2, or of sum d (x - s
v[z])^2 in a metric d, by enumeration or by descent."""

from typing import NamedTuple

import torch
from torch import Tensor

from leco.compressions import sorted_values
from leco.compressions.kmeans1d import MAX_SWEEPS
from leco.compressions.scale_search import BLOCK, blocks_of_rows, per_row
from leco.compressions.sorted_values import Sorted, midpoints, sort_, sort_with
from leco.compressions.stored import stored

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

    With A = sum over cells of value_k sum_k and B = sum of value_k^2 mass_k, the best scale of an
    assignment is A/B and lowers the error by A^2/B. Each sweep raises it. In a metric d the sums
    are of d x and the masses of d; without one, of x and of 1.
    """
    gain = torch.full_like(scale, -torch.inf)
    for _ in range(sweeps):
        masses, sums = data.cells(scale.unsqueeze(-1) * midpoints(values))
        a = (sums * values).sum(-1)
        b = (masses * values.square()).sum(-1)
        new = torch.where((a > 0) & (b > 0), a / b.clamp(min=torch.finfo(b.dtype).tiny), 0.0)
        reached = new * a
        if not bool((reached > gain * (1 + 1e-12)).any()):
            break
        scale, gain = new, torch.maximum(gain, reached)
    return Fit(scale, gain)


def best_scale(x: Tensor, values: Tensor, weights: Tensor | None = None) -> Tensor:
    """The scale s >= 0 of least sum d (x - s values[nearest])^2, exactly: (...) for x (..., n) and
    increasing `values` (K,); `weights` d (..., n) in a metric, 1 without one.

    As s falls from infinity each x_i starts at the innermost value on its side, and steps outwards
    where x_i = s m_j for a midpoint m_j of its sign, whatever its weight. All n (K - 1) such scales
    are sorted; between two of them the assignment is fixed, and A^2/B (see `fit_scale`) is its
    gain. Every step adds to A and to B, so that nothing cancels. O(n K log(n K)).
    """
    x, values = x.double(), values.double()
    d = torch.ones_like(x) if weights is None else weights.double()
    edges, steps = midpoints(values), values.diff()
    zero = edges.new_zeros(())
    inner = torch.where(
        x > 0,
        values[torch.searchsorted(edges, zero, right=True)],
        values[torch.searchsorted(edges, zero)],
    )

    # what each step adds
    ratio = x.unsqueeze(-1) / torch.where(edges == 0, torch.inf, edges)
    meets = ratio > 0
    step_a = torch.where(meets, steps * (d * x.abs()).unsqueeze(-1), 0).flatten(-2)
    step_b = torch.where(meets, 2 * steps * edges.abs() * d.unsqueeze(-1), 0).flatten(-2)

    # the sums after each step
    order = ratio.flatten(-2).argsort(dim=-1, descending=True)
    a = (d * inner * x).sum(-1, keepdim=True)
    b = (d * inner.square()).sum(-1, keepdim=True)
    a = torch.cat([a, a + step_a.gather(-1, order).cumsum(-1)], dim=-1)
    b = torch.cat([b, b + step_b.gather(-1, order).cumsum(-1)], dim=-1)

    # the largest gain
    valid = (a > 0) & (b > 0)
    gain = torch.where(valid, a.square() / torch.where(valid, b, 1.0), 0.0)
    best = gain.argmax(dim=-1, keepdim=True)
    return torch.where(valid, a / torch.where(valid, b, 1.0), 0.0).gather(-1, best).squeeze(-1)


def mean_magnitude(x: Tensor, weights: Tensor | None) -> Tensor:
    """sum d |x| / sum d, (...) for x (..., n): the best a of {-a, +a}, since the error is
    sum d (|x| - a)^2 at the nearest signs."""
    # vector_norm adds float32 one by one: 1 % off at 25 million
    if weights is None:
        return x.abs().mean(dim=-1)
    d = per_row(weights)
    return d.mul(x).abs_().sum(dim=-1) / d.sum(dim=-1)


def ternary_scale(x: Tensor, weights: Tensor | None, dtype: str | None = None) -> Tensor:
    """The best a of {-a, 0, +a}, exactly: (...) for x (..., n); a number of `dtype` where that is
    given.

    For a given a, an entry is kept where |x| > a/2, whatever its weight. So the best support is a
    prefix of the |x_i| in decreasing order: the one of the largest (sum d |x|)^2 / sum d, with a =
    sum d |x| / sum d there. Of the numbers of a type, the one nearest to that a is the best for the
    prefix: its gain a (2 sum d |x| - a sum d) is a parabola in a.
    """
    rows = x.reshape(-1, x.shape[-1])
    d = None if weights is None else weights.reshape(rows.shape)
    found = x.new_empty(len(rows))
    for part in blocks_of_rows(rows):
        found[part] = _best_prefix(rows[part].abs(), None if d is None else per_row(d[part]), dtype)
    return found.view(x.shape[:-1])


def _best_prefix(magnitudes: Tensor, weights: Tensor | None, dtype: str | None) -> Tensor:
    """`ternary_scale` of rows (R, n), which are changed. A block of prefixes at a time: the scan
    needs no copy of its own."""
    if weights is None:
        ordered, masses = sort_(magnitudes).flip(-1), None
    else:
        ordered, masses = (part.flip(-1) for part in sort_with(magnitudes, weights))
        ordered.mul_(masses)
    block = max(1, BLOCK // len(ordered))
    total, mass = ordered.new_zeros(2, len(ordered), 1, dtype=torch.float64)
    best, scale = torch.full_like(total, -1.0), torch.zeros_like(total)
    for first in range(0, ordered.shape[-1], block):
        # sums of d |x| and of d
        part = slice(first, first + block)
        sums = ordered[:, part].cumsum(-1, dtype=torch.float64).add_(total)
        if masses is None:
            last = first + sums.shape[-1]
            below = torch.arange(first + 1, last + 1, dtype=torch.float64, device=sums.device)
            below = below.expand_as(sums)
        else:
            below = masses[:, part].cumsum(-1, dtype=torch.float64).add_(mass)

        # the best so far
        own = stored(sums / below, dtype)
        value, j = (own * (2 * sums - own * below)).max(dim=-1, keepdim=True)
        better = value > best
        best = torch.where(better, value, best)
        scale = torch.where(better, own.gather(-1, j), scale)
        total, mass = sums[:, -1:].clone(), below[:, -1:].clone()
    return scale.squeeze(-1).to(magnitudes.dtype)

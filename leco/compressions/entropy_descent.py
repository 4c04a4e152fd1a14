"""The descent of `leco.EntropyCodebook`: code lengths, cells and values in turn, of many candidates
at once.

Axes of a tensor: R problems (rows of x), C candidates for each problem, K values of a candidate.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from leco.coding.contexts import code_bits
from leco.compressions.kmeans1d import MAX_SWEEPS
from leco.compressions.sorted_values import QUERIES, Sorted, cells_of
from leco.theta import Codes, ZeroCodes

ENTRY_BITS = 40  # of a value in a file: itself, in float32, and its weight in the table
TRIAL_SWEEPS = 8  # of each start, before only the best goes on


def entropy_bits(theta: ZeroCodes | Codes) -> Tensor:
    """n H(f) + 40 (values used) of each problem, (...)."""
    counts = counts_of(theta).double()
    learned = counts[:, 1:] if isinstance(theta, ZeroCodes) else counts
    return (code_bits(counts).sum(-1) + ENTRY_BITS * learned.count_nonzero(-1)).view(
        theta.indices.shape[:-1]
    )


def counts_of(theta: ZeroCodes | Codes) -> Tensor:
    """How often each code stands in each problem, (R, K)."""
    rows = theta.indices.reshape(-1, theta.indices.shape[-1])
    codes = theta.codebook.shape[-1] + isinstance(theta, ZeroCodes)
    return torch.stack([row.bincount(minlength=codes) for row in rows])


class Candidates(NamedTuple):
    """C candidates for R problems: increasing values (R, C, K), one of them the 0 (`zero`), code
    lengths, infinite for a value not in use."""

    values: Tensor
    zero: Tensor
    lengths: Tensor

    @staticmethod
    def joined(found: Iterable["Candidates"]) -> "Candidates":
        """All candidates of the same problems together."""
        return Candidates(*(torch.cat(fields, 1) for fields in zip(*found, strict=True)))

    def take(self, chosen: Tensor) -> "Candidates":
        """One candidate (R, 1) of each problem."""
        return Candidates(*(field.take_along_dim(chosen.unsqueeze(-1), 1) for field in self))

    def where(self, chosen: Tensor, other: "Candidates") -> "Candidates":
        """Itself for the candidates (R, C) that are chosen, else another."""
        return Candidates(
            *(
                torch.where(chosen.unsqueeze(-1), own, its)
                for own, its in zip(self, other, strict=True)
            )
        )


def borders(state: Candidates, price: float) -> Tensor:
    """Upper borders (R, C, K-1) of the cells: value j wins where it is below all others, between
    its borders with those on either side."""
    values, _, lengths = state
    used = lengths.isfinite()
    apart = values.unsqueeze(-1) - values.unsqueeze(-2)  # [.., k, j] = c_k - c_j
    longer = lengths.unsqueeze(-1) - lengths.unsqueeze(-2)
    border = (values.unsqueeze(-1) + values.unsqueeze(-2)) / 2 + price / 2 * longer / apart
    k = values.shape[-1]
    below = torch.ones(k, k, dtype=torch.bool, device=values.device).tril(-1)
    both = used.unsqueeze(-1) & used.unsqueeze(-2) & (apart != 0)
    low = torch.where(below & both, border, -torch.inf).amax(-1)
    high = torch.where(below.T & both, border, torch.inf).amin(-1)
    return torch.where(used & (low < high), high, -torch.inf).cummax(-1).values[..., :-1]


def update(
    data: Sorted, state: Candidates, price: float, strict: Tensor | None = None
) -> tuple[Candidates, Tensor]:
    """Cells, values and lengths once; ||x - theta||^2 - ||x||^2 + price bits of the result, (R, C).

    Infinite where 0 is idle in a `strict` problem, (R, 1): a small value in its place would have a
    little less distortion, and prune nothing.
    """
    counts, sums = data.cells(borders(state, price))
    counts = counts.double()
    means = torch.where(state.zero | (counts == 0), state.values, sums / counts.clamp(min=1))
    lengths = -torch.log2(counts / data.n)
    bits = code_bits(counts).sum(-1) + ENTRY_BITS * ((counts > 0) & ~state.zero).sum(-1)
    objective = (means * (means * counts - 2 * sums)).sum(-1) + price * bits
    if strict is not None:
        objective = torch.where(strict & ((counts == 0) & state.zero).any(-1), torch.inf, objective)
    order = means.argsort(dim=-1, stable=True)  # a mean may have crossed the 0
    return Candidates(
        *(field.gather(-1, order) for field in (means, state.zero, lengths))
    ), objective


def descend(
    data: Sorted, state: Candidates, price: float, strict: Tensor, sweeps: int
) -> tuple[Candidates, Tensor]:
    """Sweeps until no candidate's objective falls: the state of each whose cells have the least,
    and that."""
    best, (state, least) = state, update(data, state, price, strict)
    for _ in range(sweeps - 1):
        after, objective = update(data, state, price, strict)
        better = objective < least - 1e-9 * least.abs().nan_to_num(posinf=0.0)
        if not bool(better.any()):
            break
        best, state, least = state.where(better, best), after, torch.where(better, objective, least)
    return best, least


def best_of(data: Sorted, starts: Candidates, price: float) -> Candidates:
    """From every start a few sweeps; the best to the end; then without each value that does not
    pay."""
    # at a time, for the memory's sake
    rows = max(1, QUERIES // (starts.values[0].numel() * starts.values.shape[-1]))
    found = []
    for first in range(0, len(starts.values), rows):
        part = slice(first, first + rows)
        own, state = data.rows(part), Candidates(*(field[part] for field in starts))
        strict = strict_rows(own, state)
        state, objective = descend(own, state, price, strict, TRIAL_SWEEPS)
        state, objective = descend(
            own, state.take(objective.argmin(-1, keepdim=True)), price, strict, MAX_SWEEPS
        )
        for _ in range(starts.values.shape[-1]):
            fewer, reached = descend(own, _without_each(state), price, strict, TRIAL_SWEEPS)
            best = reached.argmin(-1, keepdim=True)
            better = reached.gather(-1, best) < objective
            if not bool(better.any()):
                break
            state, objective = descend(
                own, fewer.take(best).where(better, state), price, strict, MAX_SWEEPS
            )
        found.append(state)
    return Candidates(*(torch.cat(fields) for fields in zip(*found, strict=True)))


def strict_rows(data: Sorted, starts: Candidates) -> Tensor:
    """The problems (R, 1) with weights on both sides of 0, but for one whose last Theta, the last
    start, leaves 0 idle."""
    both = (data.values[:, :1] < 0) & (data.values[:, -1:] > 0)
    return both & (starts.zero & starts.lengths.isfinite())[:, -1].any(-1, keepdim=True)


def _without_each(state: Candidates) -> Candidates:
    """K candidates from one (R, 1, K): each lacks one value other than 0."""
    k = state.values.shape[-1]
    gone = torch.eye(k, dtype=torch.bool, device=state.values.device)
    values, zero, lengths = (field.expand(-1, k, -1) for field in state)
    several = lengths.isfinite().sum(-1, keepdim=True) > 1
    return Candidates(values, zero, torch.where(gone & several & ~zero, torch.inf, lengths))


def theta_of(
    x: Tensor, data: Sorted, state: Candidates, price: float, with_zero: bool
) -> ZeroCodes | Codes:
    """The codes of x and their means, values in increasing order; those that no problem of the
    batch uses are left out."""
    edges = borders(state, price)
    counts, sums = data.cells(edges)
    means = torch.where(
        state.zero | (counts == 0), state.values, sums / counts.clamp(min=1)
    ).squeeze(1)
    zero, rows = state.zero.squeeze(1), x.reshape(-1, x.shape[-1])
    needed = ((counts.squeeze(1) > 0) | zero).any(0)
    upper = (
        torch.nn.functional.pad(edges.squeeze(1), (0, 1), value=torch.inf)[:, needed]
        .cummax(-1)
        .values[:, :-1]
    )
    place, means, zero = (
        cells_of(rows, upper.to(x.dtype).contiguous()),
        means[:, needed],
        zero[:, needed],
    )
    if not with_zero:
        return Codes(place.view(x.shape), means.to(x.dtype).view(*x.shape[:-1], -1))
    first = zero.long().argmax(-1, keepdim=True).to(place.dtype)
    indices = (place + (place < first)) * (place != first)
    return ZeroCodes(indices.view(x.shape), means[~zero].to(x.dtype).view(*x.shape[:-1], -1))

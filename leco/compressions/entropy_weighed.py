"""The sweeps of `leco.EntropyCodebook` in a metric, where each weight has a price of its own.

The cost of value j for weight i is mu_i/2 (x_i - c_j)^2 + alpha l_j. The cells are not intervals,
so a sweep compares every weight with every value: O(n k). It skips the weights that are certainly
coded as 0, which are most of them where few are kept.

Axes of a tensor: R problems (rows of x), S states (each of one problem), n weights, K values.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from leco.coding.contexts import code_bits
from leco.compressions.entropy_descent import ENTRY_BITS, Candidates

STILL = 1e-5  # share of the objective by which a sweep must lower it, for another one
CHUNK = 2**16  # weights that a sweep looks at in one go
PART = 2**13  # weights of a row whose costs by values are made in one go: they stay in cache
FINITE = 2**10  # more than any length, so that a price times a length is finite


class Weighed(NamedTuple):
    """Rows of weights in decreasing order of mu_i x_i^2.

    Attributes:
        x: the weights (R, n).
        mu: their metric (R, n).
        losses: -mu_i x_i^2 (R, n), increasing.
        order: the places of the weights in the rows that were given (R, n).
        numbers: how many weights each column stands for (n,), float64.
        before: the sums of the first numbers (n + 1,), float64.
    """

    x: Tensor
    mu: Tensor
    losses: Tensor
    order: Tensor
    numbers: Tensor
    before: Tensor

    @classmethod
    def of(cls, x: Tensor, mu: Tensor) -> "Weighed":
        losses, order = (mu * x.square()).neg_().sort(dim=-1)
        numbers = torch.ones(x.shape[-1], dtype=torch.float64, device=x.device)
        before, own = pad(numbers.cumsum(0), (1, 0)), (x.gather(-1, order), mu.gather(-1, order))
        return cls(*own, losses, order, numbers, before)

    @property
    def n(self) -> float:
        """How many weights a row stands for."""
        return float(self.before[-1])

    def sample(self, size: int) -> "Weighed":
        """At most `size` columns that stand for all: the first half, and every m-th of the rest."""
        n = self.x.shape[-1]
        if n <= size:
            return self
        head = size // 2
        every = -(-(n - head) // (size - head))
        starts = torch.arange(head, n, every, device=self.x.device)
        ends = (starts + every).clamp(max=n)
        middles = (starts + ends - 1) // 2
        places = torch.cat([torch.arange(head, device=self.x.device), middles])
        numbers = torch.cat([self.numbers[:head], (ends - starts).double()])
        x, mu, losses, order = (field[:, places] for field in self[:4])
        return Weighed(x, mu, losses, order, numbers, pad(numbers.cumsum(0), (1, 0)))

    def rows(self, part: slice) -> "Weighed":
        """Some of the rows."""
        x, mu, losses, order = (field[part] for field in self[:4])
        return Weighed(x, mu, losses, order, self.numbers, self.before)

    def fronts(self, which: Tensor, state: Candidates, price: float) -> Tensor:
        """How many of the first weights a state may code by another value than the 0: (S,).

        x_i^2 is the most that another value gains for weight i. All weights after the front have
        mu_i x_i^2 <= price (l_j - l_0) for the least length l_j of another value.
        """
        if not bool(state.zero.any(-1).all()):
            return torch.full_like(which, self.x.shape[-1])
        other = state.lengths.masked_fill(state.zero, torch.inf).amin(-1)
        longer = other - state.lengths.masked_fill(~state.zero, torch.inf).amin(-1)
        bound = (price * longer).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        bound = -(bound - 1e-6 * bound.abs().nan_to_num(posinf=0.0)).to(self.losses.dtype)
        if len(self.losses) == 1:
            return torch.searchsorted(self.losses[0], bound)
        return torch.searchsorted(self.losses[which], bound.unsqueeze(-1)).squeeze(-1)


class Swept(NamedTuple):
    """The cells of states, and what the next sweep starts from.

    Attributes:
        state: the values and lengths (S, K) that the codes are the best for.
        after: the best values for these codes, and the best lengths.
        counts: how many weights have each code (S, K).
        objective: sum mu_i (theta_i^2 - 2 x_i theta_i) + price bits, of these codes and the values
            `after` (S,).
    """

    state: Candidates
    after: Candidates
    counts: Tensor
    objective: Tensor

    def where(self, chosen: Tensor, other: "Swept") -> "Swept":
        """Itself for the states (S,) that are chosen, else another."""
        return Swept(
            self.state.where(chosen, other.state),
            self.after.where(chosen, other.after),
            torch.where(chosen.unsqueeze(-1), self.counts, other.counts),
            torch.where(chosen, self.objective, other.objective),
        )

    @classmethod
    def together(cls, parts: "list[Swept]") -> "Swept":
        """The states of all parts."""
        state, after = (
            Candidates(*(torch.cat(fields) for fields in zip(*own, strict=True)))
            for own in ([p.state for p in parts], [p.after for p in parts])
        )
        counts, objective = [p.counts for p in parts], [p.objective for p in parts]
        return cls(state, after, torch.cat(counts), torch.cat(objective))

    def first(self, problems: int, count: int) -> Candidates:
        """Of the states of each problem, `after` of those of least objective: (R, count, K)."""
        each = self.objective.view(problems, -1)
        chosen = each.topk(min(count, each.shape[1]), largest=False).indices.unsqueeze(-1)
        return Candidates(
            *(f.unflatten(0, (problems, -1)).take_along_dim(chosen, 1) for f in self.after)
        )

    def best(self, problems: int) -> "Swept":
        """Of the states of each problem, as many for each, the one of least objective."""
        first = torch.arange(problems, device=self.objective.device)
        each = self.objective.view(problems, -1)
        places = first * each.shape[-1] + each.argmin(-1)
        state, after = (
            Candidates(*(field[places] for field in own)) for own in (self.state, self.after)
        )
        return Swept(state, after, self.counts[places], self.objective[places])


def descend_in_metric(
    data: Weighed, which: Tensor, start: Candidates, price: float, strict: Tensor, sweeps: int
) -> Swept:
    """At most so many sweeps from the states `start`, until no state's objective falls.

    Args:
        which: the problem of each state (S,).
        start: values, zeros and lengths (S, K).
        price: 2 alpha.
        strict: states (S,) whose objective is infinite where the 0 is idle.
    """
    best = sweep(data, which, start, price, strict)
    for _ in range(sweeps - 1):
        found, least = sweep(data, which, best.after, price, strict), best.objective
        better = found.objective < least - STILL * least.abs().nan_to_num(posinf=0.0)
        if not bool(better.any()):
            break
        best = found.where(better, best)
    return best


def apart(found: Candidates) -> tuple[Tensor, Candidates]:
    """The row (S,) that each of all candidates is of, and the candidates (S, K)."""
    rows, count, _ = found.values.shape
    which = torch.arange(rows, device=found.values.device).repeat_interleave(count)
    return which, Candidates(*(field.flatten(0, 1) for field in found))


def sweep(data: Weighed, which: Tensor, state: Candidates, price: float, strict: Tensor) -> Swept:
    """The best codes for values and lengths, the best values and lengths for these codes."""
    values, zero, lengths = state
    counts, masses, sums = (torch.zeros_like(values) for _ in range(3))
    for row, column in fronts_of(data, which, state, price):
        x, mu = data.x[which[row], column], data.mu[which[row], column]
        codes = coded(x, price / mu, values[row], lengths[row])
        numbers = data.numbers[column].expand(codes.shape)
        counts[row].scatter_add_(1, codes, numbers)
        terms = numbers * mu
        masses[row].scatter_add_(1, codes, terms)
        sums[row].scatter_add_(1, codes, terms.mul_(x))

    # all other weights are coded as 0
    counts += zero * (data.n - counts.sum(-1, keepdim=True))
    kept = zero | (masses == 0)
    means = torch.where(kept, values, sums / torch.where(kept, 1, masses))
    bits = bits_of(counts, zero)
    objective = (means * (means * masses - 2 * sums)).sum(-1) + price * bits
    objective.masked_fill_(strict & ((counts == 0) & zero).any(-1), torch.inf)
    after = Candidates(means, zero, -torch.log2(counts / data.n))
    return Swept(state, after, counts, objective)


def bits_of(counts: Tensor, zero: Tensor) -> Tensor:
    """The bits of codes that stand so often (..., K), and of the values in use."""
    return code_bits(counts).sum(-1) + ENTRY_BITS * ((counts > 0) & ~zero).sum(-1)


def fronts_of(
    data: Weighed, which: Tensor, state: Candidates, price: float, chunk: int = CHUNK
) -> Iterator[tuple[slice, slice]]:
    """Parts of some states, and of the weights that these may code by other values than the 0."""
    fronts, n = data.fronts(which, state, price), data.x.shape[-1]
    rows = max(1, chunk // n)
    for row in range(0, len(which), rows):
        front = int(fronts[row : row + rows].max())
        size = max(1, chunk // min(rows, len(which) - row))
        for column in range(0, front, size):
            yield slice(row, row + rows), slice(column, min(column + size, front))


def coded(x: Tensor, price: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """argmin over j of (x_i - c_j)^2 + price_i l_j: (r, n) for values and lengths (r, K).

    Less x_i^2 a cost is (-2 c_j, l_j, c_j^2) (x_i, price_i, 1)', so that all costs are one product
    of matrices.
    """
    used = lengths.isfinite()
    own = values.to(x.dtype)
    own = torch.stack([-2 * own, lengths.to(x.dtype), own.square()], -1)
    own[..., :2].masked_fill_(~used.unsqueeze(-1), 0.0)
    own[..., 2].masked_fill_(~used, torch.inf)
    price = price.clamp(max=torch.finfo(x.dtype).max / FINITE)
    found = []
    for first in range(0, x.shape[-1], PART):
        part = slice(first, first + PART)
        terms = torch.stack([x[:, part], price[:, part], torch.ones_like(x[:, part])], 1)
        found.append(_first_least(own @ terms))
    return torch.cat(found, -1)


def _first_least(costs: Tensor) -> Tensor:
    """argmin over K of costs (r, K, n), the first of equals: several times as fast as `argmin`. The
    costs are overwritten."""
    k = costs.shape[1]
    last = torch.arange(k - 1, -1, -1, dtype=costs.dtype, device=costs.device).view(-1, 1)
    least = costs.eq_(costs.amin(1, keepdim=True))  # as numbers, which is faster than as bools
    return (k - 1 - least.mul_(last).amax(1)).long()

"""The C step of `leco.EntropyCodebook` in a metric: where its descent starts, and on which weights
it tries the starts."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from leco.compressions.entropy_descent import Candidates, best_of, strict_rows
from leco.compressions.entropy_idle import TRIAL_SWEEPS, without_idle
from leco.compressions.entropy_metric_starts import starts_in_metric
from leco.compressions.entropy_starts import last_candidate, starting_candidates
from leco.compressions.entropy_weighed import (
    Swept,
    Weighed,
    apart,
    coded,
    descend_in_metric,
    fronts_of,
)
from leco.compressions.kmeans1d import MAX_SWEEPS
from leco.compressions.sorted_values import Sorted
from leco.theta import Codes, ZeroCodes

SAMPLE = 2**13  # weights of a row that the starts are tried on
TRIED = 4  # starts that go on after one sweep
KEPT = 2  # starts that go on with all weights, the best without the values that do not pay
WORK = 2**22  # evaluations of the rows that are looked at in one go


class Problems(NamedTuple):
    """Some rows and where their descents start.

    Attributes:
        scaled: the sample times the root of the rows' mean mu, sorted.
        root: of the mean mu (R, 1).
        plain: starts of the descent with one mu for each row, in `scaled`.
        whole, some: the rows with their metric, and a sample of them.
        starts: candidates (R, C, K).
        last: the last Theta (R, 1, K), where there is one.
        strict: rows (R,) whose 0 must be in use.
    """

    scaled: Sorted
    root: Tensor
    plain: Candidates
    whole: Weighed
    some: Weighed
    starts: Candidates
    last: Candidates | None
    strict: Tensor

    def parts(self) -> Iterator["Problems"]:
        """A few rows at a time, for the memory's sake."""
        rows, count, k = self.starts.values.shape
        size = max(1, WORK // max(count * self.some.x.shape[-1], k * k))
        for first in range(0, rows, size):
            part = slice(first, first + size)
            plain, starts, last = (
                None if s is None else Candidates(*(field[part] for field in s))
                for s in (self.plain, self.starts, self.last)
            )
            assert plain is not None
            assert starts is not None
            whole, some = self.whole.rows(part), self.some.rows(part)
            scaled, root, strict = self.scaled.rows(part), self.root[part], self.strict[part]
            yield Problems(scaled, root, plain, whole, some, starts, last, strict)


def family_in_metric(
    x: Tensor, mu: Tensor, k: int, with_zero: bool, theta: ZeroCodes | Codes | None
) -> Callable[[float], ZeroCodes | Codes]:
    """`EntropyCodebook.family` for weights mu of x's shape.

    The descent starts from the Theta that one mu for each row, its mean, gives for the sample; from
    weighted k-means codebooks, uniform grids and the last Theta. No sweep raises the objective: the
    codes are the best for the values and lengths, the weighted means the best values for the codes,
    and the lengths -log2 of their frequencies the best for the codes.

    A few sweeps from every start use a sample of at most `SAMPLE` weights of each row, which holds
    those of greatest mu_i x_i^2. The best starts and the last Theta go on with all weights.
    """
    problems = _problems(x, mu, k, with_zero, theta)

    def descend(alpha: float) -> ZeroCodes | Codes:
        found = [(part, _best(part, 2 * alpha)) for part in problems.parts()]
        indices = torch.cat([_codes(part.whole, best, 2 * alpha) for part, best in found])
        best = Swept.together([best for _, best in found])
        return _theta_of(best, indices, x, with_zero)

    return descend


def _problems(
    x: Tensor, mu: Tensor, k: int, with_zero: bool, theta: ZeroCodes | Codes | None
) -> Problems:
    """The rows of x with all that the descents at any price have in common."""
    whole = Weighed.of(x.view(-1, x.shape[-1]), mu.expand_as(x).reshape(-1, x.shape[-1]))
    some = whole.sample(SAMPLE)

    # one mu a row: the rows are scaled by its root, then it is 1
    root = whole.mu.mean(-1, keepdim=True, dtype=torch.float64).sqrt()
    scaled = Sorted((some.x * root).to(some.x.dtype))
    plain = starting_candidates(scaled, k, with_zero, None)

    # in the metric
    starts = starts_in_metric(some, k, with_zero)
    last = last_candidate(theta, len(whole.x), k, with_zero)
    if last is not None:
        starts = Candidates.joined([starts, last])
    strict = strict_rows(scaled, plain if last is None else last).squeeze(1) & with_zero
    return Problems(scaled, root, plain, whole, some, starts, last, strict)


def _best(own: Problems, price: float) -> Swept:
    """The best that was found for each row, for a price 2 alpha of a bit."""
    rows = len(own.strict)
    first = torch.arange(rows, device=own.strict.device)

    def descended(data: Weighed, starts: list[Candidates], sweeps: int) -> Swept:
        """From all starts (R, C, K) together."""
        which, start = apart(Candidates.joined(starts))
        return descend_in_metric(data, which, start, price, own.strict[which], sweeps)

    # sweeps of the sample: one from every start, some more from the best
    plain = best_of(own.scaled, own.plain, price)
    plain = plain._replace(values=plain.values / own.root.unsqueeze(1))
    tried = descended(own.some, [plain, own.starts], 1)
    tried = descended(own.some, [tried.first(rows, TRIED)], TRIAL_SWEEPS)
    lean = without_idle(own.some, tried.best(rows), price, own.strict)

    # on with all weights, and from the last Theta
    others = Candidates(*(field[:, 1:] for field in tried.first(rows, KEPT)))
    starts = [Candidates(*(f.unsqueeze(1) for f in lean.after)), others]
    starts += [] if own.last is None else [own.last]
    best = descended(own.whole, starts, TRIAL_SWEEPS).best(rows)
    after = descend_in_metric(own.whole, first, best.after, price, own.strict, MAX_SWEEPS)
    return after.where(after.objective < best.objective, best)


def _codes(data: Weighed, best: Swept, price: float) -> Tensor:
    """The codes (R, n), uint8, of the weights in the places that they were given in."""
    which = torch.arange(len(data.x), device=data.x.device)
    values, zero, lengths = best.state
    codes = zero.to(torch.uint8).argmax(-1, keepdim=True).to(torch.uint8).repeat(1, data.x.shape[1])
    for row, column in fronts_of(data, which, best.state, price):
        x, mu = data.x[row, column], data.mu[row, column]
        codes[row, column] = coded(x, price / mu, values[row], lengths[row]).to(torch.uint8)
    return torch.empty_like(codes).scatter_(-1, data.order, codes)


def _theta_of(best: Swept, codes: Tensor, x: Tensor, with_zero: bool) -> ZeroCodes | Codes:
    """The codes and values in increasing order, without those that no row uses."""
    values, zero, _ = best.after
    idle = (best.counts == 0) & ~zero

    # the 0 first, then the values in use, then the rest with the largest value
    largest = values.masked_fill(idle | zero, -torch.inf).amax(-1, keepdim=True)
    values = torch.where(idle, largest.nan_to_num(neginf=0.0), values)
    key = values.masked_fill(zero & with_zero, -torch.inf).masked_fill(idle, torch.inf)
    order = key.argsort(dim=-1, stable=True)
    rank = order.argsort(dim=-1).to(torch.uint8)
    needed = int((~idle).sum(-1).max())
    book = values.gather(-1, order)[:, :needed].to(x.dtype)
    indices = _ranks(rank, codes).view(x.shape)
    lead = x.shape[:-1]
    if not with_zero:
        return Codes(indices, book.view(*lead, -1))
    return ZeroCodes(indices, book[:, 1:].reshape(*lead, needed - 1))


def _ranks(rank: Tensor, codes: Tensor) -> Tensor:
    """rank (R, K) of each code (R, n), uint8."""
    if len(codes) == 1:
        return rank[0].index_select(0, codes[0].int()).unsqueeze(0)
    return rank.gather(-1, codes.long())

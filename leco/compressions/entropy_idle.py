"""Values of a codebook that do not pay: which ones `leco.EntropyCodebook` drops in a metric."""

import torch
from torch import Tensor

from leco.coding.contexts import code_bits
from leco.compressions.entropy_descent import ENTRY_BITS, Candidates
from leco.compressions.entropy_weighed import CHUNK, Swept, Weighed, descend_in_metric, fronts_of

SINGLE = 3  # of the values that seem to pay least, each is dropped alone
TRIAL_SWEEPS = 4


def without_idle(data: Weighed, best: Swept, price: float, strict: Tensor) -> Swept:
    """The descent goes on without the values other than 0 that do not pay.

    A round drops in turn each of the values that pay least by `objectives_without`, and some of
    them at once. The rounds end when none of these lowers the objective.
    """
    problems = len(best.objective)
    first = torch.arange(problems, device=best.objective.device)
    for _ in range(best.counts.shape[-1]):
        # states that lack some of the values
        reached = objectives_without(data, first, best, price)
        gone = _dropped(reached, best.objective)
        values, zero, lengths = (field.unsqueeze(1) for field in best.after)
        lengths = lengths.masked_fill(gone, torch.inf).flatten(0, 1)
        states = gone.shape[1]
        which, more = first.repeat_interleave(states), (-1, states, -1)
        start = Candidates(*(f.expand(more).flatten(0, 1) for f in (values, zero)), lengths)

        # the best of each problem
        found = descend_in_metric(data, which, start, price, strict[which], TRIAL_SWEEPS)
        found = found.best(problems)
        better = found.objective < best.objective
        if not bool(better.any()):
            break
        best = found.where(better, best)
    return best


def _dropped(reached: Tensor, objective: Tensor) -> Tensor:
    """Which values (R, T, K) each of T states lacks: one of those that pay least, or the first 2,
    4, 8 ... of those that lower the objective (R,) alone."""
    k = reached.shape[-1]
    rank = reached.argsort(-1).argsort(-1)
    some = reached.isfinite()
    found = [some & (rank == place) for place in range(min(SINGLE, k))]
    gains = reached < objective.unsqueeze(-1)
    size, most = 2, int(gains.sum(-1).max())
    while size < 2 * most and most > 1:
        found.append(gains & (rank < size))
        size *= 2
    return torch.stack(found, 1)


def objectives_without(data: Weighed, which: Tensor, best: Swept, price: float) -> Tensor:
    """The objective (S, K) without each value, where its weights go to their second best ones and
    all other values stay.

    It is infinite for the 0, for values not in use, and where there is one value only.
    """
    values, zero, lengths = state = best.after
    k = values.shape[-1]
    found = torch.full_like(values, torch.inf)
    if k == 1:
        return found
    more, moved = torch.zeros_like(values), values.new_zeros(len(values), k * k)
    for row, column in fronts_of(data, which, state, price):
        x, mu = data.x[which[row], column], data.mu[which[row], column]
        step = max(1, CHUNK * 16 // (k * len(x)))
        for start in range(0, x.shape[-1], step):
            own, d = x[:, start : start + step, None], mu[:, start : start + step, None]
            numbers = data.numbers[column][start : start + step]
            squares = (own - values[row, None].to(x.dtype)).square_()
            costs = squares + price / d * lengths[row, None].to(x.dtype)
            costs.masked_fill_(lengths[row, None].isinf(), torch.inf)
            first, second = costs.topk(2, largest=False).indices.unbind(-1)
            farther = squares.gather(-1, second[..., None]) - squares.gather(-1, first[..., None])
            terms = (farther * d).squeeze(-1) * numbers
            more[row].scatter_add_(1, first, terms)
            moved[row].scatter_add_(1, k * first + second, numbers.expand(first.shape))

    # numbers of codes once the weights of value j have moved, [.., j, K]
    moved = moved.unflatten(-1, (k, k))
    counts = best.counts.unsqueeze(-2) + moved
    own = torch.eye(k, dtype=torch.bool, device=values.device)
    counts = counts.masked_fill(own, 0.0)
    used = ((counts > 0) & ~zero.unsqueeze(-2)).sum(-1)
    bits = code_bits(counts).sum(-1) + ENTRY_BITS * used
    now = code_bits(best.counts).sum(-1) + ENTRY_BITS * ((best.counts > 0) & ~zero).sum(-1)
    after = best.objective.unsqueeze(-1) + more + price * (bits - now.unsqueeze(-1))
    several = lengths.isfinite().sum(-1, keepdim=True) > 1
    return torch.where(several & ~zero & lengths.isfinite(), after, found)

"""Values of a codebook that do not pay: which ones `leco.EntropyCodebook` drops in a metric."""

import torch
from torch import Tensor

from leco.compressions.entropy_descent import Candidates
from leco.compressions.entropy_weighed import Swept, Weighed, bits_of, descend_in_metric, fronts_of

SINGLE = 3  # of the values that seem to pay least, each is dropped alone
TRIAL_SWEEPS = 4
WIDE = 2**20  # costs of weights by values that are looked at in one go


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
        values, zero, lengths = (field.unsqueeze(1).expand_as(gone) for field in best.after)
        lengths = lengths.masked_fill(gone, torch.inf)
        start = Candidates(*(field.flatten(0, 1) for field in (values, zero, lengths)))
        which = first.repeat_interleave(gone.shape[1])

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
    values, zero, lengths = best.after
    k = values.shape[-1]
    found = torch.full_like(values, torch.inf)
    if k == 1:
        return found
    farther, moved = _second_best(data, which, best.after, price)

    # numbers of codes once the weights of value j have moved, [.., j, K]
    own = torch.eye(k, dtype=torch.bool, device=values.device)
    counts = (best.counts.unsqueeze(-2) + moved).masked_fill(own, 0.0)

    # the change of the distortion and of the bits
    bits = bits_of(counts, zero.unsqueeze(-2)) - bits_of(best.counts, zero).unsqueeze(-1)
    after = best.objective.unsqueeze(-1) + farther + price * bits
    several = lengths.isfinite().sum(-1, keepdim=True) > 1
    return torch.where(several & ~zero & lengths.isfinite(), after, found)


def _second_best(
    data: Weighed, which: Tensor, state: Candidates, price: float
) -> tuple[Tensor, Tensor]:
    """The distortion (S, K) that the weights of each value have more at their second best values,
    and how many go to which (S, K, K)."""
    values, _, lengths = state
    k = values.shape[-1]
    more, moved = torch.zeros_like(values), values.new_zeros(len(values), k * k)
    for row, column in fronts_of(data, which, state, price, WIDE // k):
        x, mu = data.x[which[row], column], data.mu[which[row], column]
        numbers, own = data.numbers[column], values[row, None].to(x.dtype)
        squares = (x.unsqueeze(-1) - own).square_()
        costs = (price / mu).unsqueeze(-1) * lengths[row, None].to(x.dtype) + squares
        costs.masked_fill_(lengths[row, None].isinf(), torch.inf)
        first, second = costs.topk(2, largest=False).indices.unbind(-1)
        nearer, farther = (squares.gather(-1, c[..., None]).squeeze(-1) for c in (first, second))
        more[row].scatter_add_(1, first, numbers * mu * (farther - nearer))
        moved[row].scatter_add_(1, k * first + second, numbers.expand(first.shape))
    return more, moved.unflatten(-1, (k, k))

"""AWQ: the columns of a layer scaled by the size of their inputs, then rounded in groups."""

import torch
from torch import Tensor

from benchmarks.baselines.oneshot_grids import Grid, rtn

SHARES = 20  # exponents of the inputs' sizes, and steps from the whole range down to 0


def awq(w0: Tensor, h: Tensor, bits: int, group: int = 64) -> Tensor:
    """AWQ: round W diag(s), of clipped ranges, and divide by s.

    s = a^p / sqrt(max a^p min a^p), where a_i = sqrt(H_ii) is the size of input i and p the one of
    0, 0.05, ... 0.95 that has the least layer error. Then each group is clipped to the share of its
    largest magnitude, of 1, 0.95, ... 0.55, that has the least error of the group alone. Grids have
    a zero point and the range of the clipped weights. Lin et al., arXiv 2306.00978, sections 3.2
    and 4.1, and the authors' code.

    That code takes the mean magnitude for a, one s for all matrices of an input so that the layer
    before takes it up, judges those by the output of the attention or the feed-forward layer, and
    does not clip queries and keys.

    Args:
        w0: (out, in).
        h: second moments (in, in), not damped.
        bits: of a code.
        group: neighbours in a row that share a grid; a divisor of in.
    """
    grid = Grid(bits, group, shrunk=False)
    scale = best_scale(w0, h, grid)
    clipped = clip(w0 * scale, h / torch.outer(scale, scale), grid)
    return rtn(clipped, grid) / scale


def best_scale(w0: Tensor, h: Tensor, grid: Grid) -> Tensor:
    """s (in,)."""
    h = h.to(w0.dtype)
    size, least, best = h.diagonal().sqrt(), torch.inf, torch.ones_like(w0[0])
    for i in range(SHARES):
        scale = size.pow(i / SHARES).clamp_(min=1e-4)
        scale /= (scale.max() * scale.min()).sqrt()
        change = rtn(w0 * scale, grid) / scale - w0
        error = float(((change @ h) * change).sum())
        if error < least:
            least, best = error, scale
    return best


def clip(w: Tensor, h: Tensor, grid: Grid) -> Tensor:
    """The weights, each group within the best share of its largest magnitude."""
    groups = w.unflatten(1, (-1, grid.group))  # (out, groups, group)
    count, own = groups.shape[1], h.to(w.dtype).view(groups.shape[1], grid.group, -1, grid.group)
    own = own[range(count), :, range(count)]  # H of each group alone
    whole = groups.abs().amax(-1, keepdim=True)

    least, bound = torch.full_like(whole, torch.inf), whole
    for i in range(SHARES // 2):
        tried = whole * (1 - i / SHARES)
        change = rtn(groups.clamp(-tried, tried).flatten(1), grid).view_as(groups) - groups
        error = torch.einsum("ogi,gij,ogj->og", change, own, change)[..., None]
        better = error < least
        least, bound = torch.where(better, error, least), torch.where(better, tried, bound)
    return groups.clamp(-bound, bound).flatten(1)

"""The best k cells of many small one-dimensional problems at once, by dynamic programming on dense
tables."""

import torch
from torch import Tensor
from torch.nn.functional import pad

TABLE = 2**19  # gains of cells of all problems of a part, at most: they stay in cache
LAYERS = 2**20  # entries of the program's layers, of all problems that are traced back together
DEVICE = 2**6  # times as many on a GPU


def best_cuts(masses: Tensor, sums: Tensor, k: int) -> Tensor:
    """Where the k cells of least error end among given candidates, (R, k-1) indices that increase.

    With m_i and s_i the weight and the weighted sum of all values before candidate i, a cell from i
    to j at its mean lowers sum d x^2 by g(i, j) = (s_j - s_i)^2 / (m_j - m_i). The k cells that
    lower it most are a path over the candidates: D_{t+1}[j] = max over i < j of D_t[i] + g(i, j).
    Exact, up to rounding in the dtype of `sums`. O(k m^2) for m candidates, which suits small
    problems: every operation is on all problems of a part. A cell runs from one candidate to a
    later one, so t cells end at one of m - k + 1 of them.

    Args:
        masses: weights before each candidate, (R, m+1) or (1, m+1), from 0 on, not decreasing.
        sums: weighted sums before each candidate, (R, m+1), in float32 or float64. Sums of values
            less their mean lose fewest digits.
        k: cells, at least 2 and at most m.
    """
    rows, ends = sums.shape
    width, more = ends - k, 1 if sums.device.type == "cpu" else DEVICE
    masses, line = masses.to(sums.dtype), 2 * width
    part = max(1, min(rows, more * TABLE // (ends * line)))
    part = -(-rows // -(-rows // part))  # of nearly equal parts
    whole = max(part, min(rows, more * LAYERS // (width * (k - 1))) // part * part)
    layers = sums.new_empty(k - 1, width, min(rows, whole))

    # the ends of the lines of the table, with cells that end before they begin, stay as they are
    gains, room = sums.new_empty(ends, line, part), sums.new_empty(ends * width * part)
    gains[:, width:] = -torch.inf
    found = []
    for first in range(0, rows, whole):
        s = sums[first : first + whole].T.contiguous()
        m = (masses[first : first + whole] if len(masses) == rows else masses).T.contiguous()
        for start in range(0, s.shape[1], part):
            columns = slice(start, min(start + part, s.shape[1]))
            mine = (m[:, columns] if m.shape[1] > 1 else m, s[:, columns])
            if mine[1].shape[1] < part:
                gains = gains[..., : mine[1].shape[1]].contiguous()
            _fill_gains_(gains, *mine, room)
            _fill_layers_(layers[..., columns], gains, *mine, room)
        found.append(_traced(layers[..., : s.shape[1]], m, s))
    return torch.cat(found)


def _fill_gains_(gains: Tensor, masses: Tensor, sums: Tensor, room: Tensor) -> None:
    """Set gains[i, l] of (m+1, 2 width, G) to g(i, i + 1 + l) for l below the width."""
    width = gains.shape[1] // 2

    def later(t: Tensor) -> Tensor:
        return pad(t, (0, 0, 0, width))[1:].unfold(0, width, 1).movedim(-1, 1)

    table = gains[:, :width]
    shape = torch.Size((len(sums), width, masses.shape[1]))
    mass = room[: shape.numel()].view(shape)
    torch.sub(later(masses), masses.unsqueeze(1), out=mass)
    torch.maximum(mass, _least_mass(masses), out=mass)
    torch.sub(later(sums), sums.unsqueeze(1), out=table)
    table.square_().div_(mass)


def _fill_layers_(
    layers: Tensor, gains: Tensor, masses: Tensor, sums: Tensor, room: Tensor
) -> None:
    """Set `layers` (k-1, width, G): D_t at the candidates t, t+1, ... for t from 1 on."""
    _, line, problems = gains.shape
    width = line // 2
    buffer = room[: width**2 * problems].view(width, width, problems)
    first = slice(1, 1 + width)
    layers[0] = sums[first].square() / torch.maximum(masses[first], _least_mass(masses))
    for t in range(1, len(layers)):
        # (a, b) is the cell from t + a to t + 1 + b: entry b - a of line t + a, and where b < a the
        # end of the line before, which is -infinity
        cells = gains.as_strided(
            (width, width, problems),
            ((line - 1) * problems, problems, 1),
            t * line * problems,
        )
        torch.add(layers[t - 1].unsqueeze(1), cells, out=buffer)
        torch.amax(buffer, 0, out=layers[t])


def _least_mass(masses: Tensor) -> Tensor:
    """A mass above 0 that no cell of interest is below, (1, G) or (1, 1)."""
    return masses[-1:] * (1e-9 if masses.dtype == torch.float32 else 1e-30)


def _traced(layers: Tensor, masses: Tensor, sums: Tensor) -> Tensor:
    """The indices (G, k-1) between the cells of the path of largest gain, found from the last one
    back."""
    steps, width, problems = layers.shape
    least = _least_mass(masses)
    falling = torch.arange(width, 0, -1, dtype=sums.dtype, device=sums.device).unsqueeze(1)
    end = torch.full((1, problems), len(sums) - 1, device=sums.device)
    cuts = []
    for t in range(steps, 0, -1):
        # g(i, end) and D_t[i] at the candidates t, t+1, ...
        own, mass = sums[t : t + width], masses[t : t + width]
        gain = (sums.gather(0, end) - own).square_()
        last = masses.expand(-1, problems).gather(0, end)
        gain.div_(torch.maximum(last - mass, least)).add_(layers[t - 1])
        gain.masked_fill_(falling <= (width + t) - end, -torch.inf)

        # the first of the largest: several times faster than argmax over the first dimension
        torch.ge(gain, gain.amax(0), out=gain)
        end = (width + t) - gain.mul_(falling).amax(0, keepdim=True).long()
        cuts.append(end.squeeze(0))
    return torch.stack(cuts[::-1], dim=-1)

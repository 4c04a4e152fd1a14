"""Entropy-coded quantization: the bits of the coded indices are the cost, so that training and
lossless coding work together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from leco.coding.contexts import PlaceLengths, code_bits, position_bits
from leco.compressions.checks import check_count, check_number
from leco.compressions.kmeans1d import MAX_SWEEPS, lloyd, optimal_codebook
from leco.compressions.protocol import Penalty
from leco.compressions.sorted_values import QUERIES, Sorted, cells_of
from leco.theta import Codes, ZeroCodes

ENTRY_BITS = 40  # of a value in a file: itself, in float32, and its weight in the table
# k-means codebooks of fewer values are also a start with 0 beside them: for weights that are all
# far from 0
BESIDE = 5
CUTS = 256  # borders that the starting k-means codebooks are found among
STEPS = 12  # of the uniform grids that the descent starts from
MATRIX_SWEEPS = 4
TRIAL_SWEEPS = 8  # of each start, before only the best goes on


@dataclass(frozen=True)
class EntropyCodebook(Penalty[ZeroCodes | Codes]):
    """min mu/2 ||x - theta||^2 + alpha bits(theta), theta_i one of k values, 0 among them: pruning
    and quantization priced as they are coded.

    bits = n H(f) + 40 (values used), H(f) = -sum_j f_j log2 f_j with the frequencies f of the
    values among the n weights. A descent step in three moves, none of which raises the objective:

        lengths    l_j = -log2 f_j                                      the best code for given
                   frequencies
        cells      z_i = argmin_j mu/2 (x_i - c_j)^2 + alpha l_j        intervals, whose borders
                   give way to frequent values
        values     c_j = mean of the x_i in cell j; 0 stays 0

    It goes on from the last Theta, from k-means codebooks of several sizes up to k (whose value
    nearest to 0 becomes 0; 0 also joins few values) and from uniform grids; values that do not pay
    are dropped. So it is never worse than the last Theta, nor than such k-means followed by coding.
    On sorted data a sweep is O(k^2 + k log n); the sort, O(n log n), is most of the time. Chou,
    Lookabaugh and Gray, IEEE Trans. ASSP 37, 1989 (entropy-constrained quantization).

    Args:
        alpha: price of a bit.
        k: the most values.
        zero: whether 0 is one of them; it is then in use wherever x lies on both sides of 0 (unless
            the last Theta leaves it idle). Without it the most frequent value is some small one,
            and nothing is pruned.

    >>> import torch, leco
    >>> x = torch.tensor([0.1, -0.2, 0.0, 0.3, 5.0, 5.2, -0.1, 0.2])
    >>> leco.EntropyCodebook(alpha=0.01, k=4).compress(x, mu=1.0).decompress()
    tensor([0.0000, 0.0000, 0.0000, 0.0000, 5.1000, 5.1000, 0.0000, 0.0000])
    """

    alpha: float
    k: int = 16
    zero: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("EntropyCodebook: alpha", self.alpha)
        check_count("EntropyCodebook: k", self.k, 1, 256)

    def scaling(self) -> int | None:
        return 2

    def family(
        self, x: Tensor, mu: float, theta: ZeroCodes | Codes | None = None
    ) -> Callable[[float], ZeroCodes | Codes]:
        data = Sorted(x.clone(memory_format=torch.contiguous_format).view(-1, x.shape[-1]))
        starts = _starts(data, self.k, self.zero, theta)
        return lambda alpha: _theta(
            x, data, _best(data, starts, 2 * alpha / mu), 2 * alpha / mu, self.zero
        )

    def usage(self, theta: ZeroCodes | Codes) -> float:
        return float(entropy_bits(theta).sum())


@dataclass(frozen=True)
class EntropyMatrix(Penalty[ZeroCodes]):
    """`EntropyCodebook` of one matrix x (m, n) whose positions are coded by rows and columns: empty
    ones, such as dead units, cost next to nothing.

    bits = positions, by the adaptive model of `leco.coding.contexts`, + N H(f) for the values of
    the N nonzero weights + 40 (values used). A nonzero weight in a row and a column with few others
    costs more bits, so structure comes out. A descent step: from the last Theta and from that of
    `EntropyCodebook`, in turn code lengths (of values, and log2((1 - p_ij)/p_ij) of places, with
    p_ij = r_i c_j / N of the last Theta's row and column counts), codes by distortion + alpha
    lengths, and values; the Theta of least objective among all of these is kept. So it is never
    worse than either start. O(m n) a sweep.

    Args:
        alpha: price of a bit.
        k: the most values, 0 included.

    >>> import torch, leco
    >>> x = torch.zeros(20, 30)
    >>> x[3, :15], x[:, 4] = 1.0, -1.0
    >>> single, matrix = leco.EntropyCodebook(0.01, 4), leco.EntropyMatrix(0.01, 4)
    >>> theta = matrix.compress(x, mu=1.0)
    >>> matrix.usage(theta) < 0.9 * single.usage(single.compress(x.view(-1), mu=1.0))
    True
    """

    alpha: float
    k: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("EntropyMatrix: alpha", self.alpha)
        check_count("EntropyMatrix: k", self.k, 2, 256)

    def scaling(self) -> int | None:
        return 2

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) != 2:
            raise ValueError(
                f"EntropyMatrix: takes one matrix, not an array of shape {tuple(shape)}; use the view leco.Matrix()"
            )

    def family(
        self, x: Tensor, mu: float, theta: ZeroCodes | None = None
    ) -> Callable[[float], ZeroCodes]:
        flat = EntropyCodebook(0.0, self.k).family(x.reshape(-1), mu)

        def descend(alpha: float) -> ZeroCodes:
            cold = flat(alpha)
            starts = [ZeroCodes(cold.indices.view(x.shape), cold.codebook)]
            if (
                theta is not None
                and theta.codebook.dim() == 1
                and 0 < theta.codebook.shape[0] < self.k
            ):
                starts.append(theta)
            return _descend_matrix(x, starts, 2 * alpha / mu)

        return descend

    def usage(self, theta: ZeroCodes) -> float:
        return float(matrix_bits(theta))


def matrix_bits(theta: ZeroCodes) -> Tensor:
    """Positions, N H(f) + 40 (values used): a scalar."""
    counts = theta.indices.reshape(-1).bincount(minlength=theta.codebook.shape[-1] + 1)[1:].double()
    return (
        position_bits(theta.indices != 0)
        + code_bits(counts).sum()
        + ENTRY_BITS * counts.count_nonzero()
    )


def _descend_matrix(x: Tensor, starts: list[ZeroCodes], price: float) -> ZeroCodes:
    """The best of the starts and of what a few sweeps from each of them give."""
    found = []
    for theta in starts:
        found.append(theta)
        for _ in range(MATRIX_SWEEPS):
            if theta.codebook.numel():
                theta = _sweep_matrix(x, theta, price)
        found.append(theta)
    return min(
        found,
        key=lambda theta: float(
            (x - theta.decompress()).square().sum(dtype=torch.float64) + price * matrix_bits(theta)
        ),
    )


def _sweep_matrix(x: Tensor, theta: ZeroCodes, price: float) -> ZeroCodes:
    """Codes for the lengths of the last ones, and values for these codes."""
    places = PlaceLengths(theta.indices != 0)
    counts = theta.indices.reshape(-1).bincount(minlength=theta.codebook.shape[-1] + 1)[1:].double()
    values, order = theta.codebook.double().sort()
    lengths = -torch.log2(counts / counts.sum())[order]
    edges = _edges(
        _State(
            *(
                field.view(1, 1, -1)
                for field in (values, torch.zeros_like(values, dtype=torch.bool), lengths)
            )
        ),
        price,
    )
    least = price * (float(lengths.min()) + places.least)  # a value gains at most x^2 less this
    place = (
        (x.reshape(-1).abs() > least**0.5 * (1 - 1e-6)).nonzero().squeeze(1)
        if least > 0
        else torch.arange(x.numel(), device=x.device)
    )
    own = x.reshape(-1)[place]
    nearest = cells_of(own, edges.view(-1).to(x.dtype))
    value, length = values.to(x.dtype)[nearest.long()], lengths.to(x.dtype)[nearest.long()]
    # x^2 - (x - c)^2 against the bits
    kept = value * (2 * own - value) > price * (length + places.at(place).to(x.dtype))
    place, own, codes = place[kept], own[kept], nearest[kept].long()
    number = codes.bincount(minlength=len(values))
    total = torch.zeros(len(values), dtype=torch.float64, device=x.device).index_add_(
        0, codes, own.double()
    )
    used = number > 0
    indices = torch.zeros(x.numel(), dtype=theta.indices.dtype, device=x.device)
    indices[place] = used.cumsum(0)[codes].to(indices.dtype)
    return ZeroCodes(indices.view(x.shape), (total / number.clamp(min=1))[used].to(x.dtype))


def entropy_bits(theta: ZeroCodes | Codes) -> Tensor:
    """n H(f) + 40 (values used) of each problem, (...)."""
    counts = _counts(theta).double()
    learned = counts[:, 1:] if isinstance(theta, ZeroCodes) else counts
    return (code_bits(counts).sum(-1) + ENTRY_BITS * learned.count_nonzero(-1)).view(
        theta.indices.shape[:-1]
    )


def _counts(theta: ZeroCodes | Codes) -> Tensor:
    """How often each code stands in each problem, (R, K)."""
    rows = theta.indices.reshape(-1, theta.indices.shape[-1])
    codes = theta.codebook.shape[-1] + isinstance(theta, ZeroCodes)
    return torch.stack([row.bincount(minlength=codes) for row in rows])


class _State(NamedTuple):
    """C candidates for R problems: increasing values (R, C, K), one of them the 0 (`zero`), code
    lengths, infinite for a value not in use."""

    values: Tensor
    zero: Tensor
    lengths: Tensor

    def take(self, chosen: Tensor) -> "_State":
        """One candidate (R, 1) of each problem."""
        return _State(*(field.take_along_dim(chosen.unsqueeze(-1), 1) for field in self))

    def where(self, chosen: Tensor, other: "_State") -> "_State":
        """Itself for the candidates (R, C) that are chosen, else another."""
        return _State(
            *(
                torch.where(chosen.unsqueeze(-1), own, its)
                for own, its in zip(self, other, strict=True)
            )
        )


def _edges(state: _State, price: float) -> Tensor:
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


def _sweep(
    data: Sorted, state: _State, price: float, strict: Tensor | None = None
) -> tuple[_State, Tensor]:
    """Cells, values and lengths once; ||x - theta||^2 - ||x||^2 + price bits of the result, (R, C).

    Infinite where 0 is idle in a `strict` problem, (R, 1): a small value in its place would have a
    little less distortion, and prune nothing.
    """
    counts, sums = data.cells(_edges(state, price))
    counts = counts.double()
    means = torch.where(state.zero | (counts == 0), state.values, sums / counts.clamp(min=1))
    lengths = -torch.log2(counts / data.n)
    bits = code_bits(counts).sum(-1) + ENTRY_BITS * ((counts > 0) & ~state.zero).sum(-1)
    objective = (means * (means * counts - 2 * sums)).sum(-1) + price * bits
    if strict is not None:
        objective = torch.where(strict & ((counts == 0) & state.zero).any(-1), torch.inf, objective)
    order = means.argsort(dim=-1, stable=True)  # a mean may have crossed the 0
    return _State(*(field.gather(-1, order) for field in (means, state.zero, lengths))), objective


def _descend(
    data: Sorted, state: _State, price: float, strict: Tensor, sweeps: int
) -> tuple[_State, Tensor]:
    """Sweeps until no candidate's objective falls: the state of each whose cells have the least,
    and that."""
    best, (state, least) = state, _sweep(data, state, price, strict)
    for _ in range(sweeps - 1):
        after, objective = _sweep(data, state, price, strict)
        better = objective < least - 1e-9 * least.abs().nan_to_num(posinf=0.0)
        if not bool(better.any()):
            break
        best, state, least = state.where(better, best), after, torch.where(better, objective, least)
    return best, least


def _best(data: Sorted, starts: _State, price: float) -> _State:
    """From every start a few sweeps; the best to the end; then without each value that does not
    pay."""
    # at a time, for the memory's sake
    rows = max(1, QUERIES // (starts.values[0].numel() * starts.values.shape[-1]))
    found = []
    for first in range(0, len(starts.values), rows):
        part = slice(first, first + rows)
        own, state = data.rows(part), _State(*(field[part] for field in starts))
        strict = _strict(own, state)
        state, objective = _descend(own, state, price, strict, TRIAL_SWEEPS)
        state, objective = _descend(
            own, state.take(objective.argmin(-1, keepdim=True)), price, strict, MAX_SWEEPS
        )
        for _ in range(starts.values.shape[-1]):
            fewer, reached = _descend(own, _without_each(state), price, strict, TRIAL_SWEEPS)
            best = reached.argmin(-1, keepdim=True)
            better = reached.gather(-1, best) < objective
            if not bool(better.any()):
                break
            state, objective = _descend(
                own, fewer.take(best).where(better, state), price, strict, MAX_SWEEPS
            )
        found.append(state)
    return _State(*(torch.cat(fields) for fields in zip(*found, strict=True)))


def _strict(data: Sorted, starts: _State) -> Tensor:
    """The problems (R, 1) with weights on both sides of 0, but for one whose last Theta, the last
    start, leaves 0 idle."""
    both = (data.values[:, :1] < 0) & (data.values[:, -1:] > 0)
    return both & (starts.zero & starts.lengths.isfinite())[:, -1].any(-1, keepdim=True)


def _without_each(state: _State) -> _State:
    """K candidates from one (R, 1, K): each lacks one value other than 0."""
    k = state.values.shape[-1]
    gone = torch.eye(k, dtype=torch.bool, device=state.values.device)
    values, zero, lengths = (field.expand(-1, k, -1) for field in state)
    several = lengths.isfinite().sum(-1, keepdim=True) > 1
    return _State(values, zero, torch.where(gone & several & ~zero, torch.inf, lengths))


def _starts(data: Sorted, k: int, with_zero: bool, theta: ZeroCodes | Codes | None) -> _State:
    """Candidates (R, C, k): codebooks with the code lengths of their nearest-value cells, and the
    last Theta with its own."""
    values = data.values
    books = []
    for size in sorted(
        {min(size, k, data.n) for size in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64, 128, 256)}
    ):
        codebook = lloyd(data, optimal_codebook(data, size, data.candidates(max(4 * size, CUTS))))
        if with_zero:
            if size < min(k, BESIDE):
                books.append(
                    torch.nn.functional.pad(
                        torch.nn.functional.pad(codebook, (0, 1)),
                        (0, k - size - 1),
                        value=torch.nan,
                    )
                )
            codebook = codebook.scatter(-1, codebook.abs().argmin(-1, keepdim=True), 0.0)
        books.append(torch.nn.functional.pad(codebook, (0, k - size), value=torch.nan))
    # with its sign: the odd value is on its side
    largest = torch.where(-values[:, :1] > values[:, -1:], values[:, :1], values[:, -1:]).double()
    grid = torch.arange(k, dtype=torch.float64, device=values.device) - (k - 1) // 2
    books += [
        2 * largest / k * step * grid
        for step in torch.logspace(-1.5, 0, STEPS, dtype=torch.float64, device=values.device)
    ]
    starts = torch.stack(books, dim=1)
    used = ~starts.isnan()
    zero = (starts == 0) & with_zero
    state = _ordered(
        starts.nan_to_num(), zero & (zero.cumsum(-1) == 1), torch.where(used, 0.0, torch.inf)
    )
    state = _sweep(data, state, 0.0)[0]
    warm = _from_theta(theta, len(values), k, with_zero)
    return (
        state
        if warm is None
        else _State(*(torch.cat(fields, dim=1) for fields in zip(state, warm, strict=True)))
    )


def _from_theta(
    theta: ZeroCodes | Codes | None, rows: int, k: int, with_zero: bool
) -> _State | None:
    """The last Theta as a candidate (R, 1, k), where it has a place among them."""
    if (
        theta is None
        or theta.indices.shape[:-1].numel() != rows
        or isinstance(theta, ZeroCodes) != with_zero
    ):
        return None
    values = theta.codebook.double().view(rows, 1, -1)
    if with_zero:
        values = torch.nn.functional.pad(values, (1, 0))
    if values.shape[-1] > k:
        return None
    counts = torch.nn.functional.pad(
        _counts(theta).double().unsqueeze(1), (0, k - values.shape[-1])
    )
    zero = torch.zeros_like(counts, dtype=torch.bool)
    zero[..., 0] = with_zero
    return _ordered(
        torch.nn.functional.pad(values, (0, k - values.shape[-1])),
        zero,
        -torch.log2(counts / counts.sum(-1, keepdim=True)),
    )


def _ordered(values: Tensor, zero: Tensor, lengths: Tensor) -> _State:
    order = values.argsort(dim=-1, stable=True)
    return _State(*(field.gather(-1, order) for field in (values, zero, lengths)))


def _theta(
    x: Tensor, data: Sorted, state: _State, price: float, with_zero: bool
) -> ZeroCodes | Codes:
    """The codes of x and their means, values in increasing order; those that no problem of the
    batch uses are left out."""
    edges = _edges(state, price)
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

"""Where the descent of `leco.EntropyCodebook` starts: k-means codebooks, uniform grids and the last
Theta, as candidates (R problems, C candidates, K values)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from leco.compressions.entropy_descent import Candidates, counts_of, update
from leco.compressions.kmeans1d import lloyd, optimal_codebook
from leco.compressions.sorted_values import Sorted
from leco.theta import Codes, ZeroCodes

# k-means codebooks of fewer values are also a start with 0 beside them: for weights that are all
# far from 0
BESIDE = 5
CUTS = 256  # borders that the starting k-means codebooks are found among
STEPS = 12  # of the uniform grids that the descent starts from


def starting_candidates(
    data: Sorted, k: int, with_zero: bool, theta: ZeroCodes | Codes | None
) -> Candidates:
    """Candidates (R, C, k): codebooks with the code lengths of their nearest-value cells, and the
    last Theta with its own."""
    # k-means codebooks
    values = data.values
    books = _codebooks(data, k, with_zero)

    # uniform grids from the largest value, with its sign
    largest = torch.where(-values[:, :1] > values[:, -1:], values[:, :1], values[:, -1:]).double()
    books += uniform_grids(largest, k)

    # the lengths of the nearest-value cells
    starts = torch.stack(books, dim=1)
    used = ~starts.isnan()
    zero = (starts == 0) & with_zero
    state = _ordered(
        starts.nan_to_num(), zero & (zero.cumsum(-1) == 1), torch.where(used, 0.0, torch.inf)
    )
    state = update(data, state, 0.0)[0]

    # the last Theta, with its own lengths
    warm = last_candidate(theta, len(values), k, with_zero)
    return state if warm is None else Candidates.joined([state, warm])


def uniform_grids(largest: Tensor, k: int) -> Iterator[Tensor]:
    """Multiples (R, k) of a step, 0 among them, up to the value of largest magnitude (R, 1) and
    below: the odd value is on its side."""
    grid = torch.arange(k, dtype=torch.float64, device=largest.device) - (k - 1) // 2
    for share in torch.logspace(-1.5, 0, STEPS, dtype=torch.float64).tolist():
        yield 2 * largest / k * share * grid


def last_candidate(
    theta: ZeroCodes | Codes | None, rows: int, k: int, with_zero: bool
) -> Candidates | None:
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
        counts_of(theta).double().unsqueeze(1), (0, k - values.shape[-1])
    )
    zero = torch.zeros_like(counts, dtype=torch.bool)
    zero[..., 0] = with_zero
    return _ordered(
        torch.nn.functional.pad(values, (0, k - values.shape[-1])),
        zero,
        -torch.log2(counts / counts.sum(-1, keepdim=True)),
    )


def _ordered(values: Tensor, zero: Tensor, lengths: Tensor) -> Candidates:
    order = values.argsort(dim=-1, stable=True)
    return Candidates(*(field.gather(-1, order) for field in (values, zero, lengths)))


def _codebooks(data: Sorted, k: int, with_zero: bool) -> list[Tensor]:
    """k-means codebooks (R, k) of several sizes, the rest NaN. With a zero, the value nearest to 0
    becomes 0; few values also stand with 0 beside them."""
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
    return books

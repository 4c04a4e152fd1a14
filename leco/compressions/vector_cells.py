"""Lloyd's algorithm in d dimensions, for many problems at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 2**18  # distances held at once: they stay in cache


class Vectors(NamedTuple):
    """Vectors x (B, n, d) of B problems and, in a metric, the weight of each entry, (B, n, d)."""

    x: Tensor
    weights: Tensor | None

    def part(self, rows: slice, columns: slice = slice(None)) -> "Vectors":
        """Some vectors of some problems."""
        d = self.weights
        return Vectors(self.x[rows, columns], None if d is None else d[rows, columns])

    def repeated(self, times: int) -> "Vectors":
        """Each problem several times."""
        d = self.weights
        return Vectors(
            self.x.repeat_interleave(times, 0),
            None if d is None else d.repeat_interleave(times, 0),
        )


class Assigned(NamedTuple):
    """Codewords (B, n) of the vectors, squared distances to them (B, n), the means (B, k, d) and
    numbers of vectors (B, k) of the cells."""

    indices: Tensor
    distances: Tensor
    means: Tensor
    counts: Tensor


def lloyd(vectors: Vectors, codebook: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """Cells (B, n) and their means (B, k, d), float64, from a `codebook` (B, k, d), float64."""
    found = assign(vectors, codebook)
    for _ in range(sweeps - 1):
        last, empty = codebook, found.counts == 0
        codebook = _reseed(vectors.x, found, empty) if bool(empty.any()) else found.means
        if torch.equal(codebook, last):  # of all problems: each then ends as it would alone
            break
        found = assign(vectors, codebook)
    return found.indices, found.means


def assign(vectors: Vectors, codebook: Tensor) -> Assigned:
    """The nearest codewords, and the means of their cells; an empty cell keeps its codeword.

    ||x - c||^2 - ||x||^2 = (x, 1) (-2 c, ||c||^2), all taken from the codewords' mean, lest digits
    cancel far from 0. In a metric d, sum_j d_j (x_j - c_j)^2 - sum_j d_j x_j^2 is the product of
    (d x, d) and (-2 c, c^2); a sum of it over a cell is least, in each coordinate, at the mean that
    d weighs.
    """
    problems, n, _ = vectors.x.shape
    k, dtype, device = codebook.shape[1], vectors.x.dtype, vectors.x.device
    centre = codebook.mean(1, keepdim=True)
    near, centre = (codebook - centre).to(dtype), centre.to(dtype)
    squares = near.square()
    if vectors.weights is None:
        squares = squares.sum(-1, keepdim=True)
    factors = torch.cat([-2 * near, squares], dim=-1)

    # part by part
    indices = torch.empty(
        problems, n, dtype=torch.uint8 if k <= 256 else torch.int32, device=device
    )
    distances = vectors.x.new_empty(problems, n)
    cells = _Cells(codebook, vectors.weights is not None)
    for rows, columns in _slices(problems, n, k):
        part = vectors.part(rows, columns)
        moved = part.x - centre[rows]
        weighed = moved if part.weights is None else moved * part.weights
        terms = (
            pad(moved, (0, 1), value=1.0)
            if part.weights is None
            else torch.cat([weighed, part.weights], dim=-1)
        )
        least, found = _least(torch.bmm(factors[rows], terms.mT))
        indices[rows, columns] = found
        distances[rows, columns] = (least + weighed.mul_(moved).sum(-1)).clamp_(min=0)
        cells.add_(part, found, rows)
    return Assigned(indices, distances, *cells.means(codebook))


def _least(products: Tensor) -> tuple[Tensor, Tensor]:
    """The least of products (b, k, n) over k, and the first index of it: faster than `min`, which
    is not vectorised. Overwrites the products."""
    k = products.shape[1]
    falling = torch.arange(k, 0, -1, dtype=products.dtype, device=products.device).unsqueeze(1)
    least = products.amin(1)
    torch.le(products, least.unsqueeze(1), out=products)
    return least, k - products.mul_(falling).amax(1).long()


class _Cells:
    """Sums over the cells of all problems, (B k, d), and their numbers of vectors, (B k,)."""

    def __init__(self, codebook: Tensor, weighed: bool):
        problems, self.k, d = codebook.shape
        self.sums = codebook.new_zeros(problems * self.k, d)
        self.masses = torch.zeros_like(self.sums) if weighed else None
        self.counts = codebook.new_zeros(problems * self.k)
        self.first = self.k * torch.arange(problems, device=codebook.device).unsqueeze(1)

    def add_(self, part: Vectors, found: Tensor, rows: slice) -> None:
        """Add the vectors of some problems, in the cells `found`."""
        cells, x = (
            (found + self.first[rows]).view(-1),
            part.x.reshape(-1, part.x.shape[-1]).double(),
        )
        if self.masses is not None and part.weights is not None:
            weights = part.weights.reshape(x.shape).double()
            self.masses.index_add_(0, cells, weights)
            x = x * weights
        self.sums.index_add_(0, cells, x)
        self.counts.index_add_(0, cells, self.counts.new_ones(1).expand(len(cells)))

    def means(self, codebook: Tensor) -> tuple[Tensor, Tensor]:
        """The means (B, k, d), of an empty cell its codeword, and the numbers (B, k)."""
        masses = self.counts.unsqueeze(-1) if self.masses is None else self.masses
        kept = codebook.reshape(self.sums.shape)
        means = torch.where(masses > 0, self.sums / torch.where(masses > 0, masses, 1), kept)
        return means.view_as(codebook), self.counts.view(-1, self.k)


def _slices(problems: int, n: int, k: int) -> Iterator[tuple[slice, slice]]:
    """Several problems whole, or part of one."""
    rows = max(1, CHUNK // (n * k))
    columns = n if rows > 1 else max(1, CHUNK // k)
    for row in range(0, problems, rows):
        for column in range(0, n, columns):
            yield slice(row, row + rows), slice(column, column + columns)


def _reseed(x: Tensor, found: Assigned, empty: Tensor) -> Tensor:
    """Unused codewords to the vectors farthest from theirs: no vector gets a farther codeword by
    that."""
    order = found.distances.sort(dim=-1, descending=True, stable=True).indices
    which = order[:, : empty.shape[1]].gather(1, (empty.cumsum(-1) - 1).clamp(min=0))
    return torch.where(empty.unsqueeze(-1), take(x, which).double(), found.means)


def take(x: Tensor, which: Tensor) -> Tensor:
    """x (B, n, d) at `which` (B, m): (B, m, d)."""
    return x.gather(1, which.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

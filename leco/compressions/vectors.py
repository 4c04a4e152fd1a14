"""Weights that share values beyond one number at a time: codewords of several weights, and values
shared by position.

`Groups(d)` gives vector quantization of runs of d neighbouring weights, over one layer or several;
`Subvectors(d)` gives product quantization, a codebook for each block of columns. Codebooks of
single weights are in `quantization`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.codebooks import Codebook
from leco.compressions.protocol import Compression
from leco.theta import Codes, VectorCodes

CHUNK = 2**18  # distances, or positions, held at once: they stay in cache
SAMPLE = 64  # vectors a codeword that the cold start looks at
LEAST_SAMPLE, MOST_SAMPLE = 2**12, 2**18  # vectors; but 4 a codeword in any case
TRIALS = 8  # candidates for each codeword of k-means++
STARTS = 64  # at most, of which the best goes on
START_WORK = 2**25  # multiply-adds of one sweep over all starts of a problem
START_VECTORS = 2**20  # at a time, for the memory's sake
START_SWEEPS = 20
ROUNDS = 1024  # of k-means++; more codewords than that are drawn several at a time


@dataclass(frozen=True)
class VectorCodebook(Compression[VectorCodes]):
    """min sum_i ||x_i - c[z_i]||^2 over k codewords c_j of d weights and assignments z: k-means in
    d dimensions.

    x (..., n, d): n vectors of d weights share a codebook, leading dimensions have codebooks of
    their own. log2(k)/d bits a weight, and 32 d k for each codebook. A descent step, for the
    problem is NP-hard: Lloyd's algorithm from the last codebook; cold from the best of up to 64
    k-means++ starts (from a fixed seed) on a sample of about 64 k vectors. A codeword that no
    vector uses goes to the vector farthest from its own. O(n k d) a sweep, in parts. For d = 1 it
    is `leco.Codebook`, which is exact up to its bounds.

    Gong et al. 2014 (arXiv 1412.6115); Stock et al. 2020, "And the bit goes down" (arXiv
    1907.05686), sections 3.1 and 3.3, with weights in place of activations; k-means++: Arthur and
    Vassilvitskii, SODA 2007.

    Args:
        k: codewords, 1 to 65536 and at most n.
        sweeps: of Lloyd's algorithm in a C step, fewer where nothing moves any more.

    >>> import torch, leco
    >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 5.0], [9.0, 7.0]])
    >>> leco.VectorCodebook(2).compress(x, mu=1.0).decompress()
    tensor([[0., 1.],
            [0., 1.],
            [9., 6.],
            [9., 6.]])
    """

    k: int
    sweeps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("VectorCodebook: k", self.k, 1, 65536)
        check_count("VectorCodebook: sweeps", self.sweeps, 1)

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        if len(shape) < 2:
            raise ValueError(
                f"VectorCodebook: an array of shape {tuple(shape)} must be (..., n, d), as "
                "Groups(d) and Subvectors(d) give it"
            )
        if self.k > shape[-2]:
            raise ValueError(
                f"VectorCodebook: k = {self.k} must be at most {shape[-2]}, the number of vectors "
                "that share a codebook"
            )

    def c_step(self, x: Tensor, mu: float, theta: VectorCodes | None = None) -> VectorCodes:
        *batch, n, d = x.shape
        start = (
            theta.codebook
            if theta is not None and theta.codebook.shape == (*batch, self.k, d)
            else None
        )
        if d == 1:
            last = (
                None if start is None or theta is None else Codes(theta.indices, start.squeeze(-1))
            )
            found = Codebook(self.k).compress(x.squeeze(-1), mu, last)
            return VectorCodes(found.indices, found.codebook.unsqueeze(-1))
        vectors = x.contiguous().view(-1, n, d)
        codebook = (
            _cold_start(vectors, self.k) if start is None else start.reshape(-1, self.k, d).double()
        )
        indices, codebook = _lloyd(vectors, codebook, self.sweeps)
        return VectorCodes(indices.view(*batch, n), codebook.to(x.dtype).view(*batch, self.k, d))


def _lloyd(x: Tensor, codebook: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """Cells (B, n) and their means (B, k, d), float64: of x (B, n, d), from a `codebook` (B, k, d)
    float64."""
    indices, distances, means, counts = _assign(x, codebook)
    for _ in range(sweeps - 1):
        last, empty = codebook, counts == 0
        codebook = _reseed(x, distances, means, empty) if bool(empty.any()) else means
        if torch.equal(codebook, last):  # of all problems: each then ends as it would alone
            break
        indices, distances, means, counts = _assign(x, codebook)
    return indices, means


def _assign(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nearest codewords (B, n), squared distances to them, the means (B, k, d) and sizes (B, k) of
    the cells; an empty one keeps its codeword.

    ||x - c||^2 - ||x||^2 = (x, 1) (-2 c, ||c||^2), all taken from the codewords' mean, lest digits
    cancel far from 0.
    """
    problems, n, d = x.shape
    k = codebook.shape[1]
    centre = codebook.mean(1, keepdim=True)
    near, centre = (codebook - centre).to(x.dtype), centre.to(x.dtype)
    weights = torch.cat([-2 * near, near.square().sum(-1, keepdim=True)], dim=-1).mT.contiguous()
    indices = torch.empty(
        problems, n, dtype=torch.uint8 if k <= 256 else torch.int32, device=x.device
    )
    distances = x.new_empty(problems, n)
    sums, counts = codebook.new_zeros(problems * k, d), codebook.new_zeros(problems * k)
    first = k * torch.arange(problems, device=x.device).unsqueeze(1)
    for rows, columns in _slices(problems, n, k):
        part = x[rows, columns]
        moved = part - centre[rows]
        least, found = torch.bmm(
            torch.nn.functional.pad(moved, (0, 1), value=1.0), weights[rows]
        ).min(-1)
        indices[rows, columns] = found
        distances[rows, columns] = (least + moved.square().sum(-1)).clamp_(min=0)
        cells = (found + first[rows]).view(-1)
        sums.index_add_(0, cells, part.reshape(-1, d).double())
        counts.index_add_(0, cells, counts.new_ones(1).expand(len(cells)))
    means = torch.where(
        counts.unsqueeze(-1) > 0, sums / counts.clamp(min=1).unsqueeze(-1), codebook.reshape(-1, d)
    )
    return indices, distances, means.view_as(codebook), counts.view(problems, k)


def _slices(problems: int, n: int, k: int) -> Iterator[tuple[slice, slice]]:
    """Several problems whole, or part of one."""
    rows = max(1, CHUNK // (n * k))
    columns = n if rows > 1 else max(1, CHUNK // k)
    for row in range(0, problems, rows):
        for column in range(0, n, columns):
            yield slice(row, row + rows), slice(column, column + columns)


def _reseed(x: Tensor, distances: Tensor, codebook: Tensor, empty: Tensor) -> Tensor:
    """Unused codewords to the vectors farthest from theirs: no vector gets a farther codeword by
    that."""
    farthest = distances.sort(dim=-1, descending=True, stable=True).indices[:, : empty.shape[1]]
    which = farthest.gather(1, (empty.cumsum(-1) - 1).clamp(min=0))
    return torch.where(empty.unsqueeze(-1), _take(x, which).double(), codebook)


def _take(x: Tensor, which: Tensor) -> Tensor:
    """x (B, n, d) at `which` (B, m): (B, m, d)."""
    return x.gather(1, which.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _cold_start(x: Tensor, k: int) -> Tensor:
    """The best of several k-means++ starts on a sample, after Lloyd's algorithm there: (B, k, d)
    float64. The same draws for all problems."""
    _, n, d = x.shape
    m = min(n, max(LEAST_SAMPLE, min(SAMPLE * k, MOST_SAMPLE), 4 * k))
    starts = max(1, min(STARTS, START_WORK // (m * k * d)))
    random = torch.Generator().manual_seed(0)
    if m < n:
        strata = torch.arange(m, dtype=torch.float64) + torch.rand(
            m, dtype=torch.float64, generator=random
        )
        x = x[:, (strata * (n / m)).long().clamp(max=n - 1).to(x.device)]
    rounds = min(k, ROUNDS)
    draws = torch.rand(
        starts,
        rounds,
        TRIALS if k == rounds else -(-k // rounds),
        dtype=torch.float64,
        generator=random,
    )
    if k == rounds:
        draws[1::2] = draws[1::2, :, :1]  # greedy starts are better, but much alike
    return torch.cat(
        [
            _best_start(part, draws.to(x.device), k)
            for part in x.split(max(1, START_VECTORS // (starts * m)))
        ]
    )


def _best_start(x: Tensor, draws: Tensor, k: int) -> Tensor:
    """Of each problem, x (B, m, d), the best of the starts from `draws` (starts, rounds,
    candidates)."""
    problems, starts = len(x), len(draws)
    x = x.repeat_interleave(starts, 0)
    _, codebook = _lloyd(x, _plus_plus(x, draws.repeat(problems, 1, 1), k), START_SWEEPS)
    error = _assign(x, codebook)[1].sum(-1, dtype=torch.float64).view(problems, starts)
    return codebook[error.argmin(-1) + starts * torch.arange(problems, device=x.device)]


def _plus_plus(x: Tensor, draws: Tensor, k: int) -> Tensor:
    """Greedy k-means++ on x (B, m, d): candidates are vectors drawn by their squared distance to
    the codewords so far, and the one of each round that leaves the least error becomes a codeword;
    for k above `ROUNDS`, all do. Uniform `draws` (B, rounds, candidates)."""
    least = x.new_ones(x.shape[:2], dtype=torch.float64)
    codewords = []
    for draw in draws.unbind(1):
        sums = least.cumsum(-1)
        candidates = _take(
            x, torch.searchsorted(sums, draw * sums[:, -1:], right=True).clamp(max=x.shape[1] - 1)
        )
        # equal vectors are at exactly 0
        distances = (
            torch.cdist(x, candidates, compute_mode="donot_use_mm_for_euclid_dist")
            .double()
            .square_()
        )
        if codewords:
            distances = torch.minimum(distances, least.unsqueeze(-1))
        if k <= ROUNDS:
            best = distances.sum(1).argmin(-1).view(-1, 1)
            candidates, distances = (
                _take(candidates, best),
                distances.gather(-1, best.unsqueeze(1).expand(-1, x.shape[1], -1)),
            )
        codewords.append(candidates)
        least = distances.amin(-1)
    return torch.cat(codewords, dim=1)[:, :k].double()

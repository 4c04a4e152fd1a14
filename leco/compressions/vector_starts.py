"""Cold starts of `leco.VectorCodebook`: greedy k-means++ on a sample."""

import torch
from torch import Tensor

from leco.compressions.vector_cells import Vectors, assign, lloyd, take

SAMPLE = 64  # vectors a codeword that the cold start looks at
LEAST_SAMPLE, MOST_SAMPLE = 2**12, 2**18  # vectors; but 4 a codeword in any case
TRIALS = 8  # candidates for each codeword of k-means++
STARTS = 64  # at most, of which the best goes on
START_WORK = 2**25  # multiply-adds of one sweep over all starts of a problem
WHOLE_WORK = 2**27  # the same of all problems, beyond which each has 2 starts
START_VECTORS = 2**20  # at a time, for the memory's sake
START_SWEEPS = 20
ROUNDS = 1024  # of k-means++; more codewords than that are drawn several at a time


def cold_start(vectors: Vectors, k: int) -> Tensor:
    """The best of several k-means++ starts on a sample, after Lloyd's algorithm there: (B, k, d)
    float64. The same draws for all problems."""
    problems, n, d = vectors.x.shape
    m = min(n, max(LEAST_SAMPLE, min(SAMPLE * k, MOST_SAMPLE), 4 * k))
    work = m * k * d
    starts = max(1, min(STARTS, START_WORK // work, max(2, WHOLE_WORK // (problems * work))))
    random = torch.Generator().manual_seed(0)

    # the sample
    if m < n:
        strata = torch.arange(m, dtype=torch.float64) + torch.rand(
            m, dtype=torch.float64, generator=random
        )
        chosen = (strata * (n / m)).long().clamp(max=n - 1).to(vectors.x.device)
        d = vectors.weights
        vectors = Vectors(vectors.x[:, chosen], None if d is None else d[:, chosen])

    # the draws
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
    draws = draws.to(vectors.x.device)
    rows = max(1, START_VECTORS // (starts * m))
    return torch.cat(
        [
            _best_start(vectors.part(slice(first, first + rows)), draws, k)
            for first in range(0, problems, rows)
        ]
    )


def _best_start(vectors: Vectors, draws: Tensor, k: int) -> Tensor:
    """Of each problem the best of the starts from `draws` (starts, rounds, candidates)."""
    problems, starts = len(vectors.x), len(draws)
    vectors = vectors.repeated(starts)
    first = _plus_plus(vectors, draws.repeat(problems, 1, 1), k)
    _, codebook = lloyd(vectors, first, START_SWEEPS)
    error = assign(vectors, codebook).distances.sum(-1, dtype=torch.float64)
    best = error.view(problems, starts).argmin(-1)
    return codebook[best + starts * torch.arange(problems, device=codebook.device)]


def _plus_plus(vectors: Vectors, draws: Tensor, k: int) -> Tensor:
    """Greedy k-means++: candidates are vectors drawn by their squared distance to the codewords so
    far, and the one of each round that leaves the least error becomes a codeword; for k above
    `ROUNDS`, all do. Uniform `draws` (B, rounds, candidates)."""
    x = vectors.x
    least = x.new_ones(x.shape[:2], dtype=torch.float64)
    codewords = []
    for draw in draws.unbind(1):
        sums = least.cumsum(-1)
        candidates = take(
            x, torch.searchsorted(sums, draw * sums[:, -1:], right=True).clamp(max=x.shape[1] - 1)
        )
        distances = _distances(vectors, candidates)
        if codewords:
            distances = torch.minimum(distances, least.unsqueeze(-1))
        if k <= ROUNDS:
            best = distances.sum(1).argmin(-1).view(-1, 1)
            candidates, distances = (
                take(candidates, best),
                distances.gather(-1, best.unsqueeze(1).expand(-1, x.shape[1], -1)),
            )
        codewords.append(candidates)
        least = distances.amin(-1)
    return torch.cat(codewords, dim=1)[:, :k].double()


def _distances(vectors: Vectors, candidates: Tensor) -> Tensor:
    """Squared distances (B, n, m), float64, to candidates (B, m, d); of equal vectors exactly 0."""
    if vectors.weights is None:
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(vectors.x, candidates, compute_mode=exact).double().square_()
    found = vectors.x.new_zeros(*vectors.x.shape[:2], candidates.shape[1])
    for j in range(candidates.shape[-1]):
        apart = vectors.x[..., j].unsqueeze(2) - candidates[..., j].unsqueeze(1)
        found.add_(apart.square_().mul_(vectors.weights[..., j].unsqueeze(2)))
    return found.double()

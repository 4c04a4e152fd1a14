"""CP and tensor-train decompositions of a kernel or any array x (n_1, ..., n_N), the whole of it one tensor; what all decompositions share.

Finding the best one is hard. The C steps are descent steps: from a good start, or from the last Theta (which may have been retrained),
alternating least squares until the error is flat. None of them is ever worse than the last Theta.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from leco.compressions.protocol import Compression, check_count
from leco.finite import check_finite
from leco.nested import free_leaves, leaves, with_free_leaves
from leco.theta import CPFactors, Dense, Theta, TrainFactors, values

SWEEPS = 100
FLAT = 1e-6  # a sweep that lowers the squared error by a smaller share is the last

T = TypeVar("T", bound=Theta)


def tuple_of_ranks(name: str, ranks: Any, modes: int | None = None) -> tuple[int, ...]:
    """The option `ranks`, checked as far as no shape is needed."""
    if not isinstance(ranks, (tuple, list)):
        raise TypeError(f"{name}: ranks = {ranks!r} must be a tuple of integers")
    if not ranks or (modes and len(ranks) != modes):
        raise ValueError(f"{name}: ranks = {tuple(ranks)} must be {modes or 'at least 1'} numbers")
    for k, rank in enumerate(ranks):
        check_count(f"{name}: ranks[{k}]", rank, 1)
    return tuple(ranks)


def check_modes(name: str, ranks: tuple[int, ...], modes: int, shape: torch.Size) -> None:
    if len(ranks) != modes:
        raise ValueError(f"{name}: ranks = {ranks} must be {modes} numbers for an array of shape {tuple(shape)}")


def check_bounds(name: str, ranks: tuple[int, ...], bounds: Sequence[int]) -> None:
    for k, (rank, bound) in enumerate(zip(ranks, bounds, strict=True)):
        check_count(f"{name}: ranks[{k}]", rank, 1, bound)


def sizes_of(tensors: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(values(tensor).shape) for tensor in tensors]


def squared_error(x: Tensor, theta: Theta) -> Tensor:
    return (x - theta.decompress()).square().sum()


def no_worse(x: Tensor, found: T, last: Any) -> T:
    """`found`; or a copy of the last Theta where that has the same sizes and, by rounding, a lower error."""
    if type(last) is not type(found) or sizes_of(leaves(last)) != sizes_of(leaves(found)) or squared_error(x, found) <= squared_error(x, last):
        return found
    return with_free_leaves(last, [leaf.detach().clone() for leaf in free_leaves(last)])


def unfold(x: Tensor, mode: int) -> Tensor:
    """The matrix (n_mode, all others)."""
    return x.movedim(mode, 0).flatten(1)


def left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """Its leading left singular vectors, (rows, rank): from the triangle of its transpose where it is wide."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = torch.linalg.qr(matrix.mT, mode="r").R.mT
    return torch.linalg.svd(matrix).U[:, :rank]


@dataclass(frozen=True)
class CP(Compression[CPFactors | Dense]):
    """min ||x - sum_r a_r o b_r o c_r o ...||^2, a sum of `rank` outer products: alternating least squares. Descent.

    Cold, the best of several starts: leading singular vectors, the largest fibres, four fixed random draws. Each least squares problem has a
    proximal term (a multiple of the rounding error, to the present factor), with which no sweep raises the error. As layers: 1 x 1
    convolution in -> rank, one depthwise convolution along each of height and width, 1 x 1 rank -> out. O(rank numel) for each mode and
    sweep. Kolda and Bader 2009 (SIAM Review 51), section 3.4; for convolutions, Lebedev et al., ICLR 2015.

    Args:
        rank: from 1 to numel / (the largest size), at which every tensor is exact: x itself.
    """

    rank: int

    def __post_init__(self) -> None:
        check_count("CP: rank", self.rank, 1)

    def check(self, shape: torch.Size) -> None:
        if len(shape) < 2:
            raise ValueError(f"CP: takes tensors of two modes or more, not an array of shape {tuple(shape)}; use the view leco.Kernel()")
        check_count("CP: rank", self.rank, 1, shape.numel() // max(shape))

    def compress(self, x: Tensor, mu: float, theta: CPFactors | Dense | None = None) -> CPFactors | Dense:
        self.check(x.shape)
        check_finite(x)
        x = x.contiguous()
        if self.rank == x.numel() // max(x.shape):
            return Dense(x.clone())
        if not x.any():  # least squares leaves factors of rounding size on some processors
            return CPFactors(tuple(x.new_zeros(n, self.rank) for n in x.shape))
        if isinstance(theta, CPFactors) and sizes_of(theta.factors) == [(n, self.rank) for n in x.shape]:
            return no_worse(x, _als(x, [values(a).unsqueeze(0) for a in theta.factors]), theta)
        return _als(x, [torch.stack(factors) for factors in zip(*_cp_starts(x, self.rank), strict=True)])


@dataclass(frozen=True)
class TensorTrain(Compression[TrainFactors | Dense]):
    """min ||x - G_1 G_2 ... G_N||^2 with cores G_k (r_{k-1}, n_k, r_k), r_0 = r_N = 1: TT-SVD, then sweeps of alternating least squares.

    Descent: the TT-SVD is within a factor sqrt(N - 1) of the best error, and a sweep replaces each core in turn by its least squares
    optimum, the other cores orthogonal. Oseledets 2011 (SIAM J. Sci. Comput. 33), algorithm 1; sweeps: Holtz, Rohwedder, Schneider 2012.
    O(r numel) for each core and sweep. A kernel as four convolutions: the view `leco.Kernel((0, 2, 3, 1))`, whose order is out, height,
    width, in. A matrix of many modes (Novikov et al. 2015): the view `leco.Reshape(shape)`.

    Args:
        ranks: (r_1, ..., r_{N-1}), with r_k at most r_{k-1} n_k and at most n_{k+1} r_{k+1}.

    >>> import torch, leco
    >>> theta = leco.TensorTrain((4, 5, 2)).compress(torch.randn(8, 3, 3, 6), mu=1.0)
    >>> [tuple(core.shape) for core in theta.cores]
    [(1, 8, 4), (4, 3, 5), (5, 3, 2), (2, 6, 1)]
    """

    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", tuple_of_ranks("TensorTrain", self.ranks))

    def check(self, shape: torch.Size) -> None:
        check_modes("TensorTrain", self.ranks, len(shape) - 1, shape)
        around = (1, *self.ranks, 1)
        bounds = [min(around[k] * shape[k], shape[k + 1] * around[k + 2]) for k in range(len(self.ranks))]
        check_bounds("TensorTrain", self.ranks, bounds)

    def compress(self, x: Tensor, mu: float, theta: TrainFactors | Dense | None = None) -> TrainFactors | Dense:
        self.check(x.shape)
        check_finite(x)
        x = x.contiguous()
        if all(r == min(x.shape[: k + 1].numel(), x.shape[k + 1 :].numel()) for k, r in enumerate(self.ranks)):
            return Dense(x.clone())
        starts, around = [_train_svd(x, self.ranks)], (1, *self.ranks, 1)
        if isinstance(theta, TrainFactors) and sizes_of(theta.cores) == list(zip(around, x.shape, around[1:], strict=False)):
            starts.append(_orthogonal([values(core) for core in theta.cores]))
        return no_worse(x, _train(x, starts), theta)


# --- CP


def _cp_starts(x: Tensor, rank: int) -> Iterator[list[Tensor]]:
    """Factors (n_k, rank) of a first sweep, which needs all but the first of them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(x)

    vectors = [left_vectors(unfold(x, k), rank) for k in range(x.ndim)]
    yield [torch.cat([u, draw(len(u), rank - u.shape[1]) / len(u) ** 0.5], dim=1) for u in vectors]
    longest = max(range(x.ndim), key=lambda k: x.shape[k])
    fibres, sizes = unfold(x, longest), [n for k, n in enumerate(x.shape) if k != longest]
    largest = fibres.square().sum(0).topk(rank).indices
    units = [torch.nn.functional.one_hot(at, n).mT.to(x) for at, n in zip(torch.unravel_index(largest, sizes), sizes, strict=True)]
    yield [*units[:longest], fibres[:, largest], *units[longest:]]
    for _ in range(4):
        yield [draw(n, rank) for n in x.shape]


def _times_others(x: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The unfolding of `mode` times the Khatri-Rao product of the other factors, (starts, n_mode, rank), the longest mode contracted first."""
    start, column, modes = x.ndim, x.ndim + 1, list(range(x.ndim))
    for k in sorted(modes, key=lambda k: -factors[k].shape[1]):
        if k != mode:
            left = [start, *(m for m in modes if m not in (k, start, column)), column]
            x = torch.einsum(x, modes, factors[k], [start, k, column], left)
            modes = left
    return x


def _als(x: Tensor, factors: list[Tensor]) -> CPFactors:
    """From `factors` of (starts, n_k, rank): each in turn the least squares optimum for the others, near the present one. The best start."""
    total, error = x.square().sum(), torch.full((len(factors[0]),), torch.inf, dtype=x.dtype, device=x.device)
    number, one = torch.finfo(x.dtype), torch.eye(factors[0].shape[-1], dtype=x.dtype, device=x.device)
    for _ in range(SWEEPS):
        gram = target = x
        for k, a in enumerate(factors):
            gram = math.prod((b.mT @ b for j, b in enumerate(factors) if j != k), start=torch.ones_like(one))
            target = _times_others(x, factors, k)
            near = 10 * number.eps * gram.diagonal(dim1=-2, dim2=-1).sum(-1).view(-1, 1, 1) + number.tiny
            factors[k] = torch.linalg.solve(gram + near * one, (target + near * a).mT).mT
        last, error = error, total - 2 * (target * factors[-1]).sum((-2, -1)) + (gram * (factors[-1].mT @ factors[-1])).sum((-2, -1))
        factors = _balanced(factors)
        if (last - error <= FLAT * error.abs()).all():
            break
    best = int(error.argmin())
    return CPFactors(tuple(a[best].contiguous() for a in factors))


def _balanced(factors: list[Tensor]) -> list[Tensor]:
    """The same tensor, with columns of one norm in all factors."""
    norms = torch.stack([torch.linalg.vector_norm(a, dim=-2, keepdim=True) for a in factors])
    common = norms.log().mean(0).exp()
    return [torch.where(common > 0, a * (common / norm), a) for a, norm in zip(factors, norms, strict=True)]


# --- tensor train


def _train_svd(x: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """TT-SVD: cores that are left-orthogonal, all but the last."""
    rest, cores = x.reshape(1, -1), []
    for n, rank in zip(x.shape, ranks, strict=False):
        u, s, vh = torch.linalg.svd(rest.reshape(len(rest) * n, -1), full_matrices=False)
        cores.append(u[:, :rank].unflatten(0, (-1, n)))
        rest = s[:rank, None] * vh[:rank]
    return [*cores, rest.unsqueeze(-1)]


def _orthogonal(cores: list[Tensor]) -> list[Tensor]:
    """The same tensor, its cores left-orthogonal, all but the last."""
    found, rest = [], torch.ones_like(cores[0][:, 0, :1])
    for core in cores[:-1]:
        q, rest = torch.linalg.qr(torch.tensordot(rest, core, 1).flatten(0, 1))
        found.append(q.unflatten(0, (-1, core.shape[1])))
    return [*found, torch.tensordot(rest, cores[-1], 1)]


def _mirrored(cores: list[Tensor]) -> list[Tensor]:
    return [core.transpose(0, 2) for core in reversed(cores)]


def _sweep(x: Tensor, cores: list[Tensor]) -> list[Tensor]:
    """Each core, from left to right, the least squares optimum for the others: x in the bases that those on both sides of it give.

    The cores are right-orthogonal, all but the first, and come out left-orthogonal, all but the last, whose norm is the projection's.
    """
    rights = [torch.ones_like(cores[-1][:1, 0])]
    for core in reversed(cores[1:]):
        rights.append(torch.tensordot(core, rights[-1], 1).flatten(1))
    rest, found = x.reshape(1, -1), []
    for n, right in zip(x.shape[:-1], reversed(rights), strict=False):
        rest = rest.reshape(len(rest) * n, -1)
        q = torch.linalg.qr(rest @ right.mT).Q
        found.append(q.unflatten(0, (-1, n)))
        rest = q.mT @ rest
    return [*found, rest.unsqueeze(-1)]


def _train(x: Tensor, starts: list[list[Tensor]]) -> TrainFactors:
    """Sweeps from the best of the starts, to and fro: the next one is a sweep of the mirrored tensor."""
    total, y = x.square().sum(), x.permute(*reversed(range(x.ndim))).contiguous()

    def error(cores: list[Tensor]) -> Tensor:
        return total - cores[-1].square().sum()

    cores = min((_sweep(y, _mirrored(start)) for start in starts), key=lambda cores: float(error(cores)))
    for _ in range(SWEEPS):
        last = error(cores)
        cores = _sweep(y, _mirrored(_sweep(x, _mirrored(cores))))
        if last - error(cores) <= FLAT * error(cores).abs():
            break
    return TrainFactors(tuple(core.contiguous() for core in _mirrored(cores)))

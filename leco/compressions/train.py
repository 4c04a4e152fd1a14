"""Tensor train: a product of cores, one for each mode."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leco.compressions.outer import Roots
from leco.compressions.protocol import Compression
from leco.compressions.stretched import in_metric
from leco.compressions.svd import left_vectors
from leco.compressions.tensors import (
    FLAT,
    SWEEPS,
    check_bounds,
    check_modes,
    no_worse,
    sizes_of,
    tuple_of_ranks,
)
from leco.theta import Dense, TrainFactors, values


@dataclass(frozen=True)
class TensorTrain(Compression[TrainFactors | Dense]):
    """min ||x - G_1 G_2 ... G_N||^2 with cores G_k (r_{k-1}, n_k, r_k), r_0 = r_N = 1: TT-SVD, then
    sweeps of alternating least squares.

    Descent: the TT-SVD is within a factor sqrt(N - 1) of the best error, and a sweep replaces each
    core in turn by its least squares optimum, the other cores orthogonal. Oseledets 2011 (SIAM J.
    Sci. Comput. 33), algorithm 1; sweeps: Holtz, Rohwedder, Schneider 2012.
    O(r numel) for each core and sweep. A kernel as four convolutions: the view `leco.Kernel((0, 2,
    3, 1))`, whose order is out, height, width, in. A matrix of many modes (Novikov et al. 2015):
    the view `leco.Reshape(shape)`.

    In a metric: the same for x scaled along each mode where the metric is an outer product; else a
    descent by majorisation (`leco.compressions.outer`), from the last Theta or from the step in the
    nearest outer product.

    Args:
        ranks: (r_1, ..., r_{N-1}), with r_k at most r_{k-1} n_k and at most n_{k+1} r_{k+1}.

    >>> import torch, leco
    >>> theta = leco.TensorTrain((4, 5, 2)).compress(torch.randn(8, 3, 3, 6), mu=1.0)
    >>> [tuple(core.shape) for core in theta.cores]
    [(1, 8, 4), (4, 3, 5), (5, 3, 2), (2, 6, 1)]
    """

    ranks: tuple[int, ...]

    takes_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ranks", tuple_of_ranks("TensorTrain", self.ranks))

    def scaling(self) -> int | None:
        return 0

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        check_modes("TensorTrain", self.ranks, len(shape) - 1, shape)
        around = (1, *self.ranks, 1)
        bounds = [
            min(around[k] * shape[k], shape[k + 1] * around[k + 2]) for k in range(len(self.ranks))
        ]
        check_bounds("TensorTrain", self.ranks, bounds)

    def c_step(
        self, x: Tensor, mu: float | Tensor, theta: TrainFactors | Dense | None = None
    ) -> TrainFactors | Dense:
        if all(
            r == min(x.shape[: k + 1].numel(), x.shape[k + 1 :].numel())
            for k, r in enumerate(self.ranks)
        ):
            return Dense(x.clone())
        around = (1, *self.ranks, 1)
        sizes = list(zip(around, x.shape, around[1:], strict=False))
        last = theta if isinstance(theta, TrainFactors) and sizes_of(theta.cores) == sizes else None
        if isinstance(mu, Tensor):
            return in_metric(x, mu, last, self._plain, _stretched)
        return self._plain(x, last)

    def _plain(self, x: Tensor, theta: TrainFactors | None) -> TrainFactors:
        """The step without a metric, from a last Theta of the same sizes."""
        starts = [_train_svd(x, self.ranks)]
        if theta is not None:
            starts.append(_orthogonal([values(core) for core in theta.cores]))
        return no_worse(x, _train(x, starts), theta)


def _stretched(theta: TrainFactors, roots: Roots) -> TrainFactors:
    """The same train with Delta times the outer product of the roots."""
    pairs = zip(theta.cores, roots, strict=True)
    return TrainFactors(tuple(values(core) * root.view(1, -1, 1) for core, root in pairs))


def _train_svd(x: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """TT-SVD: cores that are left-orthogonal, all but the last."""
    rest, cores = x.reshape(1, -1), []
    for n, rank in zip(x.shape, ranks, strict=False):
        rest = rest.reshape(len(rest) * n, -1)
        u = left_vectors(rest, rank)
        cores.append(u.unflatten(0, (-1, n)))
        rest = u.mT @ rest
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


def _sweep_cores(x: Tensor, cores: list[Tensor]) -> list[Tensor]:
    """Each core, from left to right, the least squares optimum for the others: x in the bases that
    those on both sides of it give.

    The cores are right-orthogonal, all but the first, and come out left-orthogonal, all but the
    last, whose norm is the projection's.
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
    """Sweeps from the best of the starts, to and fro: the next one is a sweep of the mirrored
    tensor."""
    total, y = x.square().sum(), x.permute(*reversed(range(x.ndim))).contiguous()

    def error(cores: list[Tensor]) -> Tensor:
        return total - cores[-1].square().sum()

    cores = min(
        (_sweep_cores(y, _mirrored(start)) for start in starts),
        key=lambda cores: float(error(cores)),
    )
    for _ in range(SWEEPS):
        last = error(cores)
        cores = _sweep_cores(y, _mirrored(_sweep_cores(x, _mirrored(cores))))
        if last - error(cores) <= FLAT * error(cores).abs():
            break
    return TrainFactors(tuple(core.contiguous() for core in _mirrored(cores)))

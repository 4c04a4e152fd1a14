"""The laws of a C step, each over all of `leco.compressions.ALL`, and each seen to fail on
compressions that break it (`broken.py`).

A law is a function of a case. What it checks against is written here, from the definitions: a set
by its membership, a cost by its formula, an optimum by points of the set that must not beat it.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import broken
import numpy as np
import pytest
import torch
from labels import label
from torch import Tensor

import leco
from leco.coding.tensors import decode, encode
from leco.compressions import (
    ALL,
    CP,
    NM,
    Additive,
    Binary,
    Budget,
    Choice,
    Codebook,
    Compose,
    ConvRankSelection,
    EntropyCodebook,
    EntropyMatrix,
    FixedCodebook,
    GroupL0Penalty,
    GroupL1Penalty,
    GroupTopK,
    Hashed,
    L0Penalty,
    L1Ball,
    L1Penalty,
    L2Ball,
    LowRank,
    PowersOfTwo,
    RankSelection,
    TensorTrain,
    Ternary,
    TopK,
    Tucker,
    Tucker2,
    TuckerSelection,
    Uncompressed,
    Uniform,
    VectorCodebook,
    cp,
    quantization,
    train,
    tucker,
)
from leco.theta import Codes, Dense, Scaled

MU = 0.7


@dataclass(frozen=True)
class Case:
    """A compression, and what is known of it independently. All functions are of one problem, not
    of a batch."""

    name: str
    compression: Any
    near: Callable[[Tensor, Tensor], Tensor]  # near(x, Delta) is a random point of the set
    member: Callable[[Tensor], bool] = lambda delta: True
    cost: Callable[[Tensor], float] = lambda delta: 0.0  # alpha C as a function of Delta
    # an x whose C step must give Delta back: Delta + (gradient of alpha C)/mu
    lift: Callable[[Tensor], Tensor] = lambda delta: delta
    shape: tuple[int, ...] = (24,)
    batch: bool = True
    idempotent: bool = True
    cold: bool = True  # idempotent with no warm start
    descent: bool = False  # take the way of big arrays, which is not exact
    # how much higher than a random point of the set a descent step may end, as a share of ||x||^2
    slack: float = 0.0
    precision: float = 1e-9  # of the price

    def compress(self, x: Tensor, theta: Any = None) -> Any:
        exact_work = 0 if self.descent else quantization.EXACT_WORK
        with (
            mock.patch.object(quantization, "EXACT_WORK", exact_work),
            mock.patch.object(cp, "SWEEPS", 10),
            mock.patch.object(train, "SWEEPS", 10),
            mock.patch.object(tucker, "SWEEPS", 10),
        ):
            return self.compression.compress(x, MU, theta)

    def takes(self, shape: tuple[int, ...]) -> bool:
        try:
            self.compression.check(torch.Size(shape))
        except ValueError:
            return False
        return True


# --- membership, costs and random points of the sets


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def among(values: tuple[float, ...]) -> Callable[[Tensor], bool]:
    return lambda delta: bool(torch.isin(delta, torch.tensor(values, dtype=delta.dtype)).all())


def multiples(values: tuple[float, ...]) -> Callable[[Tensor], bool]:
    """Whether some s >= 0 gives Delta = s times values: s is seen from the largest |Delta_i|, which
    is |s v| for some v."""

    def member(delta: Tensor) -> bool:
        largest, allowed = delta.abs().max(), torch.tensor(values, dtype=delta.dtype)
        scales = [largest / abs(v) for v in values if v] + ([0.0] if largest == 0 else [])
        return any(
            bool((delta.unsqueeze(-1) - s * allowed).abs().amin(-1).max() <= 1e-9 * largest)
            for s in scales
        )

    return member


def on_grid(bits: int, zero_point: bool) -> Callable[[Tensor], bool]:
    """Whether some s > 0 makes all Delta/s integers, in a window of 2^bits integers: around 0 as
    signed integers lie, or anywhere with 0."""

    def member(delta: Tensor) -> bool:
        levels = torch.cat([delta, delta.new_zeros(1)]).unique()
        if len(levels) == 1:
            return True
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if not zero_point
            else (1 - 2**bits, 2**bits - 1)
        )
        for parts in range(1, 2**bits):
            q = levels / (levels.diff().min() / parts)
            inside = (
                q.min() > low - 0.5 and q.max() < high + 0.5 and q.max() - q.min() < 2**bits - 0.5
            )
            if inside and (q - q.round()).abs().max() < 1e-6:
                return True
        return False

    return member


def rank(matrix: Tensor) -> int:
    return (
        int(
            np.linalg.matrix_rank(matrix.numpy(), tol=1e-9 * max(1e-300, float(matrix.abs().max())))
        )
        if matrix.abs().max() > 0
        else 0
    )


def scheme(kernel: Tensor, number: int) -> Tensor:
    out, _, height, _ = kernel.shape
    return (
        kernel.reshape(out, -1) if number == 1 else kernel.movedim(2, 1).reshape(out * height, -1)
    )


def rank_cost(alpha: float, table: Callable[[int, int, int], float]) -> Callable[[Tensor], float]:
    """alpha times the least C(r) that writes Delta: a matrix of rank q is one of any rank r >= q
    too."""
    return lambda delta: (
        alpha * min(table(*delta.shape, r) for r in range(rank(delta), min(delta.shape) + 1))
    )


def storage(m: int, n: int, r: int) -> float:
    return min(r * (m + n), m * n)


def conv_cost(alpha: float, *schemes: int) -> Callable[[Tensor], float]:
    return lambda delta: min(rank_cost(alpha, storage)(scheme(delta, number)) for number in schemes)


def nearest(x: Tensor, values: Tensor) -> Tensor:
    return values[(x.unsqueeze(-1) - values).abs().argmin(-1)]


def change(delta: Tensor, values: Tensor) -> Tensor:
    """Some entries set to random ones of `values`."""
    return torch.where(
        torch.rand(delta.shape) < 0.1, values[torch.randint(len(values), delta.shape)], delta
    )


def near_codebook(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        values = delta.unique()
        drawn = x[torch.randint(len(x), (k,))]
        values = (
            torch.where(torch.rand(k) < 0.5, values[torch.randint(len(values), (k,))], drawn)
            if torch.rand(()) < 0.5
            else values
        )
        return nearest(
            x,
            values
            + torch.randn(len(values)) * 10 ** float(-3 * torch.rand(())) * x.std(correction=0),
        )

    return near


def near_codewords(k: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        codewords = delta.unique(dim=0) if torch.rand(()) < 0.5 else x[torch.randint(len(x), (k,))]
        codewords = codewords + torch.randn_like(codewords) * 10 ** float(
            -3 * torch.rand(())
        ) * x.std(correction=0)
        return codewords[torch.cdist(x, codewords).argmin(-1)]

    return near


def near_entropy(k: int, zero: bool, alpha: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Values near those of Delta or of x, and the cells of code lengths that are about those of
    their nearest-value cells."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        flat = x.flatten()
        values = near_codebook(k - zero)(flat, delta.flatten()).unique()
        values = torch.cat(
            [values[torch.randperm(len(values))[: k - zero]], x.new_zeros(int(zero))]
        ).unique()
        counts = (flat.unsqueeze(-1) - values).abs().argmin(-1).bincount(minlength=len(values))
        lengths = 2 * torch.rand(()) * -((counts + 0.1) / len(flat)).log2()
        return values[
            ((flat.unsqueeze(-1) - values).square() + 2 * alpha / MU * lengths).argmin(-1)
        ].view(x.shape)

    return near


def entropy_bits(values: list[float]) -> float:
    """n H(f)."""
    counts = [values.count(value) for value in set(values)]
    return sum(count * math.log2(len(values) / count) for count in counts)


def matrix_bits(delta: Tensor) -> float:
    """Positions by the model of `leco.coding.contexts`, values by their entropy, and 40 bits for
    each of them: entry by entry."""
    classes = [sum(value != 0 for value in row).bit_length() for row in delta.tolist()]
    bits, above = entropy_bits(classes), [0] * delta.shape[1]
    for row, b in zip(delta.tolist(), classes, strict=True):
        expected = (2 ** (b - 1) + 2**b - 1) / 2 if b else 0
        weights = [5 * count + 2 for count in above]
        for j, value in enumerate(row if b else []):
            p = min(max(expected * weights[j] / sum(weights), 2**-16), 61440 / 65536)
            bits -= math.log2(p if value else 1 - p)
            above[j] += value != 0
    kept = [value for value in delta.flatten().tolist() if value]
    return bits + entropy_bits(kept) + 40 * len(set(kept))


def hashed_cells(n: int, k: int, seed: int) -> Tensor:
    """`leco.theta.hashed_positions` in Python's integers."""

    def mix(y: int) -> int:
        for _ in range(2):
            y = ((y >> 16) ^ y) * 0x45D9F3B % 2**32
        return (y >> 16) ^ y

    return torch.tensor([mix((i + mix(seed + 1)) % 2**32) * k >> 32 for i in range(n)])


def by_cell(k: int, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        cells = hashed_cells(len(x), k, seed)
        means = torch.stack(
            [x[cells == j].mean() if (cells == j).any() else x.new_zeros(()) for j in range(k)]
        )
        return (means + torch.randn(k) * torch.randint(2, (k,)) * 10 ** float(-4 * torch.rand(())))[
            cells
        ]

    return near


def one_value_a_cell(k: int, seed: int) -> Callable[[Tensor], bool]:
    def member(delta: Tensor) -> bool:
        cells = hashed_cells(len(delta), k, seed)
        return all(len(delta[cells == j].unique()) == 1 for j in cells.unique())

    return member


def near_fixed(*values: float) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        allowed = x.new_tensor(values)
        return (
            change(delta, allowed)
            if torch.rand(()) < 0.5
            else nearest(x + torch.randn_like(x) * 10 ** float(-4 * torch.rand(())), allowed)
        )

    return near


def near_scaled(*values: float) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        allowed = x.new_tensor(values)
        scaled = float(x.abs().max() / allowed.abs().max() * 2 * torch.rand(()) ** 2) * allowed
        return nearest(x, scaled) if torch.rand(()) < 0.8 else change(nearest(x, scaled), scaled)

    return near


def near_grid(bits: int, zero_point: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        zero = int(torch.randint(2**bits, ())) if zero_point else 2 ** (bits - 1)
        return nearest(
            x,
            x.abs().max()
            * 2
            * torch.rand(())
            / 2 ** (bits - 1)
            * (torch.arange(2**bits) - zero).to(x.dtype),
        )

    return near


def near_sparse(kappa: int, shrink: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        order = (x.abs() + x.abs().max() * torch.rand(x.shape) * torch.rand(())).argsort(
            descending=True
        )
        mask = torch.zeros_like(x).index_fill_(0, order[:kappa], 1.0)
        return x * mask * shrink + mask * torch.randn_like(x) * 0.1 * torch.randint(2, ())

    return near


def near_penalty(x: Tensor, delta: Tensor) -> Tensor:
    t = float(x.abs().max() * torch.rand(()))
    cut = (
        torch.where(x.abs() > t, x, 0.0)
        if torch.rand(()) < 0.5
        else torch.nn.functional.softshrink(x, t)
    )
    noisy = delta + torch.randn_like(x) * 10 ** float(-4 * torch.rand(()))
    choice = torch.randint(4, x.shape) if torch.rand(()) < 0.5 else torch.tensor(2)
    return torch.where(
        choice == 0, noisy, torch.where(choice == 1, 0.0, torch.where(choice == 2, cut, delta))
    )


def near_groups(kappa: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        order = (x.norm(dim=1) + x.abs().max() * torch.rand(len(x)) * torch.rand(())).argsort(
            descending=True
        )
        point = torch.where(torch.rand(()) < 0.5, x, x + 0.1 * torch.randn_like(x))
        return torch.zeros_like(x).index_copy(0, order[:kappa], point[order[:kappa]])

    return near


def near_group_penalty(x: Tensor, delta: Tensor) -> Tensor:
    norms, t = x.norm(dim=1, keepdim=True), float(x.norm(dim=1).max() * torch.rand(()))
    cut = (
        torch.where(norms > t, x, 0.0)
        if torch.rand(()) < 0.5
        else x * (1 - t / norms.clamp(min=1e-300)).clamp(min=0)
    )
    noisy = delta + torch.randn_like(x) * 10 ** float(-4 * torch.rand(()))
    choice = torch.randint(4, (len(x), 1)) if torch.rand(()) < 0.5 else torch.tensor(2)
    return torch.where(
        choice == 0, noisy, torch.where(choice == 1, 0.0, torch.where(choice == 2, cut, delta))
    )


def groups_left(delta: Tensor) -> Tensor:
    return (delta != 0).any(1)


def near_blocks(n: int, m: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, delta: torch.cat([near_sparse(n)(part, part) for part in x.split(m)])


def truncated(matrix: Tensor, r: int) -> Tensor:
    u, s, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return torch.from_numpy(u[:, :r] * s[:r] @ v[:r])


def near_rank(r: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, delta: truncated(
        (x if torch.rand(()) < 0.5 else delta)
        + torch.randn_like(x) * 10 ** float(-3 * torch.rand(())),
        r,
    )


def near_any_rank(x: Tensor, delta: Tensor) -> Tensor:
    return truncated(x, int(torch.randint(min(x.shape) + 1, ())))


def near_kernel(x: Tensor, delta: Tensor) -> Tensor:
    number = int(torch.randint(1, 3, ()))
    matrix = near_any_rank(scheme(x, number), delta)
    out, channels, height, width = x.shape
    return (
        matrix.reshape(x.shape)
        if number == 1
        else matrix.reshape(out, height, channels, width).transpose(1, 2)
    )


def near_sum(
    *terms: tuple[Any, Any, Callable[[Tensor, Tensor], Tensor]],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Of (view, compression, near): a random point of each set, near what those before it left, in
    random order."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        left = x
        for t in torch.randperm(len(terms)).tolist():
            view, compression, own = terms[t]
            array = view.forward([left])
            left = (
                left
                - view.backward(
                    own(array, compression.compress(array, MU).decompress()), [x.shape]
                )[0]
            )
        return x - left

    return near


def near_composed(
    near: Callable[[Tensor, Tensor], Tensor], then: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The entries of a random point that are not 0, again near a set."""

    def composed(x: Tensor, delta: Tensor) -> Tensor:
        point = near(x, delta)
        kept = point != 0
        return (
            torch.zeros_like(x).masked_scatter(kept, then(point[kept], delta[delta != 0]))
            if (delta != 0).any() and kept.any()
            else 0 * x
        )

    return composed


def near_factors(r: int, bits: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Balanced factors of a random point, each rounded to a grid."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        u, s, v = torch.linalg.svd(near_rank(r)(x, delta))
        root = s[:r].sqrt()
        factors = u[:, :r] * root, root.unsqueeze(1) * v[:r]
        first, second = (
            near_grid(bits, False)(f.flatten(), f).view(f.shape) if f.abs().max() > 0 else f
            for f in factors
        )
        return first @ second

    return near


def unfold(x: Tensor, mode: int) -> Tensor:
    return x.movedim(mode, 0).flatten(1)


def multilinear_rank(*ranks: int) -> Callable[[Tensor], bool]:
    return lambda delta: all(rank(unfold(delta, k)) <= r for k, r in enumerate(ranks))


def train_rank(*ranks: int) -> Callable[[Tensor], bool]:
    return lambda delta: all(
        rank(delta.flatten(k + 1).flatten(0, k)) <= r for k, r in enumerate(ranks)
    )


def disturbed(x: Tensor, delta: Tensor) -> Tensor:
    return (x if torch.rand(()) < 0.5 else delta) + torch.randn_like(x) * 10 ** float(
        -3 * torch.rand(())
    )


def near_tucker(*ranks: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        point = disturbed(x, delta)
        for k, r in enumerate(ranks):
            u = torch.linalg.svd(unfold(point, k)).U[:, :r]
            x = torch.tensordot(u @ u.T, x, ([1], [k])).movedim(0, k)
        return x

    return near


def near_train(*ranks: int) -> Callable[[Tensor, Tensor], Tensor]:
    def near(x: Tensor, delta: Tensor) -> Tensor:
        point = disturbed(x, delta)
        # a projection of the modes behind k + 1 leaves the earlier ranks as they are
        for k, r in enumerate(ranks):
            point = truncated(point.flatten(k + 1).flatten(0, k), r).view(x.shape)
        return point

    return near


def near_cp(r: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Least squares for the first factor, the others random or near singular vectors."""

    def near(x: Tensor, delta: Tensor) -> Tensor:
        products = torch.ones(1, r, dtype=x.dtype)
        for k in range(1, x.ndim):
            u = torch.linalg.svd(unfold(disturbed(x, delta), k)).U
            u = (
                u[:, :r]
                if r <= len(u) and torch.rand(()) < 0.5
                else torch.randn(len(u), r, dtype=x.dtype)
            )
            products = (products.unsqueeze(1) * u).flatten(0, 1)
        return (products @ torch.linalg.pinv(products) @ unfold(x, 0).T).T.view(x.shape)

    return near


def tucker_parameters(shape: tuple[int, ...], ranks: tuple[int, ...]) -> int:
    factors = sum(r * n for r, n in zip(ranks, shape, strict=False))
    return min(factors + math.prod(ranks) * math.prod(shape[len(ranks) :]), math.prod(shape))


def tucker_selection(alpha: float, modes: int | None) -> Case:
    def cost(delta: Tensor) -> float:
        from_rank = [
            range(rank(unfold(delta, k)), n + 1) for k, n in enumerate(delta.shape[:modes])
        ]
        return alpha * min(
            tucker_parameters(delta.shape, ranks) for ranks in itertools.product(*from_rank)
        )

    def near(x: Tensor, delta: Tensor) -> Tensor:
        return near_tucker(*(int(torch.randint(n + 1, ())) for n in x.shape[:modes]))(x, delta)

    # of Delta, a smaller rank may be worth its price
    options = {"shape": (4, 3, 2, 2), "batch": False, "idempotent": False, "slack": 0.01}
    return Case(
        f"tucker selection {alpha}, modes {modes}",
        TuckerSelection(alpha, modes=modes),
        near,
        cost=cost,
        **options,
    )


# --- the cases


def powers(c: int) -> tuple[float, ...]:
    return (0.0, *(sign * 2.0**-j for j in range(c + 1) for sign in (-1, 1)))


def codebook(name: str, k: int, **options: Any) -> Case:
    exact = options.pop("exact", None)
    return Case(
        name, Codebook(k, exact), near_codebook(k), lambda d: len(d.unique()) <= k, **options
    )


def scaled(name: str, compression: Any, *values: float, **options: Any) -> Case:
    return Case(name, compression, near_scaled(*values), multiples(values), **options)


def fixed(name: str, compression: Any, *values: float) -> Case:
    return Case(name, compression, near_fixed(*values), among(values))


def uniform(bits: int, zero_point: bool = False) -> Case:
    name = f"uniform {bits} bits" + (", zero point" if zero_point else "")
    # a descent step: its second run may leave a grid that it does not start from, so it is
    # idempotent from a warm start only
    return Case(
        name,
        Uniform(bits, zero_point),
        near_grid(bits, zero_point),
        on_grid(bits, zero_point),
        cold=False,
        slack=0.005,
    )


def entropy(alpha: float, k: int, zero: bool, **options: Any) -> Case:
    def cost(delta: Tensor) -> float:
        return alpha * (
            entropy_bits(delta.tolist())
            + 40 * len({value for value in delta.tolist() if value or not zero})
        )

    def member(delta: Tensor) -> bool:
        return len(torch.cat([delta, delta.new_zeros(int(zero))]).unique()) <= k

    name = f"entropy {alpha}, {k} values" + (", with 0" if zero else "")
    return Case(
        name,
        EntropyCodebook(alpha, k, zero),
        near_entropy(k, zero, alpha),
        member,
        cost,
        cold=False,
        slack=0.001,
        **options,
    )


def entropy_matrix(alpha: float, k: int, **options: Any) -> Case:
    return Case(
        f"entropy {alpha}, {k} values, matrix",
        EntropyMatrix(alpha, k),
        near_entropy(k, True, alpha),
        lambda d: len(torch.cat([d.flatten(), d.new_zeros(1)]).unique()) <= k,
        lambda d: alpha * matrix_bits(d),
        shape=(6, 8),
        batch=False,
        cold=False,
        slack=0.001,
        precision=1e-6,
        **options,
    )


def codewords(name: str, k: int, shape: tuple[int, int], **options: Any) -> Case:
    return Case(
        name,
        VectorCodebook(k),
        near_codewords(k),
        lambda d: len(d.unique(dim=0)) <= k,
        shape=shape,
        **options,
    )


def hashed(k: int, seed: int = 0) -> Case:
    return Case(
        f"hashed {k}, seed {seed}", Hashed(k, seed), by_cell(k, seed), one_value_a_cell(k, seed)
    )


def top(name: str, kappa: int | float, count: Callable[[int], int]) -> Case:
    return Case(
        name,
        TopK(kappa),
        lambda x, d: near_sparse(count(len(x)))(x, d),
        lambda d: int(d.count_nonzero()) <= count(len(d)),
    )


def ball(compression: Any, norm: float) -> Case:
    kappa = compression.kappa

    def near(x: Tensor, delta: Tensor) -> Tensor:
        point = delta + torch.randn_like(x) * (torch.rand(x.shape) < 0.2) * 10 ** float(
            -4 * torch.rand(())
        )
        return point * min(1.0, kappa / max(1e-300, float(torch.linalg.vector_norm(point, norm))))

    return Case(
        f"l{norm} ball of {kappa}",
        compression,
        near,
        lambda d: float(torch.linalg.vector_norm(d, norm)) <= kappa * (1 + 1e-12),
    )


def group_penalty(kind: Any, alpha: float, costs: Any) -> Case:
    def each(delta: Tensor) -> Tensor:
        return alpha * torch.as_tensor(costs, dtype=delta.dtype).expand(len(delta))

    def lift(delta: Tensor) -> Tensor:
        return delta + each(delta).unsqueeze(1) / MU * torch.nn.functional.normalize(
            delta, eps=1e-300
        )

    name = f"{kind.__name__} {alpha}, {'a cost' if isinstance(costs, float) else 'costs'}"
    if kind is GroupL0Penalty:
        return Case(
            name,
            kind(alpha, costs),
            near_group_penalty,
            cost=lambda d: float(each(d)[groups_left(d)].sum()),
            shape=(6, 4),
        )
    return Case(
        name,
        kind(alpha, costs),
        near_group_penalty,
        cost=lambda d: float((each(d) * d.norm(dim=1)).sum()),
        lift=lift,
        shape=(6, 4),
    )


def nm(n: int, m: int) -> Case:
    return Case(
        f"{n}:{m}",
        NM(n, m),
        near_blocks(n, m),
        lambda d: bool((d.view(-1, m).count_nonzero(1) <= n).all()),
    )


def rank_selection(
    name: str, alpha: float, cost: Any, table: Callable[[int, int, int], float]
) -> Case:
    selection = RankSelection(alpha, cost)
    return Case(
        name, selection, near_any_rank, cost=rank_cost(alpha, table), shape=(7, 5), batch=False
    )


def conv(alpha: float, *schemes: int) -> Case:
    # with two schemes Delta need not be its own compression: a kernel of low rank in one scheme may
    # be nearer, in price, to one of the other
    selection = ConvRankSelection(alpha, schemes=schemes)
    return Case(
        f"conv ranks {schemes}, alpha {alpha}",
        selection,
        near_kernel,
        cost=conv_cost(alpha, *schemes),
        shape=(4, 3, 3, 2),
        batch=False,
        idempotent=len(schemes) == 1,
    )


def additive(
    name: str, *terms: tuple[Any, Any, Callable[[Tensor, Tensor], Tensor]], **options: Any
) -> Case:
    compression = Additive([term[:2] for term in terms])
    return Case(
        name, compression, near_sum(*terms), batch=False, cold=not options.get("slack"), **options
    )


def but_for(kappa: int, *values: float) -> Callable[[Tensor], bool]:
    """All but kappa entries are one of the values, times one scale where none is given: the most
    frequent magnitude."""

    def member(delta: Tensor) -> bool:
        allowed = (
            delta.new_tensor(values)
            if values
            else delta.abs().mode().values * delta.new_tensor([-1, 1])
        )
        return int((~torch.isin(delta, allowed)).sum()) <= kappa

    return member


def entries(theta: Any) -> float:
    """2 for a float of a dense array, 1 for any other number."""
    return (
        2 * theta.values.numel()
        if isinstance(theta, Dense)
        else sum(field.numel() for field in tensors(theta).values())
    )


VECTOR, MATRIX = leco.Vector(), leco.Matrix()
PLATEAUS = (0.5, 3.0, 3.0, 1.0, 4.0, 3.5)
CASES = [
    *(codebook(f"codebook {k}", k) for k in (1, 2, 3, 5)),
    codebook("codebook for each", 8, shape=(8,)),
    codebook("codebook 3, lloyd", 3, exact=False, cold=False),
    codebook("codebook 1, lloyd", 1, descent=True),
    fixed("values", FixedCodebook((2, -1, 0)), -1, 0, 2),
    fixed("one value", FixedCodebook((0.5,)), 0.5),
    scaled("scaled values", FixedCodebook((-1, 0, 2), True), -1, 0, 2),
    scaled(
        "scaled values, descent",
        FixedCodebook((-1, 0, 2), True),
        -1,
        0,
        2,
        descent=True,
        cold=False,
        slack=0.02,
    ),
    scaled("scaled positive values", FixedCodebook((1, 2, 5), True), 1, 2, 5),
    scaled(
        "scaled positive values, descent",
        FixedCodebook((1, 2, 5), True),
        1,
        2,
        5,
        descent=True,
        cold=False,
        slack=0.02,
    ),
    scaled("scaled one value", FixedCodebook((2,), True), 2),
    scaled("scaled one value, descent", FixedCodebook((2,), True), 2, descent=True),
    scaled("scaled uneven values", FixedCodebook((-1e-7, 1), True), -1e-7, 1),
    fixed("signs", Binary(scale=False), -1, 1),
    scaled("binary", Binary(), -1, 1),
    fixed("ternary signs", Ternary(scale=False), -1, 0, 1),
    scaled("ternary", Ternary(), -1, 0, 1),
    *(fixed(f"powers of two to 2^-{c}", PowersOfTwo(c), *powers(c)) for c in (0, 3)),
    scaled("scaled powers", PowersOfTwo(2, scale=True), *powers(2)),
    scaled(
        "scaled powers, descent",
        PowersOfTwo(2, scale=True),
        *powers(2),
        descent=True,
        cold=False,
        slack=0.005,
    ),
    *(uniform(bits) for bits in (2, 4, 8)),
    *(uniform(bits, zero_point=True) for bits in (2, 3)),
    *(codewords(f"codewords {k}", k, (24, 3), slack=0.01) for k in (2, 5, 20)),
    codewords("one codeword", 1, (24, 3)),
    codewords("codeword for each", 8, (8, 2)),
    codewords("codewords of one weight", 3, (24, 1)),
    *(
        entropy(*options)
        for options in (
            (0.0, 4, True),
            (1e-3, 2, True),
            (1e-3, 4, False),
            (0.03, 4, True),
            (0.03, 2, False),
            (1e3, 4, True),
        )
    ),
    *(entropy_matrix(*options) for options in ((1e-3, 4), (0.03, 2))),
    *(hashed(*options) for options in ((1,), (6,), (6, 2**32 - 1), (24,))),
    *(top(f"top {kappa}", kappa, lambda n, kappa=kappa: kappa) for kappa in (0, 1, 7, 24)),
    *(
        top(f"top share {share}", share, lambda n, share=share: math.floor(share * n + 0.5))
        for share in (0.0, 0.3, 0.99)
    ),
    Case(
        "top 7, l2",
        TopK(7, gamma=0.5),
        near_sparse(7, MU / (MU + 0.5)),
        lambda d: int(d.count_nonzero()) <= 7,
        lambda d: 0.25 * float(d.square().sum()),
        lambda d: d + 0.5 * d / MU,
    ),
    *(ball(L1Ball(kappa), 1) for kappa in (0, 3.0, 1e6)),
    *(ball(L2Ball(kappa), 2) for kappa in (0, 1.5, 1e6)),
    *(
        Case(
            f"l0 penalty {a}",
            L0Penalty(a),
            near_penalty,
            cost=lambda d, a=a: a * int(d.count_nonzero()),
        )
        for a in (0, 0.2)
    ),
    *(
        Case(
            f"l1 penalty {a}",
            L1Penalty(a),
            near_penalty,
            cost=lambda d, a=a: a * float(d.abs().sum()),
            lift=lambda d, a=a: d + a * d.sign() / MU,
        )
        for a in (0, 0.2)
    ),
    *(
        Case(
            f"{kappa} groups",
            GroupTopK(kappa),
            lambda x, d, count=count: near_groups(count(len(x)))(x, d),
            lambda d, count=count: int(groups_left(d).sum()) <= count(len(d)),
            shape=(6, 4),
        )
        for kappa, count in (
            *((kappa, lambda n, kappa=kappa: kappa) for kappa in (0, 1, 3, 6)),
            (0.5, lambda n: n // 2),
        )
    ),
    *(
        group_penalty(kind, alpha, costs)
        for kind in (GroupL0Penalty, GroupL1Penalty)
        for alpha, costs in ((0.0, 1.0), (0.7, 1.0), (0.7, (1.0, 2.0, 0.0, 0.5, 3.0, 0.1)))
    ),
    *(nm(n, m) for n, m in ((2, 4), (1, 4), (3, 8), (6, 12), (1, 1), (4, 4), (3, 24))),
    *(
        Case(f"rank {r}", LowRank(r), near_rank(r), lambda d, r=r: rank(d) <= r, shape=(7, 5))
        for r in (0, 2, 5)
    ),
    *(
        rank_selection(f"rank selection {alpha}", alpha, leco.storage, storage)
        for alpha in (0, 0.1, 0.2, 100)
    ),
    rank_selection(
        "multiply-adds", 1e-3, leco.MultiplyAdds(100), lambda m, n, r: 100 * storage(m, n, r)
    ),
    rank_selection("table", 0.9, leco.Table(PLATEAUS), lambda m, n, r: PLATEAUS[r]),
    *(conv(alpha, *schemes) for alpha in (0.02, 0.1, 100) for schemes in ((1,), (2,), (1, 2))),
    *(
        Case(
            f"tucker-2 {ranks}",
            Tucker2(ranks),
            near_tucker(*ranks),
            multilinear_rank(*ranks),
            shape=(5, 4, 3, 2),
            batch=False,
            slack=0.01,
        )
        for ranks in ((3, 2), (5, 2), (5, 4))
    ),
    Case(
        "tucker",
        Tucker((3, 2, 2)),
        near_tucker(3, 2, 2),
        multilinear_rank(3, 2, 2),
        shape=(5, 4, 3),
        batch=False,
        slack=0.01,
    ),
    *(tucker_selection(*options) for options in ((0, 2), (0.02, 2), (0.1, None), (100, 2))),
    *(
        Case(
            f"cp {r}",
            CP(r),
            near_cp(r),
            multilinear_rank(r, r, r),
            shape=(5, 4, 3),
            batch=False,
            cold=False,
            slack=0.01,
        )
        for r in (1, 2, 12)
    ),
    *(
        Case(
            f"train {ranks}",
            TensorTrain(ranks),
            near_train(*ranks),
            train_rank(*ranks),
            shape=(5, 4, 3),
            batch=False,
            slack=0.01,
        )
        for ranks in ((3, 2), (5, 3))
    ),
    additive(
        "signs + top 5",
        (VECTOR, Binary(scale=False), near_fixed(-1, 1)),
        (VECTOR, TopK(5), near_sparse(5)),
        member=but_for(5, -1, 1),
    ),
    additive(
        "powers + l0 penalty",
        (VECTOR, L0Penalty(0.2), near_penalty),
        (VECTOR, PowersOfTwo(1), near_fixed(*powers(1))),
        cost=lambda d: 0.2 * int((~torch.isin(d, d.new_tensor(powers(1)))).sum()),
    ),
    additive(
        "binary + top 5",
        (VECTOR, Binary(), near_scaled(-1, 1)),
        (VECTOR, TopK(5), near_sparse(5)),
        member=but_for(5),
    ),
    additive(
        "codebook 2 + top 5",
        (VECTOR, Codebook(2), near_codebook(2)),
        (VECTOR, TopK(5), near_sparse(5)),
        slack=0.03,
    ),
    additive(
        "codebook 2 + codebook 3",
        (VECTOR, Codebook(2), near_codebook(2)),
        (VECTOR, Codebook(3), near_codebook(3)),
        member=lambda d: (
            len(((d - d.min()) / (d.max() - d.min()).clamp(min=1e-300)).round(decimals=9).unique())
            <= 6
        ),
        slack=0.03,
    ),
    additive(
        "rank 1 + top 5",
        (MATRIX, LowRank(1), near_rank(1)),
        (VECTOR, TopK(5), near_sparse(5)),
        shape=(7, 5),
        slack=0.03,
    ),
    additive(
        "rank 1 + ternary + top 5",
        (MATRIX, LowRank(1), near_rank(1)),
        (VECTOR, Ternary(), near_scaled(-1, 0, 1)),
        (VECTOR, TopK(5), near_sparse(5)),
        shape=(7, 5),
        slack=0.03,
    ),
    additive(
        "ranks of two matrices",
        (MATRIX, LowRank(1), near_rank(1)),
        (leco.Matrix((0, 2)), LowRank(1), near_rank(1)),
        shape=(4, 3, 3, 2),
        slack=0.03,
    ),
    Case(
        "top 7, codebook 3",
        Compose(TopK(7), Codebook(3)),
        near_composed(near_sparse(7), near_codebook(3)),
        lambda d: int(d.count_nonzero()) <= 7 and len(d[d != 0].unique()) <= 3,
        batch=False,
        cold=False,
        slack=0.03,
    ),
    Case(
        "l0 penalty, signs",
        Compose(L0Penalty(0.2), Binary()),
        near_composed(near_penalty, near_scaled(-1, 1)),
        lambda d: len(d[d != 0].abs().unique()) <= 1,
        lambda d: 0.2 * int(d.count_nonzero()),
        batch=False,
        idempotent=False,  # a smaller value may not be worth its price
        slack=0.03,
    ),
    Case(
        "rank 2, grid",
        Compose(LowRank(2), Uniform(6)),
        near_factors(2, 6),
        lambda d: rank(d) <= 2,
        shape=(7, 5),
        batch=False,
        cold=False,
        slack=0.01,
    ),
    Case("uncompressed", Uncompressed(), lambda x, d: d + 1e-3 * torch.randn_like(x)),
    # one member whose distortion is a convex function of its cost, where a price finds every point
    Case(
        "budget of 2 ranks",
        Budget((leco.Part(MATRIX, RankSelection(0, lambda shape, r: r * sum(shape))),), 35),
        near_rank(2),
        lambda d: rank(d) <= 2,
        shape=(7, 5),
        batch=False,
    ),
    *(
        Case(
            f"choice, alpha {alpha}",
            Choice(
                alpha,
                [
                    (VECTOR, Binary()),
                    leco.Part(VECTOR, L0Penalty(0), unit=3),
                    (VECTOR, Uncompressed()),
                ],
                cost=entries,
            ),
            lambda x, d: (near_penalty if torch.rand(()) < 0.5 else near_scaled(-1, 1))(x, d),
            cost=lambda d, alpha=alpha: (
                alpha
                * min(
                    3 * int(d.count_nonzero()),
                    2 * len(d),
                    len(d) + 3 if len(d.abs().unique()) == 1 else torch.inf,
                )
            ),
            batch=False,
            idempotent=False,  # as with two schemes
        )
        for alpha in (0.0, 0.01, 0.2)
    ),
]


def inputs(case: Case) -> Iterator[Tensor]:
    x = torch.randn(case.shape, dtype=torch.float64)
    yield x
    yield from (1e-6 * x, 50 * x, -x.abs(), x + 3)
    yield (2 * x).round()  # ties
    yield x.sign()
    yield torch.ones_like(x)
    yield torch.zeros_like(x)
    yield torch.where(x.abs() < 1, 0.0, x)
    yield case.compress(x).decompress()  # in the set already
    yield case.compress(x).decompress() * 0.5
    ones = (1,) * len(case.shape)
    if case.takes(ones):
        yield from (x.reshape(-1)[:1].reshape(ones), torch.zeros(ones, dtype=x.dtype))


def objective(case: Case, x: Tensor, theta: Any) -> float:
    return MU / 2 * float((x - theta.decompress()).square().sum()) + case.compression.price(theta)


def tensors(field: Any, path: str = "theta") -> dict[str, Tensor]:
    """All tensors of a Theta, those of the Thetas in it included."""
    if isinstance(field, Tensor):
        return {path: field}
    members = (
        zip(field._fields, field, strict=True)
        if hasattr(field, "_fields")
        else enumerate(field)
        if isinstance(field, tuple)
        else ()
    )
    return {
        place: tensor
        for name, member in members
        for place, tensor in tensors(member, f"{path}.{name}").items()
    }


def same(one: Any, other: Any) -> bool:
    a, b = tensors(one), tensors(other)
    return (
        type(one) is type(other)
        and a.keys() == b.keys()
        and all(torch.equal(a[name], b[name]) for name in a)
    )


def raises(error: type[Exception], call: Callable[[], Any], *words: str) -> None:
    """`pytest.raises`, as an assertion that `broken.py` can be seen to fail."""
    try:
        call()
    except error as e:
        message = str(e)
    else:
        raise AssertionError(f"nothing raised {error.__name__}")
    assert all(word in message for word in words), f"{message!r} does not name {words}"


# --- the laws


def law_input_untouched(case: Case) -> None:
    for x in inputs(case):
        before, theta = x.clone(), case.compress(x)
        assert torch.equal(x, before)
        kept = {name: field.clone() for name, field in tensors(theta).items()}
        case.compress(x + 0.1 * torch.randn_like(x), theta)
        assert all(torch.equal(field, kept[name]) for name, field in tensors(theta).items()), (
            "the warm start was changed"
        )


def law_own_memory(case: Case) -> None:
    for x in inputs(case):
        for name, field in tensors(case.compress(x)).items():
            assert (
                not field.numel()
                or field.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
            ), name


def law_dtype_kept(case: Case) -> None:
    for x in inputs(case):
        exact = objective(case, x, case.compress(x))
        for dtype in (torch.float32, torch.float64):
            theta = case.compress(x.to(dtype))
            assert theta.decompress().dtype == dtype
            assert all(
                field.dtype in (dtype, torch.bool, torch.uint8, torch.int32)
                for field in tensors(theta).values()
            )
            assert case.compress(x.to(dtype), theta).decompress().dtype == dtype
            assert objective(case, x, theta) <= exact * 1.001 + (1e-6 + case.slack) * float(
                x.square().sum()
            )


def law_device_kept(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x.cuda())
        assert theta.decompress().is_cuda
        assert all(field.is_cuda for field in tensors(theta).values())
        reached = objective(case, x.cuda(), theta)
        assert reached <= objective(case, x, case.compress(x)) + (1e-9 + case.slack) * float(
            x.square().sum()
        )
        assert objective(case, x.cuda(), case.compress(x.cuda(), theta)) <= reached * (
            1 + 1e-9
        ) + 1e-12 * float(x.square().sum())


def law_deterministic(case: Case) -> None:
    for x in inputs(case):
        state = torch.get_rng_state()
        theta = case.compress(x)
        assert torch.equal(torch.get_rng_state(), state), "random numbers were drawn"
        assert same(theta, case.compress(x))
        assert same(case.compress(x, theta), case.compress(x, theta))


def law_strides_do_not_matter(case: Case) -> None:
    for x in inputs(case):
        spread = (
            torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]
            .transpose(0, -1)
            .contiguous()
            .transpose(0, -1)
        )
        wide = torch.stack([x, x + 1], dim=-1)[..., 0]
        delta = case.compress(x).decompress()
        assert close(case.compress(spread).decompress(), delta)
        assert close(case.compress(wide).decompress(), delta)


def law_member(case: Case) -> None:
    for x in inputs(case):
        delta = case.compress(x).decompress()
        assert delta.shape == x.shape
        assert torch.isfinite(delta).all()
        assert case.member(delta)


def law_idempotent(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        delta = theta.decompress()
        again = case.compress(case.lift(delta), None if case.cold else theta).decompress()
        assert close(again, delta), (again - delta).abs().max()


def law_optimal(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        delta, reached = theta.decompress(), objective(case, x, theta)
        for _ in range(60):
            other = case.near(x, delta)
            least = MU / 2 * float((x - other).square().sum()) + case.cost(other)
            assert reached <= least * (1 + 1e-9) + (1e-12 + case.slack) * float(x.square().sum())


def law_price_is_the_cost(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        cost = case.cost(theta.decompress())
        assert abs(case.compression.price(theta) - cost) <= case.precision * (1 + cost)


def law_warm_start_is_never_worse(case: Case) -> None:
    for x in inputs(case):
        for noise in (0.01, 0.1, 1.0):
            start = case.compress(x + noise * x.std(correction=0) * torch.randn_like(x))
            assert objective(case, x, case.compress(x, start)) <= objective(case, x, start) * (
                1 + 1e-9
            ) + 1e-12 * float(x.square().sum())


def law_leading_dimensions_are_a_batch(case: Case) -> None:
    problems = [x for x in inputs(case) if x.shape == case.shape]
    rows = torch.stack(problems[:10]).unflatten(0, (2, 5))
    together = case.compress(rows).decompress()
    for row, delta in zip(rows.flatten(0, 1), together.flatten(0, 1), strict=True):
        alone = case.compress(row).decompress()
        assert close(delta, alone)


def law_nan_and_infinity_raise(case: Case) -> None:
    for value in (math.nan, math.inf, -math.inf):
        x = torch.randn(case.shape, dtype=torch.float64)
        x.view(-1)[len(x) // 2] = value
        raises(ValueError, lambda x=x: case.compress(x), "NaN or infinite")


def law_bits_are_the_bytes_written(case: Case) -> None:
    for x in inputs(case):
        theta = case.compress(x)
        written = 0
        for name, field in tensors(theta).items():
            try:
                payload, coding = encode(field)
            except ValueError as e:
                raise AssertionError(f"{name} can't be written") from e
            assert torch.equal(decode(payload, coding, field.shape, field.dtype), field)
            written += payload.numel()
        assert leco.bits(theta) == 8 * written


LAWS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("law_"): law
    for name, law in list(globals().items())
    if name.startswith("law_")
}
if not torch.cuda.is_available():
    del LAWS["device_kept"]
FAULTS = [fault for fault in broken.FAULTS if fault.law in LAWS]


def applies(law: str, case: Case) -> bool:
    return (case.batch or law != "leading_dimensions_are_a_batch") and (
        case.idempotent or law != "idempotent"
    )


@pytest.mark.parametrize(
    ("law", "case"),
    [pytest.param(n, c, id=f"{n}-{c.name}") for n in LAWS for c in CASES if applies(n, c)],
)
def test_law(law, case):
    LAWS[law](case)


def test_every_compression_has_a_case():
    assert {type(case.compression) for case in CASES} == set(ALL)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault.compression).__name__)
def test_law_fails_on_a_broken_compression(fault):
    case = next(case for case in CASES if case.name == fault.case)
    LAWS[fault.law](case)
    with pytest.raises(AssertionError):
        LAWS[fault.law](replace(case, compression=fault.compression))


def test_every_law_has_a_broken_compression():
    assert {fault.law for fault in FAULTS} == set(LAWS)


# --- what no single case shows


@pytest.mark.parametrize("exact", [None, False])
def test_a_retrained_codebook_in_any_order_is_a_warm_start(exact):
    x = torch.randn(300, dtype=torch.float64)
    for _ in range(20):
        values = 2 * torch.randn(4, dtype=torch.float64)
        start = Codes((x.unsqueeze(-1) - values).abs().argmin(-1).to(torch.uint8), values)
        case = codebook("retrained", 4, exact=exact)
        assert objective(case, x, case.compress(x, start)) <= objective(case, x, start) * (1 + 1e-9)


def test_a_retrained_scale_below_0_is_a_warm_start():
    case = scaled("retrained", PowersOfTwo(2, scale=True), *powers(2), descent=True)
    for _ in range(20):
        x = torch.randn(30, dtype=torch.float64)
        start = case.compress(x + torch.randn_like(x))
        # the same Delta: the 7 values are symmetric
        start = Scaled(6 - start.indices, start.values, -start.scale)
        assert objective(case, x, case.compress(x, start)) <= objective(case, x, start) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("compression", "expected"),
    [
        (TopK(0), [0, 0, 0, 0]),
        (TopK(4), [3, -3, 0.5, 0]),
        (TopK(1), [3, 0, 0, 0]),
        (L1Ball(6.5), [3, -3, 0.5, 0]),
        (L1Ball(6.4999), None),
        (L1Ball(0), [0, 0, 0, 0]),
        (L2Ball(18.25**0.5 * (1 + 1e-15)), [3, -3, 0.5, 0]),
        (L2Ball(0), [0, 0, 0, 0]),
        (Codebook(4), [3, -3, 0.5, 0]),
        (Codebook(1), [0.125, 0.125, 0.125, 0.125]),
        (Binary(False), [1, -1, 1, 1]),
        (Binary(), [1.625, -1.625, 1.625, 1.625]),
        (L0Penalty(0), [3, -3, 0.5, 0]),
    ],
    ids=label,
)
def test_edge(compression, expected):
    x = torch.tensor([3, -3, 0.5, 0], dtype=torch.float64)
    delta = compression.compress(x, MU).decompress()
    assert (
        not torch.equal(delta, x)
        if expected is None
        else torch.equal(delta, x.new_tensor(expected))
    )


def test_ties_keep_exactly_kappa_and_the_first():
    x = torch.tensor([[1.0, -2, 2, 1, -1, 0], [-1, -1, -1, 1, 1, 1]])
    kept = TopK(3).compress(x, MU).mask
    assert kept.tolist() == [
        [True, True, True, False, False, False],
        [True, True, True, False, False, False],
    ]


def test_rank_full_is_the_matrix_itself():
    x = torch.randn(2, 3, 4)
    assert torch.equal(LowRank(3).compress(x, MU).decompress(), x)
    assert torch.equal(RankSelection(0.0).compress(x[0], MU).decompress(), x[0])
    assert LowRank(0).compress(x, MU).decompress().count_nonzero() == 0


# --- errors


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Codebook(0), ValueError, ("Codebook: k = 0", "at least 1")),
        (lambda: Codebook(65537), ValueError, ("Codebook: k = 65537", "at most 65536")),
        (lambda: Codebook(2.0), TypeError, ("Codebook: k = 2.0", "integer")),
        (lambda: Codebook(True), TypeError, ("Codebook: k = True", "integer")),
        (lambda: FixedCodebook(()), ValueError, ("FixedCodebook: values = ()", "1 to 65536")),
        (
            lambda: FixedCodebook((1, 1.0)),
            ValueError,
            ("FixedCodebook: values = (1.0, 1.0)", "distinct"),
        ),
        (
            lambda: FixedCodebook((0, math.nan)),
            ValueError,
            ("FixedCodebook: values = ", "nan", "finite"),
        ),
        (
            lambda: FixedCodebook((0, math.inf)),
            ValueError,
            ("FixedCodebook: values = ", "inf", "finite"),
        ),
        (
            lambda: FixedCodebook(("one",)),
            TypeError,
            ("FixedCodebook: values = ('one',)", "numbers"),
        ),
        (lambda: FixedCodebook(3), TypeError, ("FixedCodebook: values = 3", "numbers")),
        (
            lambda: FixedCodebook((0,), scale=True),
            ValueError,
            ("FixedCodebook: values = (0.0,)", "scaled"),
        ),
        (lambda: PowersOfTwo(-1), ValueError, ("PowersOfTwo: c = -1", "at least 0")),
        (lambda: PowersOfTwo(127), ValueError, ("PowersOfTwo: c = 127", "at most 126")),
        (lambda: PowersOfTwo(1.5), TypeError, ("PowersOfTwo: c = 1.5", "integer")),
        (lambda: Uniform(1), ValueError, ("Uniform: bits = 1", "at least 2")),
        (lambda: Uniform(9), ValueError, ("Uniform: bits = 9", "at most 8")),
        (lambda: Uniform("8"), TypeError, ("Uniform: bits = '8'", "integer")),
        (
            lambda: EntropyCodebook(-1.0),
            ValueError,
            ("EntropyCodebook: alpha = -1.0", "at least 0"),
        ),
        (lambda: EntropyCodebook(1.0, 0), ValueError, ("EntropyCodebook: k = 0", "at least 1")),
        (
            lambda: EntropyCodebook(1.0, 257),
            ValueError,
            ("EntropyCodebook: k = 257", "at most 256"),
        ),
        (lambda: EntropyMatrix(math.nan), ValueError, ("EntropyMatrix: alpha = nan", "finite")),
        (lambda: EntropyMatrix(1.0, 1), ValueError, ("EntropyMatrix: k = 1", "at least 2")),
        (lambda: VectorCodebook(0), ValueError, ("VectorCodebook: k = 0", "at least 1")),
        (lambda: VectorCodebook(65537), ValueError, ("VectorCodebook: k = 65537", "at most 65536")),
        (
            lambda: VectorCodebook(2, sweeps=0),
            ValueError,
            ("VectorCodebook: sweeps = 0", "at least 1"),
        ),
        (lambda: Hashed(0), ValueError, ("Hashed: k = 0", "at least 1")),
        (lambda: Hashed(2, seed=-1), ValueError, ("Hashed: seed = -1", "at least 0")),
        (
            lambda: Hashed(2, seed=2**32),
            ValueError,
            ("Hashed: seed = 4294967296", "at most 4294967295"),
        ),
        (lambda: Hashed(2, seed=0.5), TypeError, ("Hashed: seed = 0.5", "integer")),
        (lambda: GroupTopK(-1), ValueError, ("GroupTopK: kappa = -1", "at least 0")),
        (lambda: GroupTopK(1.0), ValueError, ("GroupTopK: kappa = 1.0", "below 1.0")),
        (lambda: GroupL0Penalty(-1), ValueError, ("GroupL0Penalty: alpha = -1", "at least 0")),
        (
            lambda: GroupL0Penalty(1, (1.0, -2.0)),
            ValueError,
            ("GroupL0Penalty: costs = -2.0", "at least 0"),
        ),
        (
            lambda: GroupL1Penalty(1, math.inf),
            ValueError,
            ("GroupL1Penalty: costs = inf", "finite"),
        ),
        (lambda: NM(0, 4), ValueError, ("NM: n = 0", "at least 1")),
        (lambda: NM(5, 4), ValueError, ("NM: n = 5", "at most 4")),
        (lambda: NM(1, 0), ValueError, ("NM: m = 0", "at least 1")),
        (lambda: NM(2.0, 4), TypeError, ("NM: n = 2.0", "integer")),
        (lambda: TopK(-1), ValueError, ("TopK: kappa = -1", "at least 0")),
        (lambda: TopK(-0.1), ValueError, ("TopK: kappa = -0.1", "at least 0.0")),
        (lambda: TopK(1.0), ValueError, ("TopK: kappa = 1.0", "below 1.0")),
        (lambda: TopK(math.nan), ValueError, ("TopK: kappa = nan", "below 1.0")),
        (lambda: TopK(True), TypeError, ("TopK: kappa = True", "integer")),
        (lambda: TopK(None), TypeError, ("TopK: kappa = None", "integer")),
        (lambda: TopK(1, gamma=-1), ValueError, ("TopK: gamma = -1", "at least 0")),
        (lambda: TopK(1, gamma=math.inf), ValueError, ("TopK: gamma = inf", "finite")),
        *(
            (
                lambda kind=kind, value=value: kind(value),
                error,
                (f"{kind.__name__}: {option} = {value!r}", bound),
            )
            for kind, option in (
                (L1Ball, "kappa"),
                (L2Ball, "kappa"),
                (L0Penalty, "alpha"),
                (L1Penalty, "alpha"),
                (RankSelection, "alpha"),
            )
            for value, error, bound in (
                (-1, ValueError, "at least 0"),
                (math.nan, ValueError, "finite"),
                (math.inf, ValueError, "finite"),
                ("1", TypeError, "number"),
                (True, TypeError, "number"),
            )
        ),
        (lambda: LowRank(-1), ValueError, ("LowRank: rank = -1", "at least 0")),
        (lambda: LowRank(2.0), TypeError, ("LowRank: rank = 2.0", "integer")),
        (
            lambda: ConvRankSelection(-1),
            ValueError,
            ("ConvRankSelection: alpha = -1", "at least 0"),
        ),
        (
            lambda: ConvRankSelection(1, schemes=()),
            ValueError,
            ("ConvRankSelection: schemes = ()", "(1, 2)"),
        ),
        (
            lambda: ConvRankSelection(1, schemes=(0, 1)),
            ValueError,
            ("ConvRankSelection: schemes = (0, 1)", "(1, 2)"),
        ),
    ],
)
def test_an_option_out_of_range_is_named(make, error, words):
    raises(error, make, *words)


@pytest.mark.parametrize(
    ("compression", "shape", "words"),
    [
        (TopK(5), (3, 4), ("TopK: kappa = 5", "at most 4")),
        (Codebook(5), (3, 4), ("Codebook: k = 5", "at most 4")),
        (VectorCodebook(4), (5, 3, 4), ("VectorCodebook: k = 4", "at most 3")),
        (VectorCodebook(1), (4,), ("VectorCodebook", "(4,)", "Groups(d)")),
        (Hashed(5), (3, 4), ("Hashed: k = 5", "at most 4")),
        (EntropyMatrix(1.0), (4,), ("EntropyMatrix", "(4,)", "Matrix()")),
        (GroupTopK(4), (2, 3, 4), ("GroupTopK: kappa = 4", "at most 3")),
        (GroupTopK(1), (4,), ("GroupTopK", "(4,)", "Rows()")),
        (GroupL1Penalty(1, (1.0, 2.0)), (3, 4), ("GroupL1Penalty: costs has 2", "must have 3")),
        (NM(2, 4), (4, 6), ("NM: m = 4", "must divide", "(4, 6)")),
        (LowRank(4), (2, 3, 4), ("LowRank: rank = 4", "at most 3")),
        (LowRank(1), (4,), ("LowRank", "(4,)", "Matrix()")),
        (RankSelection(1), (4,), ("RankSelection", "(4,)", "Matrix()")),
        (RankSelection(1), (2, 3, 4), ("RankSelection", "(2, 3, 4)", "one matrix")),
        (RankSelection(1, leco.Table([1, 2, 3])), (3, 4), ("Table: 3 values", "must be 4")),
        (ConvRankSelection(1), (3, 4), ("ConvRankSelection", "(3, 4)", "(out, in, height, width)")),
        (
            ConvRankSelection(1, leco.Table([1, 2, 3])),
            (3, 4, 2, 2),
            ("Table: 3 values", "must be 4"),
        ),
        (
            ConvRankSelection(1, leco.Table([1, 2, 3, 4])),
            (3, 4, 2, 2),
            ("Table: 4 values", "must be 7"),
        ),
    ],
    ids=label,
)
def test_a_shape_that_does_not_fit_is_named(compression, shape, words):
    raises(ValueError, lambda: compression.check(torch.Size(shape)), *words)
    raises(ValueError, lambda: compression.compress(torch.zeros(shape), MU), *words)


@pytest.mark.parametrize(
    ("compression", "shape"),
    [
        (TopK(4), (3, 4)),
        (TopK(0.99), (1,)),
        (Codebook(4), (3, 4)),
        (VectorCodebook(3), (5, 3, 4)),
        (Hashed(4), (3, 4)),
        (GroupTopK(3), (2, 3, 4)),
        (GroupL0Penalty(1, (1.0, 2.0, 3.0)), (2, 3, 4)),
        (NM(4, 4), (3, 8)),
        (LowRank(3), (2, 3, 4)),
        (RankSelection(1, leco.Table([1, 2, 3, 4])), (3, 4)),
        (ConvRankSelection(1, leco.Table([1, 2, 3, 4]), schemes=(1,)), (3, 4, 2, 2)),
    ],
    ids=label,
)
def test_a_shape_on_the_bound_fits(compression, shape):
    compression.check(torch.Size(shape))

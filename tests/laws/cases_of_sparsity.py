"""Cases of pruning."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laws.case import MU, Case
from laws.points import near_blocks, near_group_penalty, near_groups, near_penalty, near_sparse
from laws.sets import groups_left
from leco.compressions import (
    NM,
    GroupL0Penalty,
    GroupL1Penalty,
    GroupTopK,
    L0Penalty,
    L1Ball,
    L1Penalty,
    L2Ball,
    TopK,
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


SPARSITY = [
    *(top(f"top {kappa}", kappa, lambda n, kappa=kappa: kappa) for kappa in (0, 1, 7, 24)),
    *(
        top(
            f"top share {share}",
            share,
            lambda n, share=share: max(math.floor(share * n + 0.5), share > 0),
        )
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
            (0.5, lambda n: max((n + 1) // 2, 1)),
        )
    ),
    *(
        group_penalty(kind, alpha, costs)
        for kind in (GroupL0Penalty, GroupL1Penalty)
        for alpha, costs in ((0.0, 1.0), (0.7, 1.0), (0.7, (1.0, 2.0, 0.0, 0.5, 3.0, 0.1)))
    ),
    *(nm(n, m) for n, m in ((2, 4), (1, 4), (3, 8), (6, 12), (1, 1), (4, 4), (3, 24))),
]

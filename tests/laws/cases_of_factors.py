"""Cases of low rank and of tensor decompositions."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import leco
from laws.case import Case
from laws.points_of_tensors import (
    near_any_rank,
    near_cp,
    near_kernel,
    near_rank,
    near_train,
    near_tucker,
)
from laws.sets import (
    conv_cost,
    multilinear_rank,
    rank,
    rank_cost,
    storage,
    train_rank,
    tucker_parameters,
    unfold,
)
from leco.compressions import (
    CP,
    ConvRankSelection,
    LowRank,
    RankSelection,
    TensorTrain,
    Tucker,
    Tucker2,
    TuckerSelection,
)


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


PLATEAUS = (0.5, 3.0, 3.0, 1.0, 4.0, 3.5)


FACTORS = [
    *(
        Case(
            f"rank {r}",
            LowRank(r),
            near_rank(r),
            lambda d, r=r: rank(d) <= r,
            shape=(7, 5),
            in_metric=0.01,
        )
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
            slow=True,
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
]

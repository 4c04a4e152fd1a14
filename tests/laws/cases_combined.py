"""Cases of combinations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import leco
from laws.case import Case
from laws.points import near_codebook, near_fixed, near_penalty, near_scaled, near_sparse
from laws.points_of_tensors import near_composed, near_factors, near_rank, near_sum
from laws.sets import but_for, entries, powers, rank
from leco.compressions import (
    Additive,
    Binary,
    Budget,
    Choice,
    Codebook,
    Compose,
    L0Penalty,
    LowRank,
    PowersOfTwo,
    RankSelection,
    Ternary,
    TopK,
    Uncompressed,
    Uniform,
)


def additive(
    name: str, *terms: tuple[Any, Any, Callable[[Tensor, Tensor], Tensor]], **options: Any
) -> Case:
    compression, descent = Additive([term[:2] for term in terms]), bool(options.get("slack"))
    options = {**options, "batch": False, "cold": not descent, "slow": descent}
    return Case(name, compression, near_sum(*terms), **options)


VECTOR, MATRIX = leco.Vector(), leco.Matrix()


COMBINED = [
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
        in_metric=0.02,
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
    Case(
        "budget of 2 ranks",
        Budget((leco.Part(MATRIX, RankSelection(0, lambda shape, r: r * sum(shape))),), 35),
        near_rank(2),
        lambda d: rank(d) <= 2,
        shape=(7, 5),
        batch=False,
        in_metric=0.05,
        slow=True,
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

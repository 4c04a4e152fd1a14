"""Cases of quantization."""

from typing import Any

import torch
from torch import Tensor

from laws.case import Case
from laws.points import (
    by_cell,
    near_codebook,
    near_codewords,
    near_entropy,
    near_fixed,
    near_grid,
    near_scaled,
    near_shifted,
    near_stored,
)
from laws.sets import (
    among,
    entropy_bits,
    matrix_bits,
    multiples,
    on_grid,
    on_line,
    one_value_a_cell,
    powers,
    stored_multiples,
)
from leco.compressions import (
    Binary,
    Codebook,
    EntropyCodebook,
    EntropyMatrix,
    FixedCodebook,
    Hashed,
    PowersOfTwo,
    Ternary,
    Uniform,
    UniformShift,
    VectorCodebook,
)


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


def stored(name: str, compression: Any, *values: float, **options: Any) -> Case:
    """Scales that are numbers of half precision."""
    sign = getattr(compression, "either_sign", False)
    near = near_stored(compression.scale_dtype, sign, *values)
    member = stored_multiples(compression.scale_dtype, sign, values)
    return Case(name, compression, near, member, **options)


def shifted(bits: int, scale_dtype: str | None = None) -> Case:
    return Case(
        f"shifted {bits} bits" + (f", {scale_dtype}" if scale_dtype else ""),
        UniformShift(bits, scale_dtype),
        near_shifted(bits, scale_dtype),
        on_line(bits),
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
        slow=True,
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
        in_metric=0.01,
        slow=True,
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


VALUES = [
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
    stored("stored binary", Binary(True, "float16"), -1, 1),
    stored("stored ternary", Ternary(True, "float16"), -1, 0, 1),
    stored(
        "stored uniform 4 bits, either sign",
        Uniform(4, scale_dtype="float16", either_sign=True),
        *range(-8, 8),
        cold=False,
        slack=0.005,
    ),
    *(shifted(*options) for options in ((3,), (4, "float16"))),
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
]

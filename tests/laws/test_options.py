"""Options and shapes that are out of range, and those on the bound."""

import math

import pytest
import torch
from labels import label

import leco
from laws.case import MU, raises
from leco.compressions import (
    NM,
    Codebook,
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
    TopK,
    Uniform,
    VectorCodebook,
)


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

"""Which compressions are not terms of one sum: their sum is another compression of one term."""

from typing import Any

from leco.compressions.balls import L1Ball, L2Ball
from leco.compressions.lowrank import LowRank, RankSelection
from leco.compressions.parts import Part
from leco.compressions.pruning import L0Penalty, L1Penalty, TopK
from leco.compressions.quantization import Binary, FixedCodebook, PowersOfTwo, Ternary

SPARSE = (TopK, L1Ball, L0Penalty, L1Penalty)
LOW_RANK = (LowRank, RankSelection)


def is_fixed(compression: Any) -> bool:
    return (
        isinstance(compression, (FixedCodebook, PowersOfTwo, Binary, Ternary))
        and not compression.scale
    )


def is_full(compression: Any, shape: Any) -> bool:
    """Whether every array of the shape is in the set."""
    if isinstance(compression, LowRank):
        return compression.rank >= min(shape[-2:])
    return isinstance(compression, TopK) and compression.count(shape[-1]) == shape[-1]


def rivals(one: Part, other: Part, same: bool) -> str | None:
    """Why two terms that meet in a block, or in all of them (`same`), are not a sum of two."""
    a, b = one.compression, other.compression
    same = same and one.view == other.view
    if isinstance(a, L2Ball) or isinstance(b, L2Ball):
        return (
            "an l2 ball leaves every weight free, and with another term takes more bytes "
            "than the dense weights; drop one of them"
        )
    if is_fixed(a) and is_fixed(b):
        return (
            "their sum is one fixed codebook; write FixedCodebook(values) with all sums of "
            "their values"
        )
    if same and isinstance(a, LowRank) and isinstance(b, LowRank):
        return f"their sum is one low rank; write LowRank({a.rank + b.rank})"
    if same and isinstance(a, LOW_RANK) and isinstance(b, LOW_RANK):
        return "their sum is one low rank; write one RankSelection"
    if same and isinstance(a, SPARSE) and isinstance(b, SPARSE):
        return (
            "both correct the same weights; write one of them, with the kappa, or the price, "
            "of both"
        )
    return None

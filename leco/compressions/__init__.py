"""Compressions: pure tensor functions, each a family Delta with its C step. They know no module, no file and no loop."""

from leco.compressions.lowrank import ConvRankSelection, LowRank, RankSelection
from leco.compressions.parts import Part, each_part
from leco.compressions.protocol import Compression, Penalty
from leco.compressions.pruning import L0Penalty, L1Ball, L1Penalty, L2Ball, TopK
from leco.compressions.quantization import Binary, Codebook, FixedCodebook, PowersOfTwo, Ternary, Uniform

ALL: tuple[type[Compression], ...] = (
    Codebook,
    FixedCodebook,
    Binary,
    Ternary,
    PowersOfTwo,
    Uniform,
    TopK,
    L1Ball,
    L2Ball,
    L0Penalty,
    L1Penalty,
    LowRank,
    RankSelection,
    ConvRankSelection,
)
"""Every compression: the laws in `tests/test_laws.py` run over this list."""

__all__ = [
    "ALL",
    "Binary",
    "Codebook",
    "Compression",
    "ConvRankSelection",
    "FixedCodebook",
    "L0Penalty",
    "L1Ball",
    "L1Penalty",
    "L2Ball",
    "LowRank",
    "Part",
    "Penalty",
    "PowersOfTwo",
    "RankSelection",
    "Ternary",
    "TopK",
    "Uniform",
    "each_part",
]

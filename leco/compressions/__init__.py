"""Compressions: pure tensor functions, each a family Delta with its C step. They know no module, no
file and no loop."""

from leco.compressions.additive import Additive
from leco.compressions.budget import Budget, coded_bytes
from leco.compressions.choice import Choice, Uncompressed
from leco.compressions.compose import Compose
from leco.compressions.cp import CP
from leco.compressions.entropy import EntropyCodebook
from leco.compressions.entropy_matrix import EntropyMatrix
from leco.compressions.groups import NM, GroupL0Penalty, GroupL1Penalty, GroupTopK
from leco.compressions.lowrank import ConvRankSelection, LowRank, RankSelection
from leco.compressions.parts import Part, each_part
from leco.compressions.protocol import Compression, Penalty
from leco.compressions.pruning import L0Penalty, L1Ball, L1Penalty, L2Ball, TopK
from leco.compressions.quantization import (
    Binary,
    Codebook,
    FixedCodebook,
    PowersOfTwo,
    Ternary,
    Uniform,
)
from leco.compressions.train import TensorTrain
from leco.compressions.tucker import Tucker, Tucker2, TuckerSelection
from leco.compressions.vectors import Hashed, VectorCodebook

ALL: tuple[type[Compression], ...] = (
    Codebook,
    FixedCodebook,
    Binary,
    Ternary,
    PowersOfTwo,
    Uniform,
    VectorCodebook,
    Hashed,
    EntropyCodebook,
    EntropyMatrix,
    TopK,
    L1Ball,
    L2Ball,
    L0Penalty,
    L1Penalty,
    GroupTopK,
    GroupL0Penalty,
    GroupL1Penalty,
    NM,
    LowRank,
    RankSelection,
    ConvRankSelection,
    Tucker2,
    Tucker,
    TuckerSelection,
    CP,
    TensorTrain,
    Additive,
    Budget,
    Choice,
    Uncompressed,
    Compose,
)
"""Every compression: the laws in `tests/test_laws.py` run over this list."""

__all__ = [
    "ALL",
    "CP",
    "NM",
    "Additive",
    "Binary",
    "Budget",
    "Choice",
    "Codebook",
    "Compose",
    "Compression",
    "ConvRankSelection",
    "EntropyCodebook",
    "EntropyMatrix",
    "FixedCodebook",
    "GroupL0Penalty",
    "GroupL1Penalty",
    "GroupTopK",
    "Hashed",
    "L0Penalty",
    "L1Ball",
    "L1Penalty",
    "L2Ball",
    "LowRank",
    "Part",
    "Penalty",
    "PowersOfTwo",
    "RankSelection",
    "TensorTrain",
    "Ternary",
    "TopK",
    "Tucker",
    "Tucker2",
    "TuckerSelection",
    "Uncompressed",
    "Uniform",
    "VectorCodebook",
    "coded_bytes",
    "each_part",
]

"""leco (LEarning-COmpression): make a trained PyTorch model small by constrained optimization, min L(w) subject to w = Delta(Theta)."""

from leco.algorithm import LC, Record, Snapshot
from leco.artifact import dense_bytes, load, save
from leco.batchnorm import recalibrate_
from leco.coding import bits
from leco.compressions import (
    Binary,
    Codebook,
    Compression,
    ConvRankSelection,
    FixedCodebook,
    L0Penalty,
    L1Ball,
    L1Penalty,
    L2Ball,
    LowRank,
    Part,
    Penalty,
    PowersOfTwo,
    RankSelection,
    Ternary,
    TopK,
    Uniform,
    each_part,
)
from leco.costs import MultiplyAdds, Table, multiply_adds, storage
from leco.report import history, plan
from leco.retrain import Retraining, iterated_direct_compression
from leco.run import Result, run
from leco.schedules import exponential, stable_lr
from leco.task import Task, each
from leco.views import Blocks, Groups, Kernel, Matrix, Rows, Vector, match

__version__ = "0.1.0"

__all__ = [
    "LC",
    "Binary",
    "Blocks",
    "Codebook",
    "Compression",
    "ConvRankSelection",
    "FixedCodebook",
    "Groups",
    "Kernel",
    "L0Penalty",
    "L1Ball",
    "L1Penalty",
    "L2Ball",
    "LowRank",
    "Matrix",
    "MultiplyAdds",
    "Part",
    "Penalty",
    "PowersOfTwo",
    "RankSelection",
    "Record",
    "Result",
    "Retraining",
    "Rows",
    "Snapshot",
    "Table",
    "Task",
    "Ternary",
    "TopK",
    "Uniform",
    "Vector",
    "bits",
    "dense_bytes",
    "each",
    "each_part",
    "exponential",
    "history",
    "iterated_direct_compression",
    "load",
    "match",
    "multiply_adds",
    "plan",
    "recalibrate_",
    "run",
    "save",
    "stable_lr",
    "storage",
]

"""leco (LEarning-COmpression): make a trained PyTorch model small by constrained optimization, min
L(w) subject to w = Delta(Theta)."""

from leco.algorithm.batchnorm import recalibrate_
from leco.algorithm.lc import LC
from leco.algorithm.loop import run
from leco.algorithm.record import Record, Result, Snapshot
from leco.algorithm.retrain import Retraining, iterated_direct_compression
from leco.algorithm.run import Run
from leco.algorithm.schedules import automatic, exponential, stable_lr, steady_mu
from leco.coding.tensors import bits
from leco.compressions import (
    CP,
    NM,
    Additive,
    Binary,
    Budget,
    Choice,
    Codebook,
    Compose,
    Compression,
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
    Part,
    Penalty,
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
    coded_bytes,
    each_part,
)
from leco.compressions.costs import MultiplyAdds, Table, TuckerMultiplyAdds, storage, tucker_storage
from leco.export import export_compressed_tensors, export_onnx, export_torchao
from leco.files.inventory import describe
from leco.files.load import load, thetas
from leco.files.overhead import file_overhead
from leco.files.save import dense_bytes, save
from leco.layers.factorize import factorize
from leco.layers.flops import multiply_adds
from leco.layers.narrow import Coupled, coupled, narrow
from leco.layers.packed import pack
from leco.measure.breakdown import Breakdown, breakdown
from leco.measure.compare import Comparison, compare
from leco.measure.ranks import measured_ranks
from leco.measure.tables import history, plan
from leco.task import Task, each, match
from leco.views import (
    Blocks,
    Channels,
    Groups,
    Kernel,
    Matrix,
    Reshape,
    Rows,
    Subvectors,
    Tiles,
    Vector,
)

__version__ = "0.1.0"

__all__ = [
    "CP",
    "LC",
    "NM",
    "Additive",
    "Binary",
    "Blocks",
    "Breakdown",
    "Budget",
    "Channels",
    "Choice",
    "Codebook",
    "Comparison",
    "Compose",
    "Compression",
    "ConvRankSelection",
    "Coupled",
    "EntropyCodebook",
    "EntropyMatrix",
    "FixedCodebook",
    "GroupL0Penalty",
    "GroupL1Penalty",
    "GroupTopK",
    "Groups",
    "Hashed",
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
    "Reshape",
    "Result",
    "Retraining",
    "Rows",
    "Run",
    "Snapshot",
    "Subvectors",
    "Table",
    "Task",
    "TensorTrain",
    "Ternary",
    "Tiles",
    "TopK",
    "Tucker",
    "Tucker2",
    "TuckerMultiplyAdds",
    "TuckerSelection",
    "Uncompressed",
    "Uniform",
    "Vector",
    "VectorCodebook",
    "automatic",
    "bits",
    "breakdown",
    "coded_bytes",
    "compare",
    "coupled",
    "dense_bytes",
    "describe",
    "each",
    "each_part",
    "exponential",
    "export_compressed_tensors",
    "export_onnx",
    "export_torchao",
    "factorize",
    "file_overhead",
    "history",
    "iterated_direct_compression",
    "load",
    "match",
    "measured_ranks",
    "multiply_adds",
    "narrow",
    "pack",
    "plan",
    "recalibrate_",
    "run",
    "save",
    "stable_lr",
    "steady_mu",
    "storage",
    "thetas",
    "tucker_storage",
]

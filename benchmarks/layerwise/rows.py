"""The rows of the comparison: a format, the task of LC for it, and the methods of others."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

import leco
from benchmarks.baselines.oneshot_alps import alps
from benchmarks.baselines.oneshot_awq import awq
from benchmarks.baselines.oneshot_grids import Grid, gptq, rtn
from benchmarks.baselines.oneshot_masks import Kept, magnitude, n_of_m, sparsegpt, wanda
from benchmarks.baselines.oneshot_packages import hqq
from benchmarks.baselines.oneshot_ranks import whitened_svd
from leco.views import View

GROUP = 64
FLOAT = 16
GRIDS = {b: leco.Uniform(b, zero_point=True) for b in (2, 3, 4)}
Shape = tuple[int, int]
Layer = Callable[[Tensor, Tensor], Tensor]
"""W0 (out, in) and H (in, in) to new weights."""


class Mixed(NamedTuple):
    """A format for each layer, of several: the choice of least error in all at a size in bytes.

    Args:
        candidates: a view and a compression by name.
        size_of: the candidate whose coded size, in all layers, is the limit.
        weighed: whether each layer's error counts by what it does to the net's output; if not, all
            relative errors count alike.
    """

    candidates: Mapping[str, tuple[View, leco.Compression[Any]]]
    size_of: str
    weighed: bool = False


class Row(NamedTuple):
    """A format of each weight matrix.

    Args:
        bits: of a matrix of a shape (out, in), with floats of 16 bits and nothing entropy-coded.
        view: of LC's task for each matrix.
        compression: of LC's task for a matrix of a shape.
        peers: methods of others by their names.
        mixed: the formats among which each matrix has its own, in place of the view and the
            compression.
    """

    bits: Callable[[Shape], float]
    view: View
    compression: Callable[[Shape], leco.Compression[Any]]
    peers: Mapping[str, Layer] = {}
    mixed: Mixed | None = None


def always(compression: leco.Compression[Any]) -> Callable[[Shape], leco.Compression[Any]]:
    """The compression whatever the shape."""
    return lambda _: compression


def weights(shape: Shape) -> int:
    return shape[0] * shape[1]


def grid(bits: int, zero_point: bool) -> Row:
    """Groups of 64 with a scale, and a zero point."""
    found = Grid(bits, GROUP, zero_point)
    each = bits + (FLOAT + bits * zero_point) / GROUP
    peers: dict[str, Layer] = {
        "RTN": lambda w0, h: rtn(w0, found),
        "GPTQ": partial(gptq, grid=found, static=False),
        "GPTQ, static groups": partial(gptq, grid=found, static=True),
    }
    if zero_point:
        peers["AWQ"] = partial(awq, bits=bits, group=GROUP)
    compression = always(leco.Uniform(bits, zero_point=zero_point))
    return Row(lambda s: each * weights(s), leco.Groups(GROUP), compression, peers)


def channels(bits: int) -> Row:
    """A scale and a zero point for each row, an output channel of a convolution."""

    def sizes(shape: Shape) -> float:
        return bits * weights(shape) + (FLOAT + bits) * shape[0]

    def within(w0: Tensor) -> Grid:
        return Grid(bits, w0.shape[1], zero_point=True)

    peers = {
        "RTN": lambda w0, h: rtn(w0, within(w0)),
        "GPTQ": lambda w0, h: gptq(w0, h, within(w0)),
    }
    return Row(sizes, leco.Rows(), always(leco.Uniform(bits, zero_point=True)), peers)


def float_zero(bits: int) -> Row:
    """Groups of 64 with a scale and a zero point that is a float."""
    each, compression = bits + 2 * FLOAT / GROUP, always(leco.Uniform(bits, zero_point=True))
    peers = {"HQQ": lambda w0, h: hqq(w0, bits, GROUP)}
    return Row(lambda s: each * weights(s), leco.Groups(GROUP), compression, peers)


def pruned(kept: Kept) -> Row:
    """Kept values, and n:m places or a bit a weight for the mask."""
    mask = kept.n * (kept.m - 1).bit_length() / kept.m if kept.m else 1.0
    each = FLOAT * kept.share + mask
    peers = {
        "magnitude": lambda w0, h: magnitude(w0, kept),
        "Wanda": partial(wanda, kept=kept),
        "SparseGPT": partial(sparsegpt, kept=kept),
        "ALPS": partial(alps, kept=kept),
    }
    if kept.m:
        masked = always(leco.NM(kept.n, kept.m))
        return Row(lambda s: each * weights(s), leco.Rows(), masked, peers)
    most = always(leco.TopK(kept.share))
    return Row(lambda s: each * weights(s), leco.Vector(), most, peers)


def coded(levels_bits: float, scales: int, view: View, compression: leco.Compression[Any]) -> Row:
    """Codes of so many bits, and `scales` floats for each row of the view."""

    def bits(shape: Shape) -> float:
        rows = weights(shape) / GROUP if isinstance(view, leco.Groups) else shape[0]
        return levels_bits * weights(shape) + FLOAT * scales * rows

    return Row(bits, view, always(compression))


def levels(count: int) -> tuple[View, leco.Compression[Any]]:
    """An odd number of integers around 0, with a scale for each row; the file codes them by their
    frequencies."""
    values = range(-(count // 2), count // 2 + 1)
    return leco.Rows(), leco.FixedCodebook(tuple(map(float, values)), scale=True)


def in_levels(count: int) -> Row:
    return coded(math.log2(count), 1, *levels(count))


def budget(bits: int, weighed: bool = False) -> Row:
    """Grids in groups, and grids of a row, whose codes the file holds by their frequencies, in the
    bytes of the grid in groups of so many bits."""
    grids = {f"{b} bits": (leco.Groups(GROUP), GRIDS[b]) for b in GRIDS}
    coded = {f"{2**b} levels a row": (leco.Rows(), leco.Uniform(b)) for b in GRIDS}
    few = {"3 levels a row": (leco.Rows(), leco.Ternary())}
    mixed = Mixed({**grids, **few, **coded}, f"{bits} bits", weighed)
    return grid(bits, True)._replace(peers={}, mixed=mixed)


def share_of_rank(share: float, shape: Shape) -> int:
    """The rank whose factors hold this share of the matrix's entries."""
    return max(1, round(share * weights(shape) / sum(shape)))


def low_rank(share: float) -> Row:
    """The rank whose factors hold a share of the matrix's entries."""

    def svd(w0: Tensor, h: Tensor) -> Tensor:
        return whitened_svd(w0, h, share_of_rank(share, (w0.shape[0], w0.shape[1])))

    def bits(shape: Shape) -> float:
        return FLOAT * sum(shape) * share_of_rank(share, shape)

    def compression(shape: Shape) -> leco.Compression[Any]:
        return leco.LowRank(share_of_rank(share, shape))

    return Row(bits, leco.Matrix(), compression, {"SVD, whitened": svd})


def plus_rank(rank: int, other: Row) -> Row:
    """A sum of a matrix of low rank and of another row's format."""

    def bits(shape: Shape) -> float:
        return FLOAT * rank * sum(shape) + other.bits(shape)

    def compression(shape: Shape) -> leco.Compression[Any]:
        low = (leco.Matrix(), leco.LowRank(rank))
        return leco.Additive([low, (other.view, other.compression(shape))])

    return Row(bits, leco.Matrix(), compression)


DENSE = Row(
    lambda s: FLOAT * weights(s),
    leco.Vector(),
    always(leco.Uncompressed()),
    {"dense": lambda w0, h: w0},
)
ROWS: dict[str, Row] = {
    "16 bits": DENSE,
    **{f"{b} bits": grid(b, True) for b in (4, 3, 2)},
    **{f"{b} bits, no zero point": grid(b, False) for b in (4, 3, 2)},
    **{f"{b} bits, zero point a float": float_zero(b) for b in (4, 3, 2)},
    "ternary": coded(1.6, 1, leco.Groups(GROUP), leco.Ternary()),
    "binary": coded(1.0, 1, leco.Groups(GROUP), leco.Binary()),
    "4 values a row": coded(2.0, 4, leco.Rows(), leco.Codebook(4)),
    "8 values a row": coded(3.0, 8, leco.Rows(), leco.Codebook(8)),
    "2:4": pruned(n_of_m(2, 4)),
    "50 %": pruned(Kept(0.5)),
    "30 %": pruned(Kept(0.3)),
    "rank 32 + 20 %": plus_rank(32, pruned(Kept(0.2))),
    "rank 32 + 3 bits": plus_rank(32, grid(3, True)),
    "rank, 30 % of the numbers": low_rank(0.3),
    **{f"{count} levels a row, coded": in_levels(count) for count in (11, 9, 5)},
    **{f"one budget, bytes of {b} bits": budget(b) for b in (3, 2)},
    **{f"one budget, weighed, bytes of {b} bits": budget(b, weighed=True) for b in (3, 2)},
}

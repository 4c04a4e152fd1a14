"""The grids that runtimes have kernels for, as a view and a compression: a C step onto such a grid
finds exactly what the runtime's file holds."""

from typing import NamedTuple

from leco.compressions.checks import check_count
from leco.compressions.grids import Uniform
from leco.compressions.protocol import Compression
from leco.compressions.quantization import Binary, Ternary
from leco.compressions.shifted import UniformShift
from leco.views import Groups, Rows, Subvectors, View

HALF = "float16"


class RuntimeGrid(NamedTuple):
    """The view and the compression of a task: `leco.each(names, *leco.gguf_grid("Q4_0"))`."""

    view: View
    compression: Compression


class Block(NamedTuple):
    """Weights in a run that has one scale, and their compression."""

    size: int
    compression: Compression


GGUF = {
    "Q1_0": Block(128, Binary(scale_dtype=HALF)),
    "TQ1_0": Block(256, Ternary(scale_dtype=HALF)),
    "TQ2_0": Block(256, Ternary(scale_dtype=HALF)),
    "Q2_0": Block(64, Uniform(2, scale_dtype=HALF, either_sign=True)),
    "Q4_0": Block(32, Uniform(4, scale_dtype=HALF, either_sign=True)),
    "Q4_1": Block(32, UniformShift(4, scale_dtype=HALF)),
    "Q8_0": Block(32, Uniform(8, scale_dtype=HALF)),
}
"""The types of GGUF files by name."""


def gguf_grid(kind: str, transposed: bool = False) -> RuntimeGrid:
    """The grid of a type of GGUF files, for `leco.export_gguf`.

    | kind | run | levels | bits a weight |
    |---|---|---|---|
    | Q1_0 | 128 | -1, 1 | 1.125 |
    | TQ1_0, TQ2_0 | 256 | -1, 0, 1 | 1.6875, 2.0625 |
    | Q2_0 | 64 | -1 to 2, scales of either sign | 2.25 |
    | Q4_0 | 32 | -8 to 7, scales of either sign | 4.5 |
    | Q4_1 | 32 | 0 to 15, and a minimum | 5 |
    | Q8_0 | 32 | -128 to 127 | 8.5 |

    All scales are numbers of half precision. A run lies in one row, so the number of a layer's
    inputs must be a multiple of it.

    Args:
        kind: the type.
        transposed: the weight is (in, out), as that of transformers' Conv1D.

    Raises:
        ValueError: a type that is not in the table.

    >>> import leco
    >>> leco.gguf_grid("Q4_1")[1]
    UniformShift(bits=4, scale_dtype='float16')
    """
    if kind not in GGUF:
        raise ValueError(f"gguf_grid: kind = {kind!r} must be one of {', '.join(GGUF)}")
    size, compression = GGUF[kind]
    return RuntimeGrid(Subvectors(size, 1) if transposed else Groups(size), compression)


def onnx_grid(
    bits: int, block: int = 32, zero_point: bool = False, scale_dtype: str | None = None
) -> RuntimeGrid:
    """The grid of ONNX Runtime's MatMulNBits, for `leco.export_onnx(weights="nbits")`.

    Args:
        bits: 2, 4 or 8.
        block: inputs that have one scale, a power of 2 of at least 16.
        zero_point: a zero point for each block too.
        scale_dtype: "float16" or "bfloat16" for a net of that dtype.

    >>> import leco
    >>> leco.onnx_grid(4)
    RuntimeGrid(view=Groups(size=32), compression=Uniform(bits=4, zero_point=False))
    """
    if bits not in (2, 4, 8):
        raise ValueError(f"onnx_grid: bits = {bits} must be 2, 4 or 8")
    check_count("onnx_grid: block", block, 16)
    if block & (block - 1):
        raise ValueError(f"onnx_grid: block = {block} must be a power of 2")
    return RuntimeGrid(Groups(block), Uniform(bits, zero_point, scale_dtype))


def compressed_tensors_grid(
    bits: int, group: int | None = None, zero_point: bool = False, scale_dtype: str | None = None
) -> RuntimeGrid:
    """The grid of compressed-tensors' format "pack-quantized", for
    `leco.export_compressed_tensors`.

    Args:
        bits: 2 to 8. A grid of 1 bit has the levels -1 and 0: use 2.
        group: inputs that have one scale; None for a scale for each row.
        zero_point: a zero point for each scale too.
        scale_dtype: "float16" or "bfloat16" for a net of that dtype.

    >>> import leco
    >>> leco.compressed_tensors_grid(3, 64)
    RuntimeGrid(view=Groups(size=64), compression=Uniform(bits=3, zero_point=False))
    """
    return _signed("compressed_tensors_grid", bits, group, zero_point, scale_dtype)


def torchao_grid(
    bits: int, group: int | None = None, zero_point: bool = False, scale_dtype: str | None = None
) -> RuntimeGrid:
    """The grid of torchao's integers int2 to int8, for `leco.export_torchao`.

    Args:
        bits: 2 to 8. int1 has the levels -1 and 0: use 2.
        group: inputs that have one scale; None for a scale for each row.
        zero_point: a zero point for each scale too.
        scale_dtype: "float16" or "bfloat16" for a net of that dtype.

    >>> import leco
    >>> leco.torchao_grid(8)
    RuntimeGrid(view=Rows(dim=0), compression=Uniform(bits=8, zero_point=False))
    """
    return _signed("torchao_grid", bits, group, zero_point, scale_dtype)


def _signed(
    name: str, bits: int, group: int | None, zero_point: bool, scale_dtype: str | None
) -> RuntimeGrid:
    """Signed integers with a scale for each group or row."""
    check_count(f"{name}: bits", bits, 2, 8)
    return RuntimeGrid(
        Rows() if group is None else Groups(group), Uniform(bits, zero_point, scale_dtype)
    )

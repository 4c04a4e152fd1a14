"""Which packed weights the compiled library decodes and multiplies."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leco.layers.integers import BASES, Levels, Lookup
from leco.native.build import library
from leco.native.matrix import BYTES, DIGITS, SIGNED, Matrix


def matrix_of(content: nn.Module, shape: Sequence[int]) -> Matrix | None:
    """A packed weight of this shape, as a matrix (shape[0], product of the others); None where
    torch decodes it.

    That is so for sparse weights, sums, codewords, codebooks of more than 256 values or of more
    than 16 for each row, values and scales that are not of rows or of parts of rows, other types
    than float32, other devices than the CPU, and where no compiler is found.
    """
    if not isinstance(content, Lookup | Levels) or len(shape) < 2 or not min(shape):
        return None
    matrix = (shape[0], torch.Size(shape[1:]).numel())
    found = _of_lookup(content, matrix) if isinstance(content, Lookup) else _of(content, matrix)
    return found if found is not None and library() is not None else None


def _of(content: Levels, shape: tuple[int, int]) -> Matrix | None:
    scale, shift = content.affine.scale, content.affine.shift
    assert scale is not None, "a grid has a scale"
    parts = (content.codes, scale.new_zeros(1, 1), scale, shift)
    if not _groups(shape, parts[1:]) or not _plain(parts):
        return None
    return Matrix(parts[0], shape, shape[1], SIGNED, 1, 256, *parts[1:])


def _of_lookup(content: Lookup, shape: tuple[int, int]) -> Matrix | None:
    per, values = content.indices.per, content.values
    if not per or values.shape[2] != 1 or (per == 1 and len(values) > 1):
        return None
    parts = (content.indices.codes, values[..., 0], content.affine.scale, content.affine.shift)
    if not (groups := _groups(shape, parts[1:])) or not _plain(parts):
        return None
    if content.by_rows and groups > 1:
        return None
    kind = BYTES if per == 1 else DIGITS
    row_bytes = -(-shape[1] // per) if content.by_rows else 0
    return Matrix(parts[0], shape, row_bytes, kind, per, BASES[per], *parts[1:])


def groups_of(content: Lookup | Levels, shape: Sequence[int]) -> int:
    """How many groups with scales of their own a row has, where they fill whole bytes and have the
    same values; else 0."""
    scale, per = content.affine.scale, 1
    if isinstance(content, Lookup):
        per = content.indices.per
        if len(content.values) > 1 or content.values.shape[2] > 1 or per < 2:
            return 0
    if content.by_rows or scale is None:
        return 0
    groups = _groups(shape, (scale, content.affine.shift))
    return groups if groups and shape[1] // groups % per == 0 else 0


def _plain(parts: Sequence[Tensor | None]) -> bool:
    """Whether the tensors are where and what the library takes."""
    own = [part for part in parts if part is not None]
    floats = [part for part in own if part.is_floating_point()]
    return all(t.device.type == "cpu" and t.is_contiguous() for t in own) and all(
        t.dtype == torch.float32 for t in floats
    )


def _groups(shape: Sequence[int], fields: Sequence[Tensor | None]) -> int:
    """How many groups a row has; 0 where the values, scales and shifts are not of parts of rows."""
    problems = max(len(field) for field in fields if field is not None)
    if problems == 1:
        return 1
    fits = problems % shape[0] == 0 and shape[1] % (problems // shape[0]) == 0
    return problems // shape[0] if fits else 0

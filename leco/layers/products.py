"""Which packed weights have products by compiled loops, without a dense copy of the weight."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leco.layers.integers import BASES, Levels, Lookup
from leco.native.build import library
from leco.native.matrix import BYTES, DIGITS, SIGNED, Matrix


def matrix_of(content: nn.Module, shape: Sequence[int]) -> Matrix | None:
    """A packed weight (rows, columns) for its products; None where it is decoded first.

    That is so for sparse weights, sums, codewords, codebooks of more than 256 values, groups that
    do not fill whole bytes or are no part of a row, other types than float32, other devices than
    the CPU, and where no compiler is found.
    """
    if not isinstance(content, Lookup | Levels) or len(shape) != 2 or not min(shape):
        return None
    found = _of_lookup(content, shape) if isinstance(content, Lookup) else _of(content, shape)
    return found if found is not None and library() is not None else None


def _of(content: Levels, shape: Sequence[int]) -> Matrix | None:
    scale, shift = content.affine.scale, content.affine.shift
    assert scale is not None, "a grid has a scale"
    parts = (content.codes, scale.new_zeros(1, 1), scale, shift)
    groups = _groups(shape, parts[1:])
    if not groups or not _plain(parts):
        return None
    return Matrix(parts[0], shape[0], groups, SIGNED, 1, 256, *parts[1:])


def _of_lookup(content: Lookup, shape: Sequence[int]) -> Matrix | None:
    per, values = content.indices.per, content.values
    if not per or values.shape[2] != 1 or (per == 1 and len(values) > 1):
        return None
    parts = (content.indices.codes, values[..., 0], content.affine.scale, content.affine.shift)
    groups = _groups(shape, parts[1:])
    if not groups or not _plain(parts):
        return None
    # whole bytes: row by row, or group by group
    rowwise = content.by_rows and groups == 1
    if not rowwise and (content.by_rows or (shape[1] // groups) % per):
        return None
    kind = BYTES if per == 1 else DIGITS
    if kind == BYTES:  # bytes name values up to the last
        parts = (parts[0], nn.functional.pad(parts[1], (0, 256 - values.shape[1])), *parts[2:])
    return Matrix(parts[0], shape[0], groups, kind, per, BASES[per], *parts[1:])


def groups_of(content: Lookup, shape: Sequence[int]) -> int:
    """How many groups with scales of their own a row has, where they fill whole bytes and have the
    same values; else 0."""
    scale, per = content.affine.scale, content.indices.per
    if len(content.values) > 1 or content.values.shape[2] > 1 or per < 2 or scale is None:
        return 0
    groups = _groups(shape, (scale, content.affine.shift))
    return groups if not content.by_rows and groups and shape[1] // groups % per == 0 else 0


def _plain(parts: Sequence[Tensor | None]) -> bool:
    """Whether the tensors are where and what the loops take."""
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

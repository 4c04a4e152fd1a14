"""Weights as the quantized blocks of GGUF files: a half-precision scale, packed levels, and for
Q4_1 a minimum."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leco.compressions.runtime_grids import GGUF
from leco.theta import Shifted, index_coded

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Fields(NamedTuple):
    """w = scale levels + shift, entry by entry, all of the shape of a parameter; without a shift,
    `shift` is None. `levels` are small integers."""

    levels: Tensor
    scale: Tensor
    shift: Tensor | None

    def arranged(self, arrange: Callable[[Tensor], Tensor]) -> "Fields":
        """The same entries in another order."""
        return Fields(*(None if own is None else arrange(own) for own in self))  # pyright: ignore


class Packed(NamedTuple):
    """A weight's bytes (rows, bytes of a row), and the type that they are of."""

    kind: str
    data: Bytes


def fields_of(theta: Any, view: Any, shapes: dict[str, torch.Size]) -> dict[str, Fields] | None:
    """The fields of each parameter of a task; None where Theta is no grid of levels."""
    if isinstance(theta, Shifted):
        found = Fields(theta.indices.to(torch.int16), theta.scale, theta.shift)
    else:
        found = _without_shift(theta)
    if found is None:
        return None

    # entry by entry, in the parameters' own layout
    sizes, whole = list(shapes.values()), found.levels.shape
    parts = [view.backward(found.levels, sizes)]
    for own in (found.scale, found.shift):
        if own is None:
            parts.append([None] * len(sizes))
        else:
            spread = own.reshape(*own.shape, *[1] * (len(whole) - own.dim())).expand(whole)
            parts.append(view.backward(spread.contiguous(), sizes))
    return {name: Fields(*own) for name, own in zip(shapes, zip(*parts, strict=True), strict=True)}


def _without_shift(theta: Any) -> Fields | None:
    """The levels and scales of a uniform grid, or of given values that are multiples of a step."""
    codes = index_coded(theta)
    if codes is None or codes.size > 1:
        return None
    indices, batch = codes.indices, codes.indices.shape[:-1]
    if codes.values is None:
        zero = codes.zero_point
        assert codes.scale is not None
        levels = indices.to(torch.int16)
        if zero is not None:
            levels = levels - zero.to(torch.int16).expand(batch.numel()).view(*batch, 1)
        return Fields(levels, codes.scale.expand(batch.numel()).view(batch), None)

    # given values
    values = codes.values[0]
    if len(codes.values) > 1 or not values.any():
        return None
    step = values.abs()[values != 0].min()
    steps = values / step
    if steps.abs().max() > 127 or not torch.equal(steps, steps.round()):
        return None
    scale = step.expand(1) if codes.scale is None else step * codes.scale
    levels = steps.to(torch.int16)[indices.long()]
    return Fields(levels, scale.expand(batch.numel()).reshape(batch), None)


def pack(fields: Fields, kind: str, gguf: Any) -> Packed | str:
    """A weight (out, in) as blocks of a type, or the reason why the type can't hold it; `gguf` is
    the package."""
    size, (low, high) = GGUF[kind].size, LEVELS[kind]
    rows, length = fields.levels.shape
    if length % size:
        return f"rows of {length} weights are no multiple of {size}"

    # one scale and one shift for each block
    levels = fields.levels.reshape(-1, size)
    whole = [own.reshape(-1, size) for own in (fields.scale, fields.shift) if own is not None]
    if any(bool((own != own[:, :1]).any()) for own in whole):
        return f"scales of runs shorter than {size} weights"
    scale, *shift = (own[:, 0] for own in whole)

    # the levels
    if bool(shift) != (kind == "Q4_1"):
        return "a grid with a minimum" if shift else "a grid without a minimum"
    least, most = int(levels.min()), int(levels.max())
    if not low <= least <= most <= high:
        if not -high <= least <= most <= -low:
            return f"levels from {least} to {most}, not {low} to {high}"
        levels, scale = -levels, -scale
    if kind == "Q1_0" and bool((levels == 0).any()):
        return "levels of 0 beside -1 and 1"

    # the floats
    halves = [own.to(torch.float16) for own in (scale, *shift)]
    if not all(torch.equal(h.to(own), own) for h, own in zip(halves, (scale, *shift), strict=True)):
        return 'scales that are no numbers of half precision (scale_dtype="float16")'
    if kind not in PACKERS:
        weights = (scale.unsqueeze(-1) * levels).float().view(rows, -1).cpu().numpy()
        return Packed(kind, gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind]))
    codes = (levels - low).to(torch.uint8).cpu().numpy()
    head = [half.cpu().numpy().view(np.uint8).reshape(-1, 2) for half in halves]
    return Packed(kind, PACKERS[kind](head, codes).reshape(rows, -1))


def _q1_0(head: list[Bytes], codes: Bytes) -> Bytes:
    """A bit a weight, the first lowest."""
    bits = np.packbits(codes > 0, axis=-1, bitorder="little")
    return np.concatenate([*head, bits], axis=-1)


def _q2_0(head: list[Bytes], codes: Bytes) -> Bytes:
    """Two bits a weight, four neighbours in a byte, the first lowest."""
    four = codes.reshape(len(codes), -1, 4) << np.array([0, 2, 4, 6], np.uint8)
    return np.concatenate([*head, np.bitwise_or.reduce(four, axis=-1)], axis=-1)


def _q4(head: list[Bytes], codes: Bytes) -> Bytes:
    """Four bits a weight: the first half of a block low, the second half high."""
    low, high = np.split(codes, 2, axis=-1)
    return np.concatenate([*head, low | (high << np.uint8(4))], axis=-1)


def _q8_0(head: list[Bytes], codes: Bytes) -> Bytes:
    """A signed byte a weight."""
    return np.concatenate([*head, codes ^ np.uint8(128)], axis=-1)


LEVELS = {
    "Q1_0": (-1, 1),
    "TQ1_0": (-1, 1),
    "TQ2_0": (-1, 1),
    "Q2_0": (-1, 2),
    "Q4_0": (-8, 7),
    "Q4_1": (0, 15),
    "Q8_0": (-128, 127),
}
"""The least and the greatest level of each type."""
PACKERS: dict[str, Callable[[list[Bytes], Bytes], Bytes]] = {
    "Q1_0": _q1_0,
    "Q2_0": _q2_0,
    "Q4_0": _q4,
    "Q4_1": _q4,
    "Q8_0": _q8_0,
}
"""What lays out a block, from its floats as bytes and its levels less the least one. The other
types are laid out by gguf itself, which finds their scales and levels in the weights."""
NUMBERS = {
    "Q1_0": 41,
    "TQ1_0": 34,
    "TQ2_0": 35,
    "Q2_0": 42,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 8,
}
"""ggml's numbers of the types."""
FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "TQ1_0": 36,
    "TQ2_0": 37,
    "Q1_0": 40,
    "Q2_0": 41,
}
"""llama.cpp's numbers of files whose matrices are mostly of a type."""

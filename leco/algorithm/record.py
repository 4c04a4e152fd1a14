"""What the algorithm reports after a step, what it keeps of a net, and norms of many tensors."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.theta import Theta

PART = 2**20  # entries whose norm, or difference, is formed at a time


class Record(NamedTuple):
    """What one step reports.

    `leco.run` fills in the fields that need the training and the evaluation.
    """

    step: int
    mu: float
    gap: float
    """||w - Delta(Theta)|| over all tasks, after the C step."""
    relative_gap: float
    """gap / ||w||."""
    multiplier_norm: float
    price: float
    """alpha C(Theta) of the penalty forms, summed over the tasks."""
    bits: int | None
    """Of the coded Thetas, as `leco.save` writes them. None in the record of `lc.step()`: counting
    codes every weight (`lc.bits()` does it)."""
    c_seconds: float
    l_seconds: float = math.nan
    loss: float = math.nan
    """What the L step returned."""
    compressed_loss: float = math.nan
    compressed_error: float = math.nan
    changed: float = math.nan
    """The share of Theta's indices, and of what its masks keep, that differ from direct compression
    (from the first step with the present compressions, where `leco.run` changes them); NaN where
    Theta has none."""
    weighed_gap: float = math.nan
    """The gap in the LC's metric d, sqrt(sum_i d_i (w_i - Delta_i)^2); the gap without a metric."""


class Snapshot(NamedTuple):
    """A compressed net: the Thetas, and copies of all other parameters and buffers."""

    thetas: dict[str, Theta]
    rest: dict[str, Tensor]
    made_by: Mapping[str, Any] | None = None
    """The compression that each Theta is of."""


@dataclass(frozen=True)
class Result:
    """What `run` gives. `records[0]` is direct compression, before any L step; `best` is the
    compressed net of least validation error."""

    records: list[Record]
    best: Snapshot
    best_step: int
    stopped: str
    """One of "schedule" (all mu were used), "gap" (the relative gap is below the tolerance),
    "interrupted", "diverged"."""


def differences(a: Iterable[Tensor], b: Iterable[Tensor]) -> Iterator[Tensor]:
    """The parts of all a - b, one after the other: `norm` of them needs no copy of the tensors."""
    for one, other in zip(a, b, strict=True):
        parts = (t.detach().reshape(-1).split(PART) for t in (one, other))
        yield from (p - q for p, q in zip(*parts, strict=True))


def norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all entries, accurate to float64.

    Parts are summed in float64, as `vector_norm` in float32 is 1 % off at 25 million entries. One
    tensor is held at a time.
    """
    squares = list[Tensor]()
    for tensor in tensors:
        parts = tensor.detach().reshape(-1).split(PART)
        squares += [torch.linalg.vector_norm(p, dtype=torch.float64).square() for p in parts]
        del tensor, parts  # before the next one is made
    return math.sqrt(sum(float(torch.stack(same).sum()) for same in by_device(squares)))


def by_device(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """The tensors of each device, so that the host waits once for each device."""
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(tensor)
    return found.values()

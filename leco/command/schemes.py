"""The compressions that the words of `--to` name, and about how many bytes they need."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from leco.compressions.grids import Uniform
from leco.compressions.lowrank import LowRank, RankSelection
from leco.compressions.nm import NM
from leco.compressions.protocol import Compression
from leco.compressions.pruning import L0Penalty, TopK
from leco.compressions.quantization import Binary, Ternary
from leco.compressions.runtime_grids import GGUF, gguf_grid
from leco.views import Groups, Matrix, Rows, Vector, View

GROUP = 64  # weights that share a scale, where a word names no other number
CODED = {torch.bfloat16: 0.67}  # the share of a float's bits that coding leaves; 0.85 of others
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"


class NotPossible(ValueError):  # noqa: N818
    """Why a scheme can't take a weight."""


@dataclass(frozen=True)
class Weight:
    """The shape of a weight, the dimension of its outputs, and the type of floats in the file."""

    shape: tuple[int, ...]
    outputs: int
    dtype: torch.dtype

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """How many weights an output has."""
        return self.count // self.shape[self.outputs]

    @property
    def scale(self) -> int:
        """How many bits a scale has."""
        return 8 * self.dtype.itemsize

    @property
    def number(self) -> float:
        """About how many bits the file takes for a float."""
        return coded(self.dtype)


def coded(dtype: torch.dtype) -> float:
    """Return about how many bits the file takes for a number of this type."""
    share = CODED.get(dtype, 0.85) if dtype.is_floating_point else 1.0
    return 8 * dtype.itemsize * share


@dataclass(frozen=True)
class Scheme:
    """The compression that a word names.

    Args:
        word: as the user wrote it.
        make: gives the view and the compression of a weight; raises NotPossible.
        bits: about how many bits the file takes for a weight.
        seconds: about how long calibration takes for each number of the weight, at 40 steps.
    """

    word: str
    make: Callable[[Weight], tuple[View, Compression[Any]]]
    bits: Callable[[Weight], float]
    seconds: float


def _int(word: str, bits: str, group: str | None) -> Scheme:
    """Return a grid without zero points, with 0 in its middle."""
    if not 2 <= int(bits) <= 8:
        raise ValueError(f"{word!r}: bits must be 2 to 8")
    return _grid(word, bits, group, zero_point=False)


def _grid(word: str, bits: str, group: str | None, zero_point: bool = True) -> Scheme:
    n, size = int(bits), int(group or GROUP)
    if n == 1:
        return _scaled(word, Binary(), size if group else 0, 1.0)
    if not 2 <= n <= 8:
        raise ValueError(f"{word!r}: bits must be 1 to 8")

    def view(weight: Weight) -> View:
        return _groups(weight, size, bool(group))

    def needed(weight: Weight) -> float:
        run = getattr(view(weight), "size", weight.row)
        return n + (weight.scale + n * zero_point) / run

    return Scheme(word, lambda w: (view(w), Uniform(n, zero_point)), needed, 5.7e-6)


def _groups(weight: Weight, size: int, exact: bool) -> View:
    """Return groups of `size` along the inputs. If the default size does not divide a row, return
    the largest divisor that is at least 8, or else a group for each row."""
    if weight.outputs != 0:
        return Rows(weight.outputs)
    if weight.row % size == 0:
        return Groups(size)
    if exact:
        raise NotPossible(f"groups of {size} do not divide its rows of {weight.row}")
    fits = [d for d in range(8, size) if weight.row % d == 0]
    return Groups(fits[-1]) if fits else Rows(0)


def _scaled(word: str, how: Compression[Any], group: int, bits: float) -> Scheme:
    def view(weight: Weight) -> View:
        return _groups(weight, group, True) if group else Rows(weight.outputs)

    def needed(weight: Weight) -> float:
        return bits + weight.scale / (group or weight.row)

    return Scheme(word, lambda w: (view(w), how), needed, 3e-6)


def _ternary(word: str, group: str | None) -> Scheme:
    return _scaled(word, Ternary(), int(group or 0), math.log2(3))


def _nm(word: str, n: str, m: str) -> Scheme:
    how = NM(int(n), int(m))

    def make(weight: Weight) -> tuple[View, Compression[Any]]:
        if weight.row % how.m:
            raise NotPossible(f"{how.m} does not divide its rows of {weight.row}")
        return Rows(weight.outputs), how

    def needed(weight: Weight) -> float:
        positions = math.log2(math.comb(how.m, how.n)) / how.m
        return how.n / how.m * weight.number + positions

    return Scheme(word, make, needed, 3.2e-6)


def _share(word: str, percent: str) -> Scheme:
    p = float(percent) / 100
    if not 0 < p <= 1:
        raise ValueError(f"{word!r}: the share of kept weights must be above 0 % and at most 100 %")

    def needed(weight: Weight) -> float:
        entropy = -sum(q * math.log2(q) for q in (p, 1 - p) if q)
        return p * weight.number + entropy

    return Scheme(word, lambda w: (Vector(), TopK(p)), needed, 3.2e-6)


def _rank(word: str, rank: str) -> Scheme:
    r = int(rank)

    def make(weight: Weight) -> tuple[View, Compression[Any]]:
        rows = weight.shape[weight.outputs]
        if r * (rows + weight.row) >= weight.count:
            raise NotPossible(f"rank {r} takes no fewer numbers than {rows} x {weight.row}")
        return Matrix((weight.outputs,)), LowRank(r)

    def needed(weight: Weight) -> float:
        rows = weight.shape[weight.outputs]
        return r * (rows + weight.row) * weight.number / weight.count

    return Scheme(word, make, needed, 6e-6)


def _l0(word: str, alpha: str) -> Scheme:
    how = L0Penalty(float(alpha))
    return Scheme(word, lambda w: (Vector(), how), _dense, 3.2e-6)


def _ranks(word: str, alpha: str) -> Scheme:
    how = RankSelection(float(alpha))
    return Scheme(word, lambda w: (Matrix((w.outputs,)), how), _dense, 6e-6)


def _dense(weight: Weight) -> float:
    """Return the bits of all weights. Only the work shows how many a penalty leaves."""
    return weight.number


def _gguf(word: str, kind: str) -> Scheme:
    size, how = GGUF[kind.upper()]

    def make(weight: Weight) -> tuple[View, Compression[Any]]:
        if weight.row % size or len(weight.shape) != 2:
            raise NotPossible(f"runs of {size} do not divide its rows of {weight.row}")
        return gguf_grid(kind.upper(), transposed=weight.outputs == 1)

    bits = math.log2(3) if isinstance(how, Ternary) else getattr(how, "bits", 1)
    extra = 16 + 16 * (kind == "q4_1")
    return Scheme(word, make, lambda w: bits + extra / size, 5.7e-6)


KINDS: dict[str, Callable[..., Scheme]] = {
    r"(\d+)[- ]?bits?(?::(\d+))?": _grid,
    r"ternary(?::(\d+))?": _ternary,
    r"int(\d+)(?::(\d+))?": _int,
    r"(\d+):(\d+)": _nm,
    rf"((?i:{'|'.join(GGUF)}))": _gguf,
    r"([0-9.]+) ?%": _share,
    r"rank:(\d+)": _rank,
    rf"l0:({NUMBER})": _l0,
    rf"ranks:({NUMBER})": _ranks,
}

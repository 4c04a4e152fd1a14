"""A quantized parameter as other runtimes hold it: integers in the parameter's own layout, and what
turns them into weights."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.theta import IndexCoded, Sum, index_coded
from leco.theta.entries import runs_of
from leco.views import Blocks, Kernel


class Grid(NamedTuple):
    """w_ij = scale_i (levels_ij - zero_point_i), over runs i of equal length, in row-major order: a
    run is the tensor, a row, a part of a row.

    `levels` (runs, length) and `zero_point` (runs,) int16, at least 0 and below 2^bits; `scale`
    (runs,) float. `symmetric`: the zero point is 2^(bits - 1) throughout, so that levels - 2^(bits
    - 1) are signed integers without a zero point.
    """

    levels: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int

    @property
    def symmetric(self) -> bool:
        return bool((self.zero_point == 2 ** (self.bits - 1)).all())

    def widened(self, bits: int) -> "Grid":
        """The same weights with `bits` bits, at least its own; a symmetric grid stays one."""
        shift = 2 ** (bits - 1) - 2 ** (self.bits - 1) if self.symmetric else 0
        return Grid(self.levels + shift, self.scale, self.zero_point + shift, bits)

    def block(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """The sizes of the part of a tensor of `shape` that is one run; None where a run is not
        one."""
        left, sizes = self.levels.shape[1], []
        for size in reversed(shape):
            if max(left, size) % min(left, size):
                return None
            sizes.append(min(left, size))
            left //= sizes[-1]
        return tuple(reversed(sizes))

    def weights(self) -> Tensor:
        return self.scale.unsqueeze(-1) * (self.levels - self.zero_point.unsqueeze(-1))


class Coded(NamedTuple):
    """w_ij = scale_i codebook_i[indices_ij], over runs i as of `Grid`; the codebook may be one for
    all runs, the scale None (1).

    `indices` (runs, length) integers below K, `codebook` (runs or 1, K), `scale` (runs,) or None.
    """

    indices: Tensor
    codebook: Tensor
    scale: Tensor | None

    def weights(self) -> Tensor:
        book = self.codebook if self.scale is None else self.scale.unsqueeze(-1) * self.codebook
        return book.expand(len(self.indices), -1).gather(1, self.indices.long())

    def grid(self) -> Grid | None:
        """As a uniform grid, where the values are small multiples of one step (-1, 0, 1; powers of
        two) and nothing is lost to the last bit."""
        if len(self.codebook) > 1 or not self.codebook.any():
            return None
        steps = self.codebook[0] / self.codebook.abs()[self.codebook != 0].min()
        if steps.abs().max() > 255 or not torch.equal(steps, steps.round()):
            return None
        step, levels = (
            self.codebook.abs()[self.codebook != 0].min(),
            steps.to(torch.int16)[self.indices.long()],
        )
        scale = step.expand(len(levels)) if self.scale is None else step * self.scale
        grid = _grid(levels, scale)
        return grid if grid is not None and torch.equal(grid.weights(), self.weights()) else None


class Vectors(NamedTuple):
    """w = codebook[indices] in row-major order, some weights a codeword. `indices` (n,) integers
    below K, `codebook` (K, d)."""

    indices: Tensor
    codebook: Tensor

    def weights(self) -> Tensor:
        return self.codebook[self.indices.long()]

    def grid(self) -> None:
        return None


Quantized = Grid | Coded | Vectors


def _grid(levels: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Grid | None:
    """From signed `levels` (runs, length) about 0, with the fewest bits; `zero_point` (runs,) is
    what is added where no signed grid is as short."""
    low, high = int(levels.min()), int(levels.max())
    bits = 1 + max((-low - 1).bit_length() if low < 0 else 0, max(high, 0).bit_length())
    if zero_point is None:
        zero_point = torch.full(
            (len(levels),), max(-low, 0), dtype=torch.int16, device=levels.device
        )
    unsigned = max(
        1,
        int((levels + zero_point.unsqueeze(-1)).max()).bit_length(),
        int(zero_point.max()).bit_length(),
    )
    if bits <= unsigned:
        unsigned, zero_point = bits, torch.full_like(zero_point, 2 ** (bits - 1))
    if unsigned > 8:
        return None
    return Grid(levels + zero_point.unsqueeze(-1), scale, zero_point, unsigned)


def grid_of(found: Quantized | str) -> Grid | str:
    """The grid, or in a word why there is none."""
    return found if isinstance(found, Grid | str) else found.grid() or "codebook that is no grid"


def quantized(source: LC | Mapping[str, Compressed]) -> dict[str, Quantized | str]:
    """Each compressed parameter as a grid or as codes, or the name of its form if it is neither."""
    found: dict[str, Quantized | str] = {}
    for compressed in compressed_tasks(source).values():
        found |= dict.fromkeys(compressed.shapes, f"{type(compressed.theta).__name__}")
        for part, weight in _parts(compressed, 1.0):
            found |= _quantized(part, weight)
    return found


def _parts(compressed: Compressed, weight: float) -> Iterator[tuple[Compressed, float]]:
    """The terms of a budget or a choice, each for the blocks that are its own alone, else the
    Theta itself; with the number by which their Delta is divided."""
    shapes, view, theta = compressed
    if not isinstance(theta, Sum) or view not in (Blocks(), Kernel()):
        yield compressed, weight
        return
    names, terms = list(shapes), Counter(b for term in theta.terms for b in term.at)
    for term in theta.terms:
        if all(terms[b] == 1 for b in term.at):
            own = {names[b]: shapes[names[b]] for b in term.at}
            yield from _parts(Compressed(own, term.view, term.theta), weight * term.weight)


def _quantized(compressed: Compressed, weight: float) -> dict[str, Quantized | str]:
    """The parameters of one Theta, divided by `weight`."""
    shapes, view, theta = compressed
    sizes, codes = list(shapes.values()), index_coded(theta)
    if codes is None:
        return dict.fromkeys(shapes, type(theta).__name__)
    codes, indices = codes.over(weight), codes.indices
    if codes.values is not None and codes.values.ndim == 3:
        return _codewords(compressed, codes, codes.values)
    # the number of the problem that each index belongs to
    problems = indices.shape[:-1]
    numbers = torch.arange(problems.numel(), device=indices.device).view(*problems, 1)
    numbers = view.backward(numbers.expand(indices.shape), sizes)
    return {
        name: _in_runs(codes, own.reshape(-1), number.reshape(-1))
        for name, own, number in zip(shapes, view.backward(indices, sizes), numbers, strict=True)
    }


def _in_runs(codes: IndexCoded, indices: Tensor, numbers: Tensor) -> Grid | Coded:
    """`indices` (n,) of a parameter and, for each, the number of its problem."""
    # runs of equal length, each of one problem
    borders = ((numbers[1:] != numbers[:-1]).nonzero().squeeze(1) + 1).cpu().numpy()
    length = int(np.gcd.reduce(borders, initial=len(numbers)))
    runs, indices = numbers.view(-1, length)[:, 0], indices.view(-1, length)

    def own(field: Tensor) -> Tensor:
        """The entries of a field for each run."""
        return field[runs] if len(field) > 1 else field.expand(len(runs), *field.shape[1:])

    scale = None if codes.scale is None else own(codes.scale)
    if codes.values is None:
        assert scale is not None, "a uniform grid has a scale"
        points = torch.zeros_like(scale) if codes.zero_point is None else own(codes.zero_point)
        zero = points.to(torch.int16)
        grid = _grid(indices.to(torch.int16) - zero.unsqueeze(-1), scale, zero)
        assert grid is not None
        return grid
    book = own(codes.values)
    alone = len(codes.values) == 1 or len(runs.unique()) == 1
    return Coded(indices, book[:1] if alone else book, scale)


def _codewords(
    compressed: Compressed, codes: IndexCoded, words: Tensor
) -> dict[str, Quantized | str]:
    """The parameters of a Theta whose indices stand for several weights each."""
    shapes, view, theta = compressed
    if len(words) > 1:
        return dict.fromkeys(shapes, type(theta).__name__)
    d, device = words.shape[2], words.device
    entries = torch.arange(codes.indices.numel() * d, device=device)
    entries = view.backward(entries.view(*codes.indices.shape, d), list(shapes.values()))
    found: dict[str, Quantized | str] = {}
    for name, own in zip(shapes, entries, strict=True):
        at = runs_of(own.reshape(-1), d)
        kept = None if at is None else Vectors(codes.indices.reshape(-1)[at], words[0])
        found[name] = kept or type(theta).__name__
    return found


def at_delta(task: str, model: nn.Module, source: LC | Mapping[str, Compressed]) -> nn.Module:
    """A copy of `model` at w = Delta(Theta), in evaluation mode. Raises ValueError for a parameter
    that it has not, or of another shape."""
    net = copy.deepcopy(model).eval()
    parameters = dict(net.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, compressed in compressed_tasks(source).items():
            for parameter, delta in compressed.deltas().items():
                if parameter not in parameters:
                    raise ValueError(
                        f"{task}: task {name!r} compresses {parameter!r}, which the model has not"
                    )
                if parameters[parameter].shape != delta.shape:
                    expected, got = tuple(delta.shape), tuple(parameters[parameter].shape)
                    raise ValueError(
                        f"{task}: task {name!r} has {parameter!r} of shape {expected}, "
                        f"the model one of {got}"
                    )
                parameters[parameter].copy_(delta)
    return net

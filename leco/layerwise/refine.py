"""After the last step: Theta's floats by conjugate gradients, its codes by coordinate descent, both
in H."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from leco.compressions.codebooks import Codebook
from leco.compressions.entropy import EntropyCodebook
from leco.compressions.entropy_descent import counts_of
from leco.compressions.grids import Uniform
from leco.compressions.quantization import Binary, FixedCodebook, PowersOfTwo, Ternary
from leco.compressions.shifted import UniformShift
from leco.theta import Theta
from leco.theta.index_coded import IndexCoded, index_coded
from leco.theta.tree import free_leaves, with_free_leaves
from leco.views import blocks

if TYPE_CHECKING:
    from leco.layerwise.solve import Problem

ITERATIONS = 20  # of conjugate gradients, at most
ENOUGH = 1e-4  # of the error: an iteration that gains less is the last
ROUNDS = 2  # of coordinate descent and conjugate gradients in turn
GAIN = 1e-3  # of the objective in a round, below which no other round is made
RUN = 64  # inputs whose codes are found before the residuals of the others follow
ANY_CODES = (
    *(Uniform, UniformShift, Codebook, FixedCodebook, PowersOfTwo, Binary, Ternary),
    EntropyCodebook,
)
"""Compressions whose set has every assignment of codes, at a price of each code or at none."""


def refined(problem: "Problem", theta: Theta) -> Theta:
    """A Theta of the set whose objective is at most that of `theta`."""
    problem.take(theta)
    best, least = theta, problem.objective(theta)
    compression = problem.task.compression
    for _ in range(ROUNDS):
        before = least
        for change in (with_better_codes, with_better_floats):
            found = change(problem, best)
            if found is None:
                continue
            found = cast(Any, compression).feasible(found)
            problem.take(found)
            objective = problem.objective(found)
            if objective < least:
                best, least = found, objective
        if not least < before * (1 - GAIN) or not isinstance(compression, ANY_CODES):
            break
    return best


def with_better_floats(problem: "Problem", theta: Theta) -> Theta | None:
    """The floats of least error for the discrete choices of Theta, by conjugate gradients with a
    diagonal preconditioner; a descent where Delta is not linear in them."""
    free = [leaf.detach().clone() for leaf in free_leaves(theta)]
    if not free or not sum(leaf.numel() for leaf in free):
        return None
    layers, divisors = problem.layers, _preconditioner(problem, theta, free)

    def slopes_of(gaps: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(layers, gaps, strict=True)
        return [layer.moments.times(gap).mul_(layer.weight) for layer, gap in pairs]

    delta = problem.matrices(theta.decompress())
    gaps = [own - layer.w0 for layer, own in zip(layers, delta, strict=True)]
    slopes = slopes_of(gaps)  # of half the error by Delta
    error = _dot(gaps, slopes)
    direction, before = [torch.zeros_like(leaf) for leaf in free], 0.0
    for _ in range(ITERATIONS):
        gradients = _pulled_back(theta, free, blocks(problem.array(slopes)))
        steps = [g / p for g, p in zip(gradients, divisors, strict=True)]
        size = _dot(gradients, steps)
        if not size > 0:
            break
        ratio = size / before if before else 0.0
        direction = [ratio * d - s for d, s in zip(direction, steps, strict=True)]
        before = size

        # the minimum along the direction
        ahead = [leaf + d for leaf, d in zip(free, direction, strict=True)]
        moved = problem.matrices(with_free_leaves(theta, ahead).decompress())
        moves = [m - d for m, d in zip(moved, delta, strict=True)]
        turned = slopes_of(moves)
        slope, curvature = _dot(gradients, direction), _dot(moves, turned)
        if not (slope < 0 < curvature):
            break
        t = -slope / curvature
        free = [leaf.add_(d, alpha=t) for leaf, d in zip(free, direction, strict=True)]
        delta = problem.matrices(with_free_leaves(theta, free).decompress())
        slopes = [own.add_(other, alpha=t) for own, other in zip(slopes, turned, strict=True)]
        error += slope * t  # slope < 0
        if -slope * t < ENOUGH * error:
            break
    return with_free_leaves(theta, free)


def _pulled_back(theta: Theta, free: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """(d Delta / d free)' times the gradients by Delta."""
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in free]
        found = blocks(with_free_leaves(theta, leaves).decompress())
        pairs = [(d, g) for d, g in zip(found, gradients, strict=True) if d.requires_grad]
        wanted = torch.autograd.grad(
            [d for d, _ in pairs], leaves, [g.to(d) for d, g in pairs], allow_unused=True
        )
    return [
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(wanted, leaves, strict=True)
    ]


def _preconditioner(problem: "Problem", theta: Theta, free: Sequence[Tensor]) -> list[Tensor]:
    """sum_i d_i (d Delta_i / d f)^2 of each float f, where each Delta_i is a multiple of one float;
    other floats get about that, which is positive."""
    weighed = [
        layer.metric * own
        for layer, own in zip(problem.layers, problem.matrices(theta.decompress()), strict=True)
    ]
    gradients = _pulled_back(theta, free, blocks(problem.array(weighed)))
    found = []
    for leaf, gradient in zip(free, gradients, strict=True):
        p = (gradient / leaf).nan_to_num(0, 0, 0).abs()
        least = p.mean().clamp(min=1e-30) * 1e-3
        found.append(torch.where(p > least, p, p.mean().clamp(min=1e-30)))
    return found


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x * y).sum(dtype=torch.float64)) for x, y in zip(a, b, strict=True))


def with_better_codes(problem: "Problem", theta: Theta) -> Theta | None:
    """One sweep of coordinate descent over the codes: column by column of W, for all rows at once,
    the code of least error with all other weights as they are. The error does not rise.

    Where codes have a price, the code of least error + price, with the code lengths that the
    frequencies of the codes give before the sweep. This sum does not rise, nor does the price when
    the lengths follow the new frequencies.
    """
    coded = index_coded(theta)
    if coded is None or coded.size > 1 or not isinstance(problem.task.compression, ANY_CODES):
        return None
    values = Values.of(coded, problem.task.compression, theta)
    sizes, device = [shape.numel() for shape in problem.shapes], coded.indices.device
    whole = torch.arange(sum(sizes), device=device).split(sizes)

    # which problem of the compression each weight is in, and its code
    numbers = [own.view(shape) for own, shape in zip(whole, problem.shapes, strict=True)]
    order = problem.task.view.forward(numbers).reshape(-1)
    place, codes = torch.empty_like(order), torch.empty_like(coded.indices).view(-1)
    place[order] = torch.arange(len(order), device=device) // coded.indices.shape[-1]
    codes[order] = coded.indices.reshape(-1)

    # each matrix
    found = []
    delta = problem.matrices(theta.decompress())
    for layer, layout, shape, own, at in zip(
        problem.layers, problem.layouts, problem.shapes, delta, whole, strict=True
    ):
        places = layout.matrices(place[at].view(shape)).mT.contiguous()
        code = layout.matrices(codes[at].view(shape)).mT.contiguous()
        mine = values.over(layer.weight)
        for g, h in enumerate(layer.moments.damped):
            gap = (own[g] - layer.w0[g]).mT.contiguous()
            _sweep(h, own[g].mT.contiguous(), gap, places[g], code[g], mine)
        found.append(layout.weight(code.mT, shape).reshape(-1))
    indices = torch.cat(found)[order].view(coded.indices.shape)
    return theta._replace(indices=indices)


class Values(NamedTuple):
    """The values of each problem: `book` (P, K) times `scale` (P,), or those of a grid of the
    integers 0 to `top` less `zero`, times `scale`. `prices` (P, K) of the values of a book, in
    units of the squared error, where they have any."""

    book: Tensor | None
    scale: Tensor
    zero: Tensor
    top: int
    prices: Tensor | None = None

    @staticmethod
    def of(coded: IndexCoded, compression: Any, theta: Theta) -> "Values":
        count = coded.indices.shape[:-1].numel()
        if coded.values is not None:
            book = coded.values.expand(count, -1)
            if coded.scale is not None:
                book = book * coded.scale.expand(count).unsqueeze(-1)
            prices = _prices(compression, theta, book)
            return Values(book.contiguous(), book[:0, 0], book[:0, 0], 0, prices)
        assert coded.scale is not None
        assert coded.zero_point is not None
        zero = coded.zero_point.to(coded.scale.dtype)
        return Values(None, coded.scale, zero, 2**compression.bits - 1)

    def over(self, weight: float) -> "Values":
        """The same values, for squared errors that have this weight."""
        return self if self.prices is None else self._replace(prices=self.prices / weight)

    def nearest(self, target: Tensor, problem: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The code of the value nearest to each target in its problem, and the value: that of
        least h (v - t)^2 + price where values have prices."""
        if self.book is not None:
            own = self.book.index_select(0, problem)
            cost = (own - target.unsqueeze(-1)).abs_()
            if self.prices is not None:
                cost = cost.square_().add_(self.prices.index_select(0, problem) / h)
            code = cost.argmin(-1)
            return code, own.gather(-1, code.unsqueeze(-1)).squeeze(-1)
        scale, zero = self.scale.index_select(0, problem), self.zero.index_select(0, problem)
        code = (target / scale).add_(zero).nan_to_num_(0.0).round_().clamp_(0, self.top)
        return code, (code - zero).mul_(scale)


def _prices(compression: Any, theta: Theta, book: Tensor) -> Tensor | None:
    """2 alpha l_j of each code, l_j = -log2 of its frequency; infinite for a code not in use."""
    if not isinstance(compression, EntropyCodebook):
        return None
    counts = counts_of(cast(Any, theta)).to(book.dtype)
    lengths = -torch.log2(counts / counts.sum(-1, keepdim=True))
    return torch.where(counts > 0, 2 * compression.alpha * lengths, torch.inf)


def _sweep(
    h: Tensor, value: Tensor, gap: Tensor, problem: Tensor, code: Tensor, values: Values
) -> None:
    """Coordinate descent over the inputs of one matrix, all transposed (in, out): `value` of Delta,
    `gap` to the trained weights, `code` are changed in place.

    The residual H gap of a run of inputs is made anew when the run begins.
    """
    for first in range(0, len(h), RUN):
        run = slice(first, first + RUN)
        local, residual = h[run, run], h[run] @ gap
        for j in range(len(local)):
            i = first + j
            target = torch.sub(value[i], residual[j] / local[j, j])
            found, new = values.nearest(target, problem[i], local[j, j])
            code[i] = found
            moved = new.sub_(value[i])
            gap[i] += moved
            residual[j + 1 :].addr_(local[j, j + 1 :], moved)

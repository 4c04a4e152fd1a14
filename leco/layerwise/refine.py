"""After the last step: Theta's floats by conjugate gradients, its codes by coordinate descent, both
in H."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leco.compressions.codebooks import Codebook
from leco.compressions.grids import Uniform
from leco.compressions.quantization import Binary, FixedCodebook, PowersOfTwo, Ternary
from leco.theta import Affine, Theta
from leco.theta.index_coded import index_coded
from leco.theta.tree import free_leaves, with_free_leaves
from leco.views import blocks

if TYPE_CHECKING:
    from leco.layerwise.quadratic import Layer
    from leco.layerwise.solve import Problem

ITERATIONS = 20  # of conjugate gradients, at most
ENOUGH = 1e-4  # of the error: an iteration that gains less is the last
ROUNDS = 4  # of coordinate descent and conjugate gradients in turn
GAIN = 1e-3  # of the objective in a round, below which no other round is made
COLUMNS = 64  # whose codes are found before the residual of the others follows
ANY_CODES = (Uniform, Codebook, FixedCodebook, PowersOfTwo, Binary, Ternary)
"""Compressions whose set has every assignment of codes."""


def refined(problem: "Problem", theta: Theta) -> Theta:
    """A Theta of the set whose objective is at most that of `theta`."""
    problem.take(theta)
    best, least = theta, problem.objective(theta)
    for _ in range(ROUNDS):
        before = least
        for change in (with_better_codes, with_better_floats):
            found = change(problem, best)
            if found is None:
                continue
            found = problem.task.compression.feasible(found)
            problem.take(found)
            objective = problem.objective(found)
            if objective < least:
                best, least = found, objective
        if not least < before * (1 - GAIN) or not isinstance(problem.task.compression, ANY_CODES):
            break
    return best


def with_better_floats(problem: "Problem", theta: Theta) -> Theta | None:
    """The floats of least error for the discrete choices of Theta, by conjugate gradients with a
    diagonal preconditioner; a descent where Delta is not linear in them."""
    free = [leaf.detach().clone() for leaf in free_leaves(theta)]
    if not free or not sum(leaf.numel() for leaf in free):
        return None
    layers, divisors = problem.layers, _preconditioner(problem, theta, free)
    delta = problem.matrices(theta.decompress())
    gaps = [layer.moments.rotated(d) - layer.trained for layer, d in zip(layers, delta, strict=True)]
    direction, before = [torch.zeros_like(leaf) for leaf in free], 0.0
    for _ in range(ITERATIONS):
        error = _curvature(layers, gaps)
        gradients = _gradient(problem, theta, free, gaps)
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
        turned = [
            layer.moments.rotated(m - d)
            for layer, m, d in zip(layers, moved, delta, strict=True)
        ]
        slope, curvature = _dot(gradients, direction), _curvature(layers, turned)
        if not (slope < 0 < curvature):
            break
        t = -slope / curvature
        free = [leaf.add_(d, alpha=t) for leaf, d in zip(free, direction, strict=True)]
        delta = problem.matrices(with_free_leaves(theta, free).decompress())
        gaps = [gap.add_(own, alpha=t) for gap, own in zip(gaps, turned, strict=True)]
        if -slope * t < ENOUGH * error:
            break
    return with_free_leaves(theta, free)


def _gradient(
    problem: "Problem", theta: Theta, free: Sequence[Tensor], gaps: Sequence[Tensor]
) -> list[Tensor]:
    """d/d free of half the layers' errors, from (Delta - W0)~ Q."""
    gradients = []
    for layer, gap in zip(problem.layers, gaps, strict=True):
        slope = layer.s * gap
        if layer.moments.q is not None:
            slope = slope @ layer.moments.q.mT
        gradients.append(slope.mul_(layer.weight * layer.moments.root.unsqueeze(-2)))
    return _pulled_back(theta, free, blocks(problem.array(gradients)))


def _pulled_back(
    theta: Theta, free: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor]:
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


def _curvature(layers: Sequence["Layer"], turned: Sequence[Tensor]) -> float:
    return sum(
        layer.weight * float((layer.s * own.square()).sum(dtype=torch.float64))
        for layer, own in zip(layers, turned, strict=True)
    )


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x * y).sum(dtype=torch.float64)) for x, y in zip(a, b, strict=True))


def with_better_codes(problem: "Problem", theta: Theta) -> Theta | None:
    """One sweep of coordinate descent over the codes: column by column of W, for all rows at once,
    the code of least error with all other weights as they are. The error does not rise."""
    coded = index_coded(theta)
    if coded is None or coded.size > 1 or not isinstance(problem.task.compression, ANY_CODES):
        return None
    theta_: Any = theta
    n = coded.indices.shape[-1]
    scale = coded.scale if coded.scale is not None else None

    # which problem and code each weight has
    sizes = [shape.numel() for shape in problem.shapes]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    device = coded.indices.device
    numbers = [
        torch.arange(end - size, end, device=device).view(shape)
        for size, end, shape in zip(sizes, ends, problem.shapes, strict=True)
    ]
    order = problem.task.view.forward(numbers).reshape(-1)
    of = torch.empty_like(order)
    of[order] = torch.arange(len(order), device=device) // n
    codes = torch.empty(len(order), dtype=coded.indices.dtype, device=device)
    codes[order] = coded.indices.reshape(-1)

    # the values of each problem
    count = coded.indices.numel() // n
    top = None
    if coded.values is None:
        assert isinstance(theta, Affine) and isinstance(problem.task.compression, Uniform)
        top = 2**problem.task.compression.bits - 1
        book = None
    else:
        book = coded.values.expand(count, -1)
        if scale is not None:
            book = book * scale.expand(count).unsqueeze(-1)

    delta = problem.matrices(theta.decompress())
    new = []
    for layer, own, layout, shape, size, end in zip(
        problem.layers, delta, problem.layouts, problem.shapes, sizes, ends, strict=True
    ):
        place = layout.matrices(of[end - size : end].view(shape))
        code = layout.matrices(codes[end - size : end].view(shape)).clone()
        for g in range(len(own)):
            _sweep(layer, g, own[g], place[g], code[g], book, scale, coded.zero_point, top)
        new.append(layout.weight(code, shape).reshape(-1))
    return theta_._replace(indices=torch.cat(new)[order].view(coded.indices.shape))


def _sweep(
    layer: Any,
    g: int,
    own: Tensor,
    place: Tensor,
    code: Tensor,
    book: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
    top: int | None,
) -> None:
    """Coordinate descent over the columns of one matrix: `code` (out, in) is changed in place."""
    h = layer.moments.damped[g]
    trained = layer.moments.straight(layer.trained)[g]
    gap = own - trained
    for first in range(0, own.shape[1], COLUMNS):
        columns = slice(first, first + COLUMNS)
        residual = gap @ h[:, columns]
        local = h[columns, columns]
        for j in range(local.shape[1]):
            c = first + j
            value = own[:, c]
            target = value - residual[:, j] / local[j, j]
            problems = place[:, c]
            if top is not None:
                s, z = scale[problems], zero[problems].to(value.dtype)
                q = (target / torch.where(s == 0, torch.inf, s) + z).round_().clamp_(0, top)
                found = s * (q - z)
            else:
                values = book[problems]
                q = (values - target.unsqueeze(-1)).abs_().argmin(-1)
                found = values.gather(-1, q.unsqueeze(-1)).squeeze(-1)
            code[:, c] = q.to(code.dtype)
            moved = found - value
            gap[:, c] += moved
            residual += moved.unsqueeze(-1) * local[j]

"""Sequences of torch's own layers that have the output of one dense layer.

    low rank, scheme 1        height x width in -> r            | 1 x 1 r -> out
    low rank, scheme 2        1 x width in -> r                 | height x 1 r -> out
    Tucker-2                  1 x 1 in -> r_in                  | height x width r_in -> r_out
                                                                | 1 x 1 r_out -> out
    CP                        1 x 1 in -> r                     | height x 1, then 1 x width,
                                                                depthwise    | 1 x 1 r -> out
    tensor train              1 x 1 in -> r_3                   | 1 x width r_3 -> r_2, height x 1
                                                                -> r_1  | 1 x 1 r_1 -> out

The stride, padding and dilation of each dimension go to the layer whose kernel extends along it,
and the bias to the last layer. With groups, all layers have them, and each group has its own copy
of all kernels but the last (r channels become groups r).
"""

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from leco.modules import linear_like
from leco.theta import (
    ConvFactors,
    CPFactors,
    Factors,
    TrainFactors,
    TuckerFactors,
    mode_product,
    values,
)
from leco.views import Kernel, Matrix, Reshape, Rows, View

ROWS = (Kernel(), Rows(), Matrix())
"""Views whose first dimension is that of the weight."""
COLUMNS = (Kernel((1, 0)), Rows(1), Matrix((1,)))
"""Views of a matrix whose first dimension is the second of the weight."""


def layers_for(module: Any, view: View, theta: Any) -> list[nn.Module]:
    """The layers in the place of `module`; none where the view is not one that they can have."""
    if isinstance(theta, Factors) and linear_like(module) is not None:
        return list(_linear_pair(module, view, theta))
    if linear_like(module) == 1:
        return []
    if isinstance(theta, Factors | ConvFactors):
        return list(_convolutions(module, view, theta))
    if isinstance(theta, TuckerFactors) and view == Kernel():
        return list(_tucker(module, theta))
    if isinstance(theta, CPFactors) and view == Kernel():
        return list(_cp(module, theta))
    if isinstance(theta, TrainFactors):
        return list(_train(module, view, theta))
    return []


def _linear_pair(module: Any, view: View, theta: Factors) -> Iterator[nn.Module]:
    """Of a Linear, or of a Conv1D, whose weight (in, out) may be seen either way round."""
    u, v = values(theta.u), values(theta.v)
    transposed = linear_like(module) == 1
    if u.ndim != 2 or view not in (*ROWS, *(COLUMNS if transposed else ())):
        return
    if transposed and view in ROWS:
        u, v = v.mT, u.mT
    yield layer_like(module, v)
    yield layer_like(module, u, last=True)


def _convolutions(module: Any, view: View, theta: Factors | ConvFactors) -> Iterator[nn.Module]:
    """Two convolutions by one of the two schemes."""
    dims = _dims(module)
    scheme = theta.scheme if isinstance(theta, ConvFactors) else 1
    if values(theta.u).ndim != 2:  # a batch of matrices
        return
    if isinstance(theta, Factors) and view == Matrix((0, 2)) and len(dims) == 2:
        scheme = 2
    elif view not in ROWS:
        return
    yield from _low_rank(module, values(theta.u), values(theta.v), scheme)


def _tucker(module: Any, theta: TuckerFactors) -> Iterator[nn.Module]:
    core, (last, *factors) = values(theta.core), [values(u) for u in theta.factors]
    for d, factor in enumerate(factors[1:]):
        core = mode_product(core, factor, d + 2)
    if factors:
        yield layer_like(module, factors[0].mT)
    yield layer_like(module, core, _dims(module))
    yield layer_like(module, last, last=True)


def _cp(module: Any, theta: CPFactors) -> Iterator[nn.Module]:
    last, first, *along = (values(a) for a in theta.factors)
    yield layer_like(module, first.mT)
    for d, factor in zip(_dims(module), along, strict=True):
        kernel = _stretched(factor.mT.unsqueeze(1), d, _dims(module))
        yield layer_like(module, kernel, (d,), groups=factor.shape[1])
    yield layer_like(module, last, last=True)


def _train(module: Any, view: View, theta: TrainFactors) -> Iterator[nn.Module]:
    """A layer for each core; over a `Reshape`, the pair of the bond behind `out`."""
    dims, cores = _dims(module), [values(core) for core in theta.cores]
    channels_last = (0, *(d + 2 for d in dims), 1)
    if view == Kernel(channels_last) or (not dims and view == Kernel()):
        last, *along, first = cores
        yield layer_like(module, first.squeeze(2))
        for d, core in zip(reversed(dims), reversed(along), strict=True):
            yield layer_like(module, _stretched(core.mT, d, dims), (d,))
        yield layer_like(module, last.squeeze(0), last=True)
    elif isinstance(view, Reshape):
        out, sizes = len(module.weight), view.sizes
        bonds = (k for k in range(1, len(cores)) if math.prod(sizes[:k]) == out)
        split = next(bonds, None)
        if split is not None:
            u, v = (
                reduce(lambda a, b: torch.tensordot(a, b, 1), part)
                for part in (cores[:split], cores[split:])
            )
            yield from _low_rank(module, u.flatten(0, -2), v.flatten(1), 1)


def _dims(module: Any) -> tuple[int, ...]:
    """The dimensions of a convolution's kernel; none of a Linear."""
    return tuple(range(module.weight.ndim - 2))


def _low_rank(module: Any, u: Tensor, v: Tensor, scheme: int) -> Iterator[nn.Module]:
    sizes = module.weight.shape
    if scheme == 1:
        yield layer_like(module, v.unflatten(1, sizes[1:]), _dims(module))
        yield layer_like(module, u, last=True)
    else:
        kernel = u.unflatten(0, (sizes[0], sizes[2], 1)).movedim(-1, 1)
        yield layer_like(module, v.unflatten(1, (sizes[1], 1, sizes[3])), (1,))
        yield layer_like(module, kernel, (0,), last=True)


def _stretched(weight: Tensor, dim: int, dims: tuple[int, ...]) -> Tensor:
    """(out, in, length) as a kernel that extends along one of `dims`."""
    return weight.reshape(*weight.shape[:2], *(weight.shape[2] if d == dim else 1 for d in dims))


def layer_like(
    module: Any, weight: Tensor, along: tuple[int, ...] = (), groups: int = 1, last: bool = False
) -> nn.Module:
    """A layer of the kind of `module` (a Linear for a Conv1D), with a weight of one of its groups.

    Args:
        weight: (out, in / groups, ...). A matrix is a 1 x 1 kernel.
        along: the dimensions that have `module`'s stride, padding and dilation.
        last: the layer has all groups' weights, and a place for the bias.
    """
    bias = last and module.bias is not None
    if linear_like(module) is not None:
        layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")
    else:
        weight = weight.reshape(*weight.shape, *[1] * (module.weight.ndim - weight.ndim))
        if not last:
            weight = weight.repeat(module.groups, *[1] * (weight.ndim - 1))
        layer = _convolution(module, weight, along, groups * module.groups, bias)
    own = weight.detach().to(module.weight, copy=True).contiguous()
    layer.weight = nn.Parameter(own, module.weight.requires_grad)
    return layer


def _convolution(
    module: Any, weight: Tensor, along: tuple[int, ...], groups: int, bias: bool
) -> nn.Module:
    """A convolution on the meta device for this weight, with some of the options of `module`."""

    def option(values: tuple[int, ...], none: int) -> tuple[int, ...]:
        return tuple(value if d in along else none for d, value in enumerate(values))

    padding = module.padding
    return type(module)(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=option(module.stride, 1),
        padding=padding if isinstance(padding, str) else option(padding, 0),
        dilation=option(module.dilation, 1),
        groups=groups,
        bias=bias,
        padding_mode=module.padding_mode,
        device="meta",
    )

"""Layers that compute from a Theta, with no dense weight: sequences of torch's own layers that have the dense layer's output.

    low rank, scheme 1        height x width in -> r            | 1 x 1 r -> out
    low rank, scheme 2        1 x width in -> r                 | height x 1 r -> out
    Tucker-2                  1 x 1 in -> r_in                  | height x width r_in -> r_out             | 1 x 1 r_out -> out
    CP                        1 x 1 in -> r                     | height x 1, then 1 x width, depthwise    | 1 x 1 r -> out
    tensor train              1 x 1 in -> r_3                   | 1 x width r_3 -> r_2, height x 1 -> r_1  | 1 x 1 r_1 -> out

The stride, padding and dilation of each dimension go to the layer whose kernel extends along it; the bias to the last layer.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm import LC
from leco.nested import leaves
from leco.theta import ConvFactors, CPFactors, Factors, Theta, TrainFactors, TuckerFactors, mode_product, values
from leco.views import Kernel, Matrix, Reshape, Rows, View

FACTORED = (Factors, ConvFactors, TuckerFactors, CPFactors, TrainFactors)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def factorize(model: nn.Module, compressed: LC | Mapping[str, tuple[View, Theta]]) -> nn.Module:
    """A copy of `model` at w = Delta(Theta) in which each layer whose weight alone is a factored Theta is a sequence of smaller layers.

    Factored are low-rank, Tucker, CP and tensor-train Thetas of the weight of an nn.Linear, Conv1d, Conv2d or Conv3d, in these views:
    `Matrix()`, `Matrix((0, 2))` and `Rows()` for low rank, `Kernel()`, and for a tensor train `Kernel((0, 2, 3, 1))`: (out, height, width, in).
    A tensor train over a `Reshape` whose first sizes have the product `out` is a low-rank pair, of the rank of the bond behind them.
    Other layers keep their class, and have Delta(Theta) as their weight: so does one whose weight is tied, or whose ranks are 0.

    Args:
        model: the net of `compressed`, or one with the same parameters; it is not changed.
        compressed: an `LC` that has its Thetas, or views and Thetas by parameter name.

    Raises:
        ValueError: a factored weight of a convolution with groups.

    >>> import leco, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    >>> lc = leco.LC(model, leco.each(["0.weight"], leco.Matrix(), leco.LowRank(5)))
    >>> lc.mu = 1.0
    >>> leco.factorize(model, lc)[0]
    Sequential(
      (0): Linear(in_features=100, out_features=5, bias=False)
      (1): Linear(in_features=5, out_features=50, bias=True)
    )
    """
    net = copy.deepcopy(model)
    if isinstance(compressed, LC):
        deltas = compressed.delta
        seen = {names[0]: (compressed.tasks[task].view, compressed.thetas[task]) for task, names in compressed.names.items() if len(names) == 1}
    else:
        seen = dict(compressed)
        shapes = {name: net.get_parameter(name).shape for name in seen}
        deltas = {name: view.backward(theta.decompress(), [shapes[name]])[0] for name, (view, theta) in seen.items()}
    with torch.no_grad():
        for name, delta in deltas.items():
            net.get_parameter(name).copy_(delta)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, (view, theta) in seen.items():
        weight = net.get_parameter(name)
        users = [module for module in net.modules() if any(p is weight for p in module.parameters(recurse=False))]
        if isinstance(theta, FACTORED) and all(leaf.numel() for leaf in leaves(theta)) and len(users) == 1 and type(users[0]) in LAYERS:
            layers = list(_layers(name, users[0], view, theta))
            if layers:
                replaced[users[0]] = nn.Sequential(*layers).train(users[0].training)
    for parent in list(net.modules()):
        for child, module in parent.named_children():
            if module in replaced:
                setattr(parent, child, replaced[module])
    return replaced.get(net, net)


def _layers(name: str, module: Any, view: View, theta: Any) -> Iterator[nn.Module]:
    """The layers in the place of `module`; none where the view is not one that they can have."""
    if getattr(module, "groups", 1) > 1:
        raise ValueError(f"factorize: the layer of {name!r} has groups = {module.groups} must be 1")
    dims = tuple(range(module.weight.ndim - 2))
    channels_last = (0, *(d + 2 for d in dims), 1)
    if isinstance(theta, Factors | ConvFactors):
        scheme = theta.scheme if isinstance(theta, ConvFactors) else 1
        if values(theta.u).ndim != 2:  # a batch of matrices
            return
        if isinstance(theta, Factors) and view == Matrix((0, 2)) and len(dims) == 2:
            scheme = 2
        elif view not in (Kernel(), Rows(), Matrix()):
            return
        yield from _low_rank(module, values(theta.u), values(theta.v), scheme, dims)
    elif isinstance(theta, TuckerFactors) and view == Kernel():
        core, (last, *factors) = values(theta.core), [values(u) for u in theta.factors]
        for d, factor in enumerate(factors[1:]):
            core = mode_product(core, factor, d + 2)
        if factors:
            yield _layer(module, factors[0].mT)
        yield _layer(module, core, dims)
        yield _layer(module, last, bias=True)
    elif isinstance(theta, CPFactors) and view == Kernel():
        last, first, *along = (values(a) for a in theta.factors)
        yield _layer(module, first.mT)
        for d, factor in zip(dims, along, strict=True):
            yield _layer(module, _stretched(factor.mT.unsqueeze(1), d, dims), (d,), groups=factor.shape[1])
        yield _layer(module, last, bias=True)
    elif isinstance(theta, TrainFactors) and (view == Kernel(channels_last) or (not dims and view == Kernel())):
        last, *along, first = (values(core) for core in theta.cores)
        yield _layer(module, first.squeeze(2))
        for d, core in zip(reversed(dims), reversed(along), strict=True):
            yield _layer(module, _stretched(core.mT, d, dims), (d,))
        yield _layer(module, last.squeeze(0), bias=True)
    elif isinstance(theta, TrainFactors) and isinstance(view, Reshape):
        sizes, cores = view.sizes, [values(core) for core in theta.cores]
        split = next((k for k in range(1, len(cores)) if math.prod(sizes[:k]) == len(module.weight)), None)
        if split is not None:
            u, v = (reduce(lambda a, b: torch.tensordot(a, b, 1), part) for part in (cores[:split], cores[split:]))
            yield from _low_rank(module, u.flatten(0, -2), v.flatten(1), 1, dims)


def _low_rank(module: Any, u: Tensor, v: Tensor, scheme: int, dims: tuple[int, ...]) -> Iterator[nn.Module]:
    sizes = module.weight.shape
    if scheme == 1:
        yield _layer(module, v.unflatten(1, sizes[1:]), dims)
        yield _layer(module, u, bias=True)
    else:
        yield _layer(module, v.unflatten(1, (sizes[1], 1, sizes[3])), (1,))
        yield _layer(module, u.unflatten(0, (sizes[0], sizes[2], 1)).movedim(-1, 1), (0,), bias=True)


def _stretched(weight: Tensor, dim: int, dims: tuple[int, ...]) -> Tensor:
    """(out, in, length) as a kernel that extends along one of `dims`."""
    return weight.reshape(*weight.shape[:2], *(weight.shape[2] if d == dim else 1 for d in dims))


def _layer(module: Any, weight: Tensor, along: tuple[int, ...] = (), groups: int = 1, bias: bool = False) -> nn.Module:
    """A layer of the kind of `module`, with `weight` (out, in / groups, ...), `module`'s stride, padding and dilation `along` some
    dimensions, and its bias or none. A matrix is a 1 x 1 kernel."""
    own = module.bias if bias else None
    if isinstance(module, nn.Linear):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=own is not None, device="meta")
    else:
        weight = weight.reshape(*weight.shape, *[1] * (module.weight.ndim - weight.ndim))

        def option(values: tuple[int, ...], none: int) -> tuple[int, ...]:
            return tuple(value if d in along else none for d, value in enumerate(values))

        layer = type(module)(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=option(module.stride, 1),
            padding=module.padding if isinstance(module.padding, str) else option(module.padding, 0),
            dilation=option(module.dilation, 1),
            groups=groups,
            bias=own is not None,
            padding_mode=module.padding_mode,
            device="meta",
        )
    layer.weight = nn.Parameter(weight.detach().to(module.weight, copy=True).contiguous())
    if own is not None:
        layer.bias = own
    return layer

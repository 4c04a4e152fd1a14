"""Layers that compute from a Theta, with no dense weight: sequences of torch's own layers that have
the dense layer's output.

    low rank, scheme 1        height x width in -> r            | 1 x 1 r -> out
    low rank, scheme 2        1 x width in -> r                 | height x 1 r -> out
    Tucker-2                  1 x 1 in -> r_in                  | height x width r_in -> r_out
                                                                | 1 x 1 r_out -> out
    CP                        1 x 1 in -> r                     | height x 1, then 1 x width,
                                                                depthwise    | 1 x 1 r -> out
    tensor train              1 x 1 in -> r_3                   | 1 x width r_3 -> r_2, height x 1
                                                                -> r_1  | 1 x 1 r_1 -> out

The stride, padding and dilation of each dimension go to the layer whose kernel extends along it;
the bias to the last layer. With groups, all layers have them, and each group its own copy of all
kernels but the last (r channels become groups r).
"""

import copy
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.theta import (
    ConvFactors,
    CPFactors,
    Factors,
    TrainFactors,
    TuckerFactors,
    mode_product,
    values,
)
from leco.theta.tree import leaves
from leco.views import Kernel, Matrix, Reshape, Rows, View

FACTORED = (Factors, ConvFactors, TuckerFactors, CPFactors, TrainFactors)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def factorize(model: nn.Module, compressed: LC | Mapping[str, Compressed]) -> nn.Module:
    """A copy of `model` at w = Delta(Theta) in which each layer whose weight alone is a factored
    Theta is a sequence of smaller layers.

    Factored are low-rank, Tucker, CP and tensor-train Thetas of the weight of an nn.Linear, Conv1d,
    Conv2d or Conv3d, in these views: `Matrix()`, `Matrix((0, 2))` and `Rows()` for low rank,
    `Kernel()`, and for a tensor train `Kernel((0, 2, 3, 1))`: (out, height, width, in). A tensor
    train over a `Reshape` whose first sizes have the product `out` is a low-rank pair, of the rank
    of the bond behind them. Other layers keep their class, and have Delta(Theta) as their weight:
    so does one whose weight is tied, or whose ranks are 0.

    Args:
        model: the net of `compressed`, or one with the same parameters; it is not changed, and
            dense weights that are replaced are not copied.
        compressed: an `LC` that has its Thetas, or the tasks of a file (`leco.thetas`).

    >>> import leco, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    >>> lc = leco.LC(model, leco.each(["0.weight"], leco.Matrix(), leco.LowRank(5)))
    >>> lc.mu = 1.0
    >>> leco.factorize(model, lc)[0]
    FactoredLinear(
      (0): Linear(in_features=100, out_features=5, bias=False)
      (1): Linear(in_features=5, out_features=50, bias=True)
    )
    """
    tasks = compressed_tasks(compressed)
    replaced = {
        module: layers for task in tasks.values() for module, layers in factored(model, task)
    }
    gone = {id(module.weight) for module in replaced}
    weights = {}
    for task in tasks.values():
        if any(id(model.get_parameter(name)) not in gone for name in task.shapes):
            weights |= task.deltas()
    return rebuilt(model, replaced, weights)


def factored(model: nn.Module, task: Compressed) -> Iterator[tuple[Any, nn.Sequential]]:
    """The layer of `model` whose weight is the task's, and the layers that can stand in its place;
    nothing where there are none."""
    name, *others = task.shapes
    if (
        others
        or not isinstance(task.theta, FACTORED)
        or not all(leaf.numel() for leaf in leaves(task.theta))
    ):
        return
    users = users_of(model, name)
    if len(users) == 1 and type(users[0][0]) in LAYERS:
        layers = list(_layers(users[0][0], task.view, task.theta))
        if layers:
            yield (
                users[0][0],
                (FactoredLinear if isinstance(layers[0], nn.Linear) else nn.Sequential)(*layers),
            )


class FactoredLinear(nn.Sequential):
    """Linear layers in the place of one. `weight`, their product, is for code that reads it: the
    fast path of nn.TransformerEncoderLayer."""

    @property
    def weight(self) -> Tensor:
        first, *others = cast(Iterator[Any], self)
        return reduce(lambda product, layer: layer.weight @ product, others, first.weight)

    @property
    def bias(self) -> Tensor | None:
        return cast(Any, self)[-1].bias


def users_of(model: nn.Module, name: str) -> list[tuple[Any, str]]:
    """The modules that have the parameter `name`, each with its own name for it."""
    weight = model.get_parameter(name)
    return [
        (module, own)
        for module in model.modules()
        for own, p in module._parameters.items()
        if p is weight
    ]


def rebuilt(
    model: nn.Module, replaced: Mapping[Any, nn.Module], weights: Mapping[str, Tensor]
) -> nn.Module:
    """A copy of `model` with other modules in some places, and other values of some parameters;
    what is replaced is not copied.

    A new module takes over the `bias` of the one that it replaces where it, or its last layer, has
    one on the meta device.
    """
    copied: dict[int, Any] = {}  # deepcopy takes from here what it finds here
    for name, value in weights.items():
        weight = model.get_parameter(name)
        if id(weight) not in {id(module.weight) for module in replaced}:
            copied[id(weight)] = nn.Parameter(
                value.detach().to(weight, copy=True).contiguous(), weight.requires_grad
            )
    for module, new in replaced.items():
        layer: Any = new[-1] if isinstance(new, nn.Sequential) else new
        if getattr(module, "bias", None) is not None:
            layer.bias = copy.deepcopy(module.bias, copied)
        copied[id(module)] = new.train(module.training)
    return copy.deepcopy(model, copied)


def _layers(module: Any, view: View, theta: Any) -> Iterator[nn.Module]:
    """The layers in the place of `module`; none where the view is not one that they can have."""
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
        yield _layer(module, last, last=True)
    elif isinstance(theta, CPFactors) and view == Kernel():
        last, first, *along = (values(a) for a in theta.factors)
        yield _layer(module, first.mT)
        for d, factor in zip(dims, along, strict=True):
            yield _layer(
                module, _stretched(factor.mT.unsqueeze(1), d, dims), (d,), groups=factor.shape[1]
            )
        yield _layer(module, last, last=True)
    elif isinstance(theta, TrainFactors) and (
        view == Kernel(channels_last) or (not dims and view == Kernel())
    ):
        last, *along, first = (values(core) for core in theta.cores)
        yield _layer(module, first.squeeze(2))
        for d, core in zip(reversed(dims), reversed(along), strict=True):
            yield _layer(module, _stretched(core.mT, d, dims), (d,))
        yield _layer(module, last.squeeze(0), last=True)
    elif isinstance(theta, TrainFactors) and isinstance(view, Reshape):
        sizes, cores = view.sizes, [values(core) for core in theta.cores]
        split = next(
            (k for k in range(1, len(cores)) if math.prod(sizes[:k]) == len(module.weight)), None
        )
        if split is not None:
            u, v = (
                reduce(lambda a, b: torch.tensordot(a, b, 1), part)
                for part in (cores[:split], cores[split:])
            )
            yield from _low_rank(module, u.flatten(0, -2), v.flatten(1), 1, dims)


def _low_rank(
    module: Any, u: Tensor, v: Tensor, scheme: int, dims: tuple[int, ...]
) -> Iterator[nn.Module]:
    sizes = module.weight.shape
    if scheme == 1:
        yield _layer(module, v.unflatten(1, sizes[1:]), dims)
        yield _layer(module, u, last=True)
    else:
        yield _layer(module, v.unflatten(1, (sizes[1], 1, sizes[3])), (1,))
        yield _layer(
            module, u.unflatten(0, (sizes[0], sizes[2], 1)).movedim(-1, 1), (0,), last=True
        )


def _stretched(weight: Tensor, dim: int, dims: tuple[int, ...]) -> Tensor:
    """(out, in, length) as a kernel that extends along one of `dims`."""
    return weight.reshape(*weight.shape[:2], *(weight.shape[2] if d == dim else 1 for d in dims))


def _layer(
    module: Any, weight: Tensor, along: tuple[int, ...] = (), groups: int = 1, last: bool = False
) -> nn.Module:
    """A layer of the kind of `module`, with `weight` (out, in / groups, ...) of one of its groups,
    and `module`'s stride, padding and dilation `along` some dimensions. A matrix is a 1 x 1 kernel.
    The last layer has all groups' weights, and a place for the bias."""
    bias = last and module.bias is not None
    if isinstance(module, nn.Linear):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")
    else:
        weight = weight.reshape(*weight.shape, *[1] * (module.weight.ndim - weight.ndim))
        weight, groups = (
            weight if last else weight.repeat(module.groups, *[1] * (weight.ndim - 1)),
            groups * module.groups,
        )

        def option(values: tuple[int, ...], none: int) -> tuple[int, ...]:
            return tuple(value if d in along else none for d, value in enumerate(values))

        layer = type(module)(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=option(module.stride, 1),
            padding=module.padding
            if isinstance(module.padding, str)
            else option(module.padding, 0),
            dilation=option(module.dilation, 1),
            groups=groups,
            bias=bias,
            padding_mode=module.padding_mode,
            device="meta",
        )
    layer.weight = nn.Parameter(
        weight.detach().to(module.weight, copy=True).contiguous(), module.weight.requires_grad
    )
    return layer

"""A net with sequences of smaller layers in the place of layers with a factored Theta."""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, cast

from torch import Tensor, nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.layers.replace import not_replaceable, rebuilt, users_of
from leco.layers.sequences import layers_for
from leco.modules import check_copyable, is_conv1d, linear_like
from leco.theta import ConvFactors, CPFactors, Factors, TrainFactors, TuckerFactors
from leco.theta.tree import leaves

FACTORED = (Factors, ConvFactors, TuckerFactors, CPFactors, TrainFactors)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def factorize(model: nn.Module, compressed: LC | Mapping[str, Compressed]) -> nn.Module:
    """A copy of `model` at w = Delta(Theta) in which each layer whose weight alone is a factored
    Theta is a sequence of smaller layers.

    Factored are low-rank, Tucker, CP and tensor-train Thetas of the weight of an nn.Linear, Conv1d,
    Conv2d or Conv3d, in these views: `Matrix()`, `Matrix((0, 2))` and `Rows()` for low rank,
    `Kernel()`, and for a tensor train `Kernel((0, 2, 3, 1))`: (out, height, width, in). A tensor
    train over a `Reshape` whose first sizes have the product `out` is a low-rank pair, of the rank
    of the bond behind them. A low-rank weight (in, out) of transformers' Conv1D, in these views or
    in `Matrix((1,))` and `Rows(1)`, becomes two Linear layers.

    Other layers keep their class, and have Delta(Theta) as their weight: `unfactored` says which
    and why. A sequence takes over the hooks, buffers and attributes of the layer that it replaces.
    A layer with hooks of its `state_dict` stays dense, as they know the names of its weights.

    Args:
        model: the net of `compressed`, or one with the same parameters; it is not changed, and
            dense weights that are replaced are not copied.
        compressed: an `LC` that has its Thetas, or the tasks of a file (`leco.thetas`).

    Raises:
        ValueError: a weight that weight_norm or pruning computes.

    >>> import leco, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.ReLU())
    >>> lc = leco.LC(model, leco.each(["0.weight"], leco.Matrix(), leco.LowRank(5)))
    >>> lc.mu = 1.0
    >>> leco.factorize(model, lc)[0]
    FactoredLinear(
      (0): Linear(in_features=100, out_features=5, bias=False)
      (1): Linear(in_features=5, out_features=50, bias=True)
    )
    """
    check_copyable("factorize", model)
    replaced: dict[Any, nn.Module] = {}
    weights: dict[str, Tensor] = {}
    for task in compressed_tasks(compressed).values():
        found = factored(model, task)
        if isinstance(found, str):
            weights |= task.deltas()
        else:
            replaced |= found
    return rebuilt(model, replaced, weights)


def unfactored(model: nn.Module, compressed: LC | Mapping[str, Compressed]) -> dict[str, str]:
    """The compressed parameters that `factorize` leaves dense, each with the reason.

    >>> import leco, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> lc = leco.LC(model, leco.each(["weight"], leco.Vector(), leco.Binary()))
    >>> lc.mu = 1.0
    >>> leco.layers.factorize.unfactored(model, lc)
    {'weight': 'is a Scaled, which is no product of factors'}
    """
    reasons: dict[str, str] = {}
    for task in compressed_tasks(compressed).values():
        found = factored(model, task)
        if isinstance(found, str):
            reasons |= dict.fromkeys(task.shapes, found)
    return reasons


def factored(model: nn.Module, task: Compressed) -> dict[Any, nn.Module] | str:
    """The layer of `model` whose weight is the task's, with the layers that can stand in its place;
    or why there are none."""
    # the Theta
    name, *others = task.shapes
    form = type(task.theta).__name__
    if not isinstance(task.theta, FACTORED):
        return f"is a {form}, which is no product of factors"
    if others:
        return f"stands in one {form} with other parameters"
    if not all(leaf.numel() for leaf in leaves(task.theta)):
        return "has rank 0"

    # the layer
    users = users_of(model, name)
    layer, own = users[0]
    kind = type(layer).__name__
    if len(users) > 1:
        return f"is shared by {len(users)} layers"
    if own != "weight" or not (type(layer) in LAYERS or is_conv1d(type(layer))):
        return f"is the {own} of a {kind}"
    reason = not_replaceable(layer)
    if reason:
        return reason

    layers = layers_for(layer, task.view, task.theta)
    if not layers:
        return f"is a {form} seen through {task.view}, which no sequence of a {kind} computes"
    return {layer: _sequence(layer, layers)}


def _sequence(layer: nn.Module, layers: list[nn.Module]) -> nn.Sequential:
    if linear_like(layer) is None:
        return nn.Sequential(*layers)
    return (FactoredConv1D if linear_like(layer) else FactoredLinear)(*layers)


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


class FactoredConv1D(FactoredLinear):
    """Linear layers in the place of a Conv1D of transformers, whose weight is (in, out)."""

    @property
    def weight(self) -> Tensor:
        return super().weight.mT

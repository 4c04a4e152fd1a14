"""A layer before and after: its tensors, its classes, whether it changed."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from leco.measure.comparison import Change, LayerChange
from leco.measure.latency import Speed
from leco.theta.tree import leaves


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that the module itself holds: parameters, buffers, and attributes such as a cache of
    decoded weights."""
    for held in (module._parameters, module._buffers, vars(module)):
        for value in held.values():
            yield from leaves(value) if isinstance(value, Tensor | tuple) else ()


def memory(module: nn.Module) -> int:
    return sum({id(t): t.nbytes for m in module.modules() for t in own_tensors(m)}.values())


def layer_change(
    name: str,
    before: nn.Module,
    after: nn.Module,
    counts: Sequence[Mapping[str, int]],
    speeds: Mapping[int, Speed],
) -> LayerChange:
    one, other = before.get_submodule(name), after.get_submodule(name)
    states = [dict(net.state_dict()) for net in (one, other)]
    same = type(one) is type(other) and states[0].keys() == states[1].keys()
    same = same and all(
        torch.equal(value, states[1][key])
        for key, value in states[0].items()
        if isinstance(value, Tensor)
    )
    adds = Change(*(count.get(name, 0) for count in counts))
    return LayerChange(
        (_kind(one), _kind(other)),
        not same or adds.before != adds.after,
        Change(memory(one), memory(other)),
        adds,
        speeds,
    )


def _kind(module: nn.Module) -> str:
    if not isinstance(module, nn.Sequential):
        return type(module).__name__
    kinds = [type(layer).__name__ for layer in module]
    return f"{kinds[0]} x {len(kinds)}" if len(set(kinds)) == 1 else " + ".join(kinds)

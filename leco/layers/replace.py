"""A copy of a net with other modules in some places: what a new module takes over from the one that
it replaces."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from leco.layers.packed_many import PackedWeights

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
"""Of a module, what a call of it runs besides its forward. A new module takes these over."""
STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""Hooks that see the names of the weights, which are others in a new module."""
OWN = frozenset(vars(nn.Module()))
"""The attributes of every module."""


Users = dict[int, list[tuple[Any, str]]]


def users(model: nn.Module) -> Users:
    """The modules that have each parameter, by its id, each with its own name for it."""
    found: Users = {}
    for module in model.modules():
        for own, p in module._parameters.items():
            if p is not None:
                found.setdefault(id(p), []).append((module, own))
    return found


def users_of(model: nn.Module, name: str) -> list[tuple[Any, str]]:
    """The modules that have the parameter `name`, each with its own name for it."""
    return users(model)[id(model.get_parameter(name))]


def not_replaceable(module: nn.Module) -> str:
    """Why a sequence of layers can't stand in the place of a layer: it would lose something that
    was added to the layer. "" where it can."""
    if any(vars(module)[hooks] for hooks in STATE_HOOKS):
        return "is of a layer with hooks of its state_dict, which know the names of its weights"
    if module._modules:
        return f"is of a layer that holds other modules: {', '.join(module._modules)}"
    return ""


def rebuilt(
    model: nn.Module, replaced: Mapping[Any, nn.Module], weights: Mapping[str, Tensor]
) -> nn.Module:
    """A copy of `model` with other modules in some places, and other values of some parameters.
    Modules that are replaced are not copied.

    A new module takes over the mode, the hooks, the buffers and the attributes of the one that it
    replaces. It takes over the `bias` where it, or its last layer, has one on the meta device.
    """
    copied = _of_nothing(model)  # deepcopy takes from here what it finds here
    gone = {id(p) for module, new in replaced.items() for p in _gone(module, new)}
    for name, value in weights.items():
        weight = model.get_parameter(name)
        if id(weight) not in gone:
            device = value.device if weight.is_meta else weight.device
            dense = value.detach().to(device, weight.dtype, copy=True).contiguous()
            copied[id(weight)] = nn.Parameter(dense, weight.requires_grad)
    for module, new in replaced.items():
        layer: Any = new[-1] if isinstance(new, nn.Sequential) else new
        if not isinstance(new, PackedWeights) and getattr(module, "bias", None) is not None:
            layer.bias = copy.deepcopy(module.bias, copied)
        copied[id(module)] = new.train(module.training)
    twin = copy.deepcopy(model, copied)
    for module, new in replaced.items():  # what refers to the model now refers to the copy
        _take_over_(new, module, copied)
    return twin


def _of_nothing(model: nn.Module) -> dict[int, Any]:
    """Copies of the empty dictionaries of all modules, by the ids of the originals. A module has a
    dozen of them, which take most of the time of a deepcopy."""
    found: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if type(value) is OrderedDict and not value:
                found[id(value)] = OrderedDict()
    return found


def _gone(module: Any, new: nn.Module) -> list[Tensor]:
    """The weights of a module that the new one does not have."""
    names = new.packed if isinstance(new, PackedWeights) else ("weight",)
    return [module._parameters[name] for name in names if name in module._parameters]


def _take_over_(new: nn.Module, module: nn.Module, copied: dict[int, Any]) -> None:
    """Give `new` copies of all that was added to `module`: hooks, buffers, parameters, modules and
    attributes."""
    for name in HOOKS:
        vars(new)[name] = copy.deepcopy(vars(module)[name], copied)
    for name, value in module._buffers.items():
        persistent = name not in module._non_persistent_buffers_set
        new.register_buffer(name, copy.deepcopy(value, copied), persistent=persistent)
    for name, p in module._parameters.items():
        if name not in (new.packed if isinstance(new, PackedWeights) else ("weight", "bias")):
            new.register_parameter(name, copy.deepcopy(p, copied))
    for name, child in module._modules.items():
        new._modules[name] = copy.deepcopy(child, copied)
    for name, value in vars(module).items():
        if name not in OWN and name != "_flat_weights":  # the list of a recurrent layer's own
            vars(new)[name] = copy.deepcopy(value, copied)

"""States of models and optimizers whose tensors are sharded: as whole tensors, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leco.distributed import is_sharded, sharded_like, whole


def whole_state(state: Any) -> Any:
    """A state with whole tensors in the place of sharded ones. All ranks must call it.

    Args:
        state: dicts, lists and tuples of tensors and other values.
    """
    if isinstance(state, Tensor):
        return whole(state) if is_sharded(state) else state
    if isinstance(state, Mapping):
        return {name: whole_state(value) for name, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(whole_state(value) for value in state)
    return state


def placed_model(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A model's whole state, placed as its parameters are now."""
    own = model.state_dict()
    return {name: _placed(value, own.get(name)) for name, value in state.items()}


def placed_state(part: Any, state: Any) -> Any:
    """An optimizer's whole state, its tensors placed as the parameters that they belong to; other
    states as they are."""
    if not isinstance(part, torch.optim.Optimizer):
        return state
    params = [p for group in part.param_groups for p in group["params"]]
    if not any(is_sharded(p) for p in params):
        return state
    found = {
        index: {name: _placed(value, params[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": found}


def _placed(value: Any, like: Any) -> Any:
    """The value; where it is a tensor of the shape of a sharded one, placed as that."""
    fits = isinstance(value, Tensor) and isinstance(like, Tensor) and value.shape == like.shape
    return sharded_like(value, like) if fits else value

"""What leco must know of other people's modules: linear layers with a transposed weight, and
weights that a module computes from other parameters."""

from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

CONV1D = "transformers.pytorch_utils.Conv1D"
"""The linear layers of GPT-2 and others, y = x W + b with W (in, out). Known by name, so that
transformers need not be installed."""


def linear_like(module: object) -> int | None:
    """The dimension of a linear layer's weight that its outputs run over: 0 for nn.Linear, W (out,
    in); 1 for transformers' Conv1D, W (in, out); None for all other modules.

    >>> from torch import nn
    >>> from leco.modules import linear_like
    >>> linear_like(nn.Linear(3, 2)), linear_like(nn.ReLU())
    (0, None)
    """
    if isinstance(module, nn.Linear):
        return 0
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__}
    return 1 if CONV1D in names else None


def is_conv1d(kind: type) -> bool:
    """Whether a class is transformers' Conv1D itself, no subclass of it."""
    return f"{kind.__module__}.{kind.__qualname__}" == CONV1D


class Computed(NamedTuple):
    """A tensor of a module that is no parameter, but made of other parameters: its name, by what,
    and the call that makes it a parameter again."""

    tensor: str
    by: str
    cure: str


def computed(module: nn.Module) -> list[Computed]:
    """The tensors of a module that torch.nn.utils computes: by weight norm, spectral norm, pruning
    or a parametrization.

    >>> import torch
    >>> from leco.modules import computed
    >>> computed(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2)))[0].tensor
    'weight'
    """
    found = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            cure = f"torch.nn.utils.remove_weight_norm(module, {hook.name!r})"
            found.append(Computed(hook.name, "weight_norm", cure))
        elif isinstance(hook, SpectralNorm):
            cure = f"torch.nn.utils.remove_spectral_norm(module, {hook.name!r})"
            found.append(Computed(hook.name, "spectral_norm", cure))
        elif isinstance(hook, prune.BasePruningMethod):
            cure = f"torch.nn.utils.prune.remove(module, {hook._tensor_name!r})"
            found.append(Computed(hook._tensor_name, "pruning", cure))
    if parametrize.is_parametrized(module):
        parametrizations: nn.ModuleDict = module.parametrizations  # pyright: ignore
        for name in parametrizations:
            cure = f"torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
            found.append(Computed(name, "a parametrization", cure))
    return found


def check_copyable(function: str, model: nn.Module) -> None:
    """Raise ValueError, with the module's name and the cure, where a module's tensor is computed in
    a forward pre-hook: torch can't copy such a module."""
    for name, module in model.named_modules():
        for tensor, by, cure in computed(module):
            if tensor in vars(module):
                raise ValueError(
                    f"{function}: {f'{name}.{tensor}'.lstrip('.')!r} is computed by {by} and is no "
                    f"parameter; call {cure} first"
                )
